"""seal: a full segment gets its vector index in bulk, while the next one takes the rows.

Each step begins from what the last one left in the database, so that a run cut short anywhere is
finished by the next: the state `sealing` says that an index is owed, and an invalid index is dropped.
"""

import logging
from typing import Any

from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError

from worker.db import builds, postings, segments
from worker.db.engine import transaction
from worker.db.leaves import postings_name
from worker.db.segments import Segment
from worker.dispatch import fill_window
from worker.maintenance import spares
from worker.maintenance.turn import Turn
from worker.settings import Settings
from worker.types import SegmentState

log = logging.getLogger(__name__)

# An exact scan of fewer rows needs no index, however old or large the segment is.
FEWEST_ROWS = 1_000


def run(turn: Turn) -> dict[str, Any]:
    """Seal what is full; gives the leaves that were sealed and the rows that are searched exactly.

    A leaf that cannot be sealed keeps no other from it. Raises what the first of them raised.
    """
    connection, settings = turn.connection, turn.settings
    if turn.dry_run:
        fill = segments.fill(connection, settings.rows_of_segment)
        return {"to_seal": [owed.leaf for owed in _owed(connection)], "to_close": is_full(fill, settings)}
    builds.prepare(connection, settings)
    sealed: list[str] = []
    errors: dict[int, DBAPIError] = {}
    while True:
        for owed in _owed(connection):
            if owed.segment not in errors:
                try:
                    _seal(connection, owed, settings)
                except DBAPIError as error:
                    if connection.invalidated:
                        raise
                    errors[owed.segment] = error
                else:
                    sealed.append(owed.leaf)
                    fill_window(turn.resources)  # who waited for it may go on
        if not _close_if_full(turn):
            break
    _fold_open(connection)
    if errors:
        raise next(iter(errors.values()))
    return {"sealed": sealed, "unsealed_rows": segments.unsealed_rows(connection)}


def _owed(connection: Connection) -> list[Segment]:
    """Give the segments that are owed an index; a sealed one, too, whose index somebody dropped."""
    sealed = segments.in_state(connection, SegmentState.SEALED)
    bare = [segment for segment in sealed if not builds.is_valid(connection, segment.leaf)]
    return segments.in_state(connection, SegmentState.SEALING) + bare


def _close_if_full(turn: Turn) -> bool:
    fill = segments.fill(turn.connection, turn.settings.rows_of_segment)
    if not is_full(fill, turn.settings):
        return False
    with transaction(turn.resources.engine) as opening:
        closed = segments.open_next(opening)
    spares.run(turn)
    if closed is None:
        log.warning("spare.missing", extra={"then": "the open segment stays open until the next run"})
        return False
    log.info(
        "segment.closed",
        extra={
            "segment": closed.segment,
            "rows": fill.rows,
            "bytes": fill.size_bytes,
            "age_s": fill.age_seconds,
        },
    )
    return True


def _fold_open(connection: Connection) -> None:
    """Join what many small writes left: a search reads a row of each for each of its words."""
    for opened in segments.in_state(connection, SegmentState.OPEN):
        if postings.is_scattered(connection, opened.segment):
            postings.fold(connection, opened.segment)


def is_full(fill: segments.Fill, settings: Settings) -> bool:
    """Tell whether the open segment is to be closed. One whose leaf is gone is: the next can be written."""
    if fill.rows is None or fill.rows >= settings.rows_of_segment:
        return True
    large = fill.size_bytes >= settings.segment_bytes
    old = fill.age_seconds >= settings.segment_seconds
    return fill.rows >= FEWEST_ROWS and (large or old)


def _seal(connection: Connection, owed: Segment, settings: Settings) -> None:
    segments.await_writers(connection, owed.segment)
    if not builds.is_valid(connection, owed.leaf):
        builds.complete(connection, owed.leaf, settings)
    builds.analyze(connection, owed.leaf)
    postings.fold(connection, owed.segment)
    builds.vacuum(connection, postings_name(owed.segment))
    rows = segments.counted(connection, owed.leaf)
    segments.advance(connection, owed.segment, SegmentState.SEALED, rows)
