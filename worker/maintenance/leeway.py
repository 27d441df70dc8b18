"""Building an index when there is leeway: the window, what searches wait for more, and room on the disk."""

import shutil
from collections.abc import Callable
from typing import Any

from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError

from worker.db import builds, horizon, indexes, rebuilds, segments
from worker.db.engine import describe, is_locked_out, lacks_memory
from worker.maintenance.turn import Turn
from worker.types import SegmentState

# A build takes its index again, and up to as much to sort it or to log it.
_TIMES = 2
_RESERVE_BYTES = 1 << 30
# No transaction of ours is open for so long.
_LASTING_SECONDS = builds.WAIT_SECONDS

# Why something was not done, as a run records it; "held_by": who is in the way.
Refusal = dict[str, Any]


def hindrance(turn: Turn) -> Refusal | None:
    """Say why nothing heavy may begin now; None where it may. Ask before each part: a window closes."""
    if not turn.may_be_heavy():
        return {"why": "outside of MAINTENANCE_WINDOW"}
    if segments.in_state(turn.connection, SegmentState.SEALING):
        return {"why": "a segment waits for its first index"}
    if builds.is_building(turn.connection):
        return {"why": "another index is being built"}
    if held := horizon.oldest(turn.connection, _LASTING_SECONDS):
        # a build waits for it, and nothing that was deleted since can be taken away
        return {"why": "a transaction is open for long", "held_by": held}
    return None


def lacks_room(turn: Turn, size_bytes: int) -> str | None:
    """Say why the disk cannot take an index of this size; None where it can.

    Where the server's disk is not seen from here, REINDEX_BLIND_BYTES decides: a larger one is a person's.
    """
    free = _free_bytes(turn.connection)
    if free is None:
        most = turn.settings.reindex_blind_bytes
        return None if size_bytes <= most else "the server's disk is not seen from here (REINDEX_BLIND_BYTES)"
    needed = _TIMES * size_bytes + _RESERVE_BYTES
    return None if free >= needed else f"it takes {needed / 1e9:.1f} GB of disk, {free / 1e9:.1f} GB are free"


def _free_bytes(connection: Connection) -> int | None:
    folder = rebuilds.data_folder(connection)
    try:
        return None if folder is None else shutil.disk_usage(folder).free
    except OSError:  # another file system than the server's
        return None


def rebuild(turn: Turn, index: str, table: str) -> Refusal | None:
    """Build an index anew; gives why not and who is in the way, where lock or room are not to be had."""
    ours = indexes.expected(turn.settings)
    return attempt(turn, table, lambda: rebuilds.rebuild(turn.connection, index, ours))


def attempt(turn: Turn, table: str, work: Callable[[], None]) -> Refusal | None:
    """Build, waiting for others as long as sealing does; gives why not, as `rebuild` does."""
    builds.prepare(turn.connection, turn.settings)
    try:
        work()
    except DBAPIError as error:
        if turn.connection.invalidated or not (is_locked_out(error) or lacks_memory(error)):
            raise
        held = horizon.holder(turn.connection, table) if is_locked_out(error) else None
        return {"why": describe(error), "held_by": held}
    return None
