"""reindex: indexes that are too large for their rows are built anew, one at a time, the worst first."""

from typing import Any

from worker.db import bloat, indexes, rebuilds
from worker.db.bloat import Oversized
from worker.db.builds import size_of
from worker.maintenance.leeway import hindrance, lacks_room, rebuild
from worker.maintenance.turn import Turn

MOST_INDEXES = 10


def run(turn: Turn) -> dict[str, Any]:
    """Give what was built anew, what was left and why, and what is still to do.

    A run begins no other index once the window is over, and ends at the first that cannot be built.
    """
    connection = turn.connection
    found = bloat.oversized(connection)
    if turn.dry_run:
        return {"to_rebuild": [_described(turn, index) for index in found]}
    dropped = rebuilds.drop_leftovers(connection, indexes.expected(turn.settings))
    rebuilt: list[dict[str, Any]] = []
    left: list[dict[str, Any]] = []
    for index in found[:MOST_INDEXES]:
        if room := lacks_room(turn, index.size_bytes):
            left.append({**index.record(), "why": room})
            continue
        if refusal := hindrance(turn) or rebuild(turn, index.name, index.table):
            left.append({**index.record(), **refusal})
            break
        rebuilt.append({**index.record(), "bytes_after": size_of(connection, index.name)})
    done = len(rebuilt) + len(left)
    return {
        "dropped": dropped,
        "rebuilt": rebuilt,
        "left": left,
        "still_oversized": [index.name for index in found[done:]],
        "sizes_by": bloat.known_by(connection),
    }


def _described(turn: Turn, index: Oversized) -> dict[str, Any]:
    room = lacks_room(turn, index.size_bytes)
    return {**index.record(), "by": index.known_by, **({"why_not": room} if room else {})}
