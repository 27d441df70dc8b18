"""purge: old records, documents whose deletion is final, inline content that nobody needs again.

Records of finished work go after RETENTION_DAYS, recorded searches after EVALUATION_RETENTION_DAYS, deleted
documents after DELETED_RETENTION_DAYS. Each part is a transaction; a run cut short leaves whole parts.
"""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from sqlalchemy import Connection

from worker.db import purging
from worker.db.purging import OLD_RECORDS, Gone
from worker.maintenance.turn import Turn
from worker.retention import FOR_EVER

MOST_ROWS, MOST_PARTS = 10_000, 100
DOCUMENTS_A_PART, CHUNKS_A_PART, CONTENTS_A_PART = 500, 20_000, 100
_PART_SECONDS = 300


def run(turn: Turn) -> dict[str, Any]:
    """Give how many rows went from each table: a hundred parts of each at most."""
    if turn.dry_run:
        return _to_go(turn)
    records = {
        table: sum(_parts(turn, partial(purging.delete_records, table=table, most=MOST_ROWS), MOST_ROWS))
        for table in OLD_RECORDS
    }
    contents = sum(_parts(turn, partial(purging.drop_content, most=CONTENTS_A_PART), CONTENTS_A_PART))
    return {**records, **_documents(turn)._asdict(), "contents": contents}


def _to_go(turn: Turn) -> dict[str, Any]:
    connection, settings = turn.connection, turn.settings
    found = {table: purging.count_records(connection, settings, table) for table in OLD_RECORDS}
    if settings.deleted_retention_days != FOR_EVER:
        found |= purging.count_deleted(connection, settings)._asdict()
    found["contents"] = purging.count_needless_content(connection, settings)
    return {f"{name}_to_go": count for name, count in found.items()}


def _parts(turn: Turn, delete: Callable[..., int], full: int) -> Iterator[int]:
    """Delete part after part, as long as parts are full."""
    for _ in range(MOST_PARTS):
        if turn.halted():
            return
        gone = delete(turn.connection, turn.settings)
        yield gone
        if gone < full:
            return


def _documents(turn: Turn) -> Gone:
    documents = chunks = 0
    if turn.settings.deleted_retention_days == FOR_EVER:
        return Gone(documents, chunks)
    for _ in range(MOST_PARTS):
        if turn.halted():
            break
        gone = turn.resources.transact(partial(_purge, turn), _PART_SECONDS)
        if not gone.documents:
            break
        documents, chunks = documents + gone.documents, chunks + gone.chunks
    return Gone(documents, chunks)


def _purge(turn: Turn, connection: Connection) -> Gone:
    return purging.purge_deleted(connection, turn.settings, DOCUMENTS_A_PART, CHUNKS_A_PART)
