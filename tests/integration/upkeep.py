"""What tests of the chores that look after tables and indexes share: rows to wear them out, and blockers."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import Connection

from tests.integration.test_maintenance import tell, value, values
from worker.cli.checks import Finding
from worker.cli.upkeep import judge_upkeep
from worker.db import overview
from worker.db.engine import single_connection_engine
from worker.resources import Resources


def fill_heartbeats(connection: Connection, count: int, kind: str = "search") -> None:
    tell(
        connection,
        """INSERT INTO heartbeats (name, kind, slots, pid)
           SELECT :kind || n, :kind, 1, 1 FROM generate_series(1, :count) n""",
        kind=kind,
        count=count,
    )
    tell(connection, "SELECT pg_stat_force_next_flush()")


def leave_alone(connection: Connection) -> None:
    """Without autovacuum, which would do a chore's work at a moment of its own."""
    for table in values(connection, "SELECT tablename FROM pg_tables WHERE schemaname = 'public'"):
        if table not in {"chunks", "postings"}:
            tell(connection, f"ALTER TABLE {table} SET (autovacuum_enabled = off)")


def bloat_heartbeats(connection: Connection, count: int = 20_000) -> None:
    """Leave the table with an index that is much too large for its few rows."""
    leave_alone(connection)
    fill_heartbeats(connection, count)
    tell(connection, "DELETE FROM heartbeats WHERE slots = 1 AND name NOT LIKE '%00'")
    tell(connection, "VACUUM (ANALYZE) heartbeats")


def outside_the_window(resources: Resources, connection: Connection) -> Resources:
    """Resources whose MAINTENANCE_WINDOW is not now."""
    at = "SELECT to_char(now() AT TIME ZONE 'UTC' + make_interval(mins => :m), 'HH24:MI')"
    begin, end = (value(connection, at, m=minutes) for minutes in (60, 120))
    return Resources(resources.settings.model_copy(update={"maintenance_window": f"{begin}-{end}"}))


@contextmanager
def session(resources: Resources, name: str = "another session") -> Iterator[Connection]:
    engine = single_connection_engine(resources.settings.database_url, name)
    with engine.connect() as opened:
        yield opened
        if not opened.invalidated:
            opened.rollback()


@contextmanager
def member_of(connection: Connection, extension: str, function: str) -> Iterator[None]:
    """Have a function belong to an extension of this name: the servers of the tests come without contrib."""
    tell(
        connection,
        """
        WITH made AS (
            INSERT INTO pg_extension (oid, extname, extowner, extnamespace, extrelocatable, extversion)
            SELECT 99999, :name, 10, 'public'::regnamespace, false, '1' RETURNING oid)
        INSERT INTO pg_depend (classid, objid, objsubid, refclassid, refobjid, refobjsubid, deptype)
        SELECT 'pg_proc'::regclass, CAST(:function AS regprocedure), 0, 'pg_extension'::regclass, oid, 0, 'e'
        FROM made""",
        name=extension,
        function=function,
    )
    yield
    tell(
        connection, "DELETE FROM pg_depend WHERE refobjid = 99999; DELETE FROM pg_extension WHERE oid = 99999"
    )


@contextmanager
def running(work: Callable[[], Any]) -> Iterator[list[BaseException | Any]]:
    """Do work in a thread; what it gave, or raised, is in the list once the block is over."""
    outcome: list[BaseException | Any] = []

    def run() -> None:
        try:
            outcome.append(work())
        except Exception as error:  # noqa: BLE001 -- what it is, the test looks at
            outcome.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    yield outcome
    thread.join(60)
    assert outcome, "it did not end"


def filenode(connection: Connection, relation: str) -> int:
    return int(value(connection, f"SELECT pg_relation_filenode('{relation}')"))


def finding(connection: Connection, name: str) -> Finding:
    """What `ingest doctor` says of the last run of a chore."""
    [found] = [found for found in judge_upkeep(overview.health(connection, 60)) if found.name == name]
    return found
