"""What a statement reads of a table, as PostgreSQL counts it when it is run once more."""

import json
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from sqlalchemy import Connection, event


class Read(NamedTuple):
    """Of one scan: how often it was begun, and how many rows it looked at in all."""

    scans: int
    rows: int


def of_documents(connection: Connection, work: Callable[[Connection], object]) -> list[list[Read]]:
    """Do work, undo it, and give the scans of `documents` of each statement that reads it."""
    seen: list[tuple[str, Any]] = []
    with connection.engine.connect() as watched:
        event.listen(watched, "before_cursor_execute", lambda *call: seen.append((call[2], call[3])))
        work(watched)
        watched.rollback()
    return [_scans(connection, *one) for one in seen if "FROM documents" in one[0]]


def _scans(connection: Connection, statement: str, parameters: Any) -> list[Read]:
    found = connection.exec_driver_sql(f"EXPLAIN (ANALYZE, FORMAT JSON) {statement}", parameters).scalar_one()
    return list(_within(found[0]["Plan"] if isinstance(found, list) else json.loads(found)[0]["Plan"]))


def _within(plan: dict[str, Any]) -> Iterator[Read]:
    if plan.get("Relation Name") == "documents":
        rows = plan["Actual Rows"] + plan.get("Rows Removed by Filter", 0)
        yield Read(int(plan["Actual Loops"]), int(rows * plan["Actual Loops"]))
    for inner in plan.get("Plans", ()):
        yield from _within(inner)
