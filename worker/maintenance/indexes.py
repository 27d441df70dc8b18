"""indexes: every index that should exist does, is valid, sound, used, and no larger than its rows need."""

import time
from functools import partial
from typing import Any

from sqlalchemy.exc import DBAPIError

from worker.db import bloat, indexes, integrity, operations, rebuilds, remaking, vacuums
from worker.db.engine import describe, single_connection_engine
from worker.maintenance.leeway import attempt, hindrance
from worker.maintenance.turn import Turn
from worker.patience import briefly

_CHECK_SECONDS = 60


def run(turn: Turn) -> dict[str, Any]:
    """Give what was found and mended; invalid and missing are those that still are.

    Leftovers of interrupted builds are dropped, indexes of the schema that are gone are made again, B-trees
    are checked where the server has amcheck; what is doubled or unused is named, and a person's to drop.
    """
    connection, settings = turn.connection, turn.settings
    if turn.dry_run:
        to_drop = rebuilds.leftovers(connection, indexes.expected(settings))
        return {"to_drop": to_drop, "to_make": _unusable(turn), **_seen(turn)}
    dropped = rebuilds.drop_leftovers(connection, indexes.expected(settings))
    made, not_made = _remake(turn)
    return {"dropped": dropped, "made": made, "not_made": not_made, **_seen(turn), **_check(turn)}


def _seen(turn: Turn) -> dict[str, Any]:
    connection, settings = turn.connection, turn.settings
    gone = [f"{index} is gone" for index in indexes.absent(connection, settings)]
    unused = indexes.unused(connection)
    return {
        "invalid": indexes.invalid(connection),
        "missing": gone + indexes.missing(connection),
        "oversized": [index.record() for index in bloat.oversized(connection)],
        "sizes_by": bloat.known_by(connection),
        "duplicates": indexes.duplicates(connection, settings),
        "unused": [
            {"index": row.index, "bytes": row.bytes, "since": row.since.isoformat()} for row in unused
        ],
        "without_statistics": vacuums.without_statistics(connection),
    }


def _unusable(turn: Turn) -> list[str]:
    """Name the indexes of the schema that are gone, and those that a build by hand has left invalid."""
    invalid = set(indexes.invalid(turn.connection))
    names = [name for name in indexes.expected(turn.settings) if name in invalid]
    found = [remaking.definition(turn.settings, name) for name in names]
    plain = [str(index.name) for index in found if index is not None and not remaking.is_partitioned(index)]
    return indexes.absent(turn.connection, turn.settings) + plain


def _remake(turn: Turn) -> tuple[list[str], list[dict[str, Any]]]:
    """Make again what somebody dropped; gives what was, and what was not and why."""
    made, not_made = [], []
    for name in _unusable(turn):
        refusal = _make(turn, name)
        if refusal:
            not_made.append({"index": name, **refusal})
        else:
            made.append(name)
    return made, not_made


def _make(turn: Turn, name: str) -> dict[str, Any] | None:
    index = remaking.definition(turn.settings, name)
    if index is None or index.table is None:
        mend = remaking.statement_of_key(turn.connection, turn.settings, name)
        return {"why": "it goes with a constraint", "mend": mend}
    if refusal := hindrance(turn):
        return refusal
    try:
        refusal = attempt(turn, index.table.name, partial(remaking.build, turn.connection, index))
    except DBAPIError as error:
        if not remaking.is_contradicted(error):
            raise
        return {"why": describe(error)}
    if refusal or not remaking.is_partitioned(index):
        return refusal
    engine = single_connection_engine(turn.settings.maintenance_url, "ingest indexes")
    done = briefly(engine, partial(remaking.attach, index=index))
    return None if done else {"why": "the tables are in use: its parts are built and wait to be attached"}


def _check(turn: Turn) -> dict[str, Any]:
    """Look for damage in the B-trees that a minute is enough for, others each time; that is heavy, too.

    What was found damaged stays so until it is found sound.
    """
    known = operations.last_details(turn.connection, "indexes").get("damaged", [])
    check = integrity.checker(turn.connection)
    if check is None or hindrance(turn):
        return {"checked": 0, "damaged": known}
    trees = [found["index"] for found in known] + integrity.btrees(turn.connection)
    until, checked, damaged = time.monotonic() + _CHECK_SECONDS, 0, {}
    for index in dict.fromkeys(trees):
        if time.monotonic() > until:
            break
        if fault := integrity.fault(turn.connection, check, index):
            damaged[index] = fault
        checked += 1
    return {"checked": checked, "damaged": [{"index": name, "why": why} for name, why in damaged.items()]}
