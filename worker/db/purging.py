"""Deleting for good: records of finished work, documents deleted long ago, inline content nobody needs."""

from typing import Any, NamedTuple
from uuid import UUID

from sqlalchemy import Connection, text

from worker.db.documents import move, uuid_array
from worker.db.duplicates import release_duplicates
from worker.retention import FOR_EVER
from worker.settings import Settings
from worker.types import Status

OLD_RECORDS = {
    "batches": "finished_at < now() - make_interval(days => :days)"
    " AND NOT EXISTS (SELECT 1 FROM documents d WHERE d.batch_id = t.batch_id)",
    "maintenance_runs": "created_at < now() - make_interval(days => :days)",
    "evaluation_runs": "created_at < now() - make_interval(days => :evaluation_days)",
    "heartbeats": "seen_at < now() - interval '1 day'",
}

_LONG_DELETED = "d.deleted_at < now() - make_interval(days => :deleted_days)"
# A skipped document is processed again only with content that is submitted anew. A completed one also
# where its chunks are damaged, or another took its content while it was deleted: a policy says how long.
_NEEDLESS = {
    "skipped": "status = 'skipped' AND content IS NOT NULL",
    "completed": "status = 'completed' AND content IS NOT NULL"
    " AND settled_at < now() - make_interval(days => :content_days)",
}


class Gone(NamedTuple):
    """How many documents, and chunks of theirs."""

    documents: int
    chunks: int


def count_records(connection: Connection, settings: Settings, table: str) -> int:
    """Count the records of a table that are old enough to go."""
    counted = connection.execute(
        text(f"SELECT count(*) FROM {table} t WHERE {OLD_RECORDS[table]}"), _days(settings)
    )
    return int(counted.scalar_one())


def delete_records(connection: Connection, settings: Settings, table: str, most: int) -> int:
    """Delete old records of a table; gives how many."""
    gone = connection.execute(
        text(f"""
            DELETE FROM {table} WHERE ctid = ANY(ARRAY(
                SELECT t.ctid FROM {table} t WHERE {OLD_RECORDS[table]} LIMIT :most))"""),
        {**_days(settings), "most": most},
    )
    return gone.rowcount


def count_deleted(connection: Connection, settings: Settings) -> Gone:
    """Count the documents that were deleted long enough ago, and the chunks they had."""
    row = connection.execute(
        text(f"""
            SELECT count(*) AS documents, coalesce(sum(d.total_chunks), 0) AS chunks
            FROM documents d WHERE {_LONG_DELETED}"""),
        _days(settings),
    ).one()
    return Gone(row.documents, int(row.chunks))


def purge_deleted(connection: Connection, settings: Settings, most_documents: int, most_chunks: int) -> Gone:
    """Delete documents that were deleted long enough ago, longest first; one at least where there is one.

    Whole or not at all: a restoration locks its document, too, so it comes first, and then this one is not
    chosen, or it finds nothing any more. What the postings have of the chunks, a merge leaves out.
    """
    ids = _choose(connection, settings, most_documents, most_chunks)
    if not ids:
        return Gone(0, 0)
    release_duplicates(connection, ids)
    _release_deleted_duplicates(connection, ids)
    named = {"ids": uuid_array(ids)}
    # in every leaf: one that a merge has emptied refers to the document until it is truncated
    chunks = connection.execute(
        text("DELETE FROM chunks WHERE document_id = ANY(CAST(:ids AS uuid[]))"), named
    ).rowcount
    connection.execute(text("DELETE FROM documents WHERE document_id = ANY(CAST(:ids AS uuid[]))"), named)
    return Gone(len(ids), chunks)


def _choose(connection: Connection, settings: Settings, most_documents: int, most_chunks: int) -> list[UUID]:
    """Lock documents as long as their chunks are not too many. Who is being restored is passed over."""
    found = connection.execute(
        text(f"""
            SELECT d.document_id, coalesce(d.total_chunks, 0) AS chunks FROM documents d
            WHERE {_LONG_DELETED} ORDER BY d.deleted_at LIMIT :most FOR UPDATE SKIP LOCKED"""),
        {**_days(settings), "most": most_documents},
    )
    chosen: list[UUID] = []
    chunks = 0
    for row in found:
        chunks += row.chunks
        if chosen and chunks > most_chunks:
            break
        chosen.append(row.document_id)
    return chosen


def _release_deleted_duplicates(connection: Connection, document_ids: list[UUID]) -> None:
    """Let duplicates that may still be restored point nowhere: restored, they are processed."""
    move(
        connection,
        Status.PENDING,
        where="(d.tenant_id, d.duplicate_of) IN ("
        "SELECT t.tenant_id, t.document_id FROM documents t WHERE t.document_id = ANY(:ids))"
        " AND d.deleted_at IS NOT NULL AND NOT d.document_id = ANY(:ids)",
        change="attempts = 0",
        ids=document_ids,
    )


def count_needless_content(connection: Connection, settings: Settings) -> int:
    """Count the documents whose inline content may go."""
    counted = (
        connection.execute(text(f"SELECT count(*) FROM documents WHERE {condition}"), _days(settings))
        for condition in _needless(settings)
    )
    return sum(int(found.scalar_one()) for found in counted)


def drop_content(connection: Connection, settings: Settings, most: int) -> int:
    """Drop inline content that is not needed; gives of how many documents.

    Its hash stays, so that the same submitted again is no change. `updated_at` stays, too: searches filter by
    it, and nothing that they find has changed.
    """
    dropped = 0
    for condition in _needless(settings):
        statement = f"""
            UPDATE documents SET content = NULL, content_digest = sha256(content)
            WHERE document_id = ANY(ARRAY(
                SELECT document_id FROM documents WHERE {condition} LIMIT :most FOR UPDATE SKIP LOCKED))"""
        parameters = {**_days(settings), "most": most - dropped}
        dropped += connection.execute(text(statement), parameters).rowcount
    return dropped


def _needless(settings: Settings) -> list[str]:
    wanted = ["skipped"] if settings.content_retention_days == FOR_EVER else list(_NEEDLESS)
    return [_NEEDLESS[status] for status in wanted]


def _days(settings: Settings) -> dict[str, Any]:
    """Give what the conditions are bound to; a retention that is off is asked for by nobody."""
    found = {
        "days": settings.retention_days,
        "evaluation_days": settings.evaluation_retention_days,
        "deleted_days": settings.deleted_retention_days,
        "content_days": settings.content_retention_days,
    }
    return {name: days for name, days in found.items() if days != FOR_EVER}
