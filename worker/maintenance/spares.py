"""spares: keep empty leaves of `chunks` ready, so that opening a segment needs no DDL."""

from functools import partial
from typing import Any

from sqlalchemy import Connection, text

from worker.db import segments
from worker.db.engine import single_connection_engine
from worker.db.leaves import add_segment
from worker.maintenance.turn import Turn
from worker.patience import briefly
from worker.settings import Settings
from worker.types import SegmentState

SPARES = 3
_NUMBERING_LOCK = 7_046_029_254_386_353_133


def run(turn: Turn) -> dict[str, Any]:
    """Give how many leaves were made and how many are ready.

    Making one waits at most a second for the writers of `documents`; a busy moment leaves it to the
    next run.
    """
    connection = turn.connection
    if turn.dry_run:
        ready = _ready(connection)
        return {"to_make": max(SPARES - ready, 0), "ready": ready}
    _forget_lost(connection)
    engine = single_connection_engine(turn.settings.maintenance_url, "ingest spares")
    make = partial(_make, settings=turn.settings)
    made = 0
    while (ready := _ready(connection)) < SPARES and briefly(engine, make):
        made += 1
    return {"made": made, "ready": ready}


def _forget_lost(connection: Connection) -> None:
    """Forget the spare leaves that somebody dropped: they held nothing."""
    lost = f"DELETE FROM segments WHERE state = 'spare' AND NOT {segments.IS_THERE}"  # noqa: S608 -- a constant
    connection.execute(text(lost))


def _ready(connection: Connection) -> int:
    return len(segments.in_state(connection, SegmentState.SPARE))


def _make(connection: Connection, settings: Settings) -> None:
    # the chores that use spares up make new ones, too: they must not choose the same number
    connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _NUMBERING_LOCK})
    add_segment(
        connection,
        segments.next_number(connection),
        "spare",
        settings.embedding_dimension,
        settings.embedding_type,
    )
