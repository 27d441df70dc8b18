"""spares: keep empty leaves of `chunks` ready, so that opening a segment needs no DDL."""

from typing import Any

from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError

from worker.db.engine import is_retryable, single_connection_engine
from worker.db.leaves import add_segment
from worker.resources import Resources

SPARES = 3
_NUMBERING_LOCK = 7_046_029_254_386_353_133


def run(resources: Resources, connection: Connection) -> dict[str, Any]:
    """Give how many leaves were made and how many are ready.

    Making one waits at most a second for the writers of `documents`; a busy moment leaves it to the
    next run.
    """
    _forget_lost(connection)
    made = 0
    while (ready := _count(connection)) < SPARES and _make(resources):
        made += 1
    return {"made": made, "ready": ready}


def _forget_lost(connection: Connection) -> None:
    """Forget the spare leaves that somebody dropped: they held nothing."""
    connection.execute(text("DELETE FROM segments WHERE state = 'spare' AND to_regclass(leaf) IS NULL"))


def _count(connection: Connection) -> int:
    return int(connection.execute(text("SELECT count(*) FROM segments WHERE state = 'spare'")).scalar_one())


def _make(resources: Resources) -> bool:
    settings = resources.settings
    engine = single_connection_engine(settings.direct_url, "ingest spares")
    try:
        with engine.begin() as connection:
            connection.execute(text("SET LOCAL lock_timeout = '1s'"))
            # the chores that use spares up make new ones, too: they must not choose the same number
            connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _NUMBERING_LOCK})
            highest = connection.execute(text("SELECT greatest(max(segment), 0) FROM segments")).scalar_one()
            add_segment(
                connection, highest + 1, "spare", settings.embedding_dimension, settings.embedding_type
            )
    except DBAPIError as error:
        if is_retryable(error):
            return False
        raise
    return True
