"""Taking documents out of sight and bringing them back: their chunks wait in the trash."""

from collections.abc import Sequence
from uuid import UUID

from sqlalchemy import Connection, text
from sqlalchemy.exc import IntegrityError

from worker.db import chunks
from worker.db.documents import give_up_fingerprints, move
from worker.db.duplicates import release_duplicates
from worker.db.leaves import TRASH
from worker.db.submissions import Scope
from worker.types import Status


def delete(connection: Connection, scope: Scope, document_ids: Sequence[UUID] | None) -> Sequence[UUID]:
    """Soft-delete documents: at once gone from every search, restorable; gives their ids."""
    deleted = connection.execute(
        text(f"""
            WITH chosen AS (
                SELECT d.document_id FROM documents d
                WHERE {scope.condition()} AND d.document_id = ANY(:ids) AND d.deleted_at IS NULL
                ORDER BY d.document_id FOR NO KEY UPDATE)
            UPDATE documents d SET deleted_at = now(), updated_at = now(),
                   batch_id = CASE d.status WHEN 'processing' THEN d.batch_id END
            FROM chosen WHERE d.document_id = chosen.document_id
            RETURNING d.document_id"""),
        {"ids": list(document_ids or ()), **scope.parameters},
    ).scalars()
    gone = list(deleted)
    chunks.trash(connection, gone)
    release_duplicates(connection, gone)
    return gone


def restore(connection: Connection, scope: Scope, document_id: UUID) -> bool:
    """Bring a deleted document back; False when there is none, or a newer one has taken its path.

    Its chunks are searchable when this commits. Where its content got another owner meanwhile, or it
    was deleted while being processed, it is processed again.
    """
    try:
        with connection.begin_nested():
            return _restore(connection, scope, document_id)
    except IntegrityError:  # its path or content was taken while we looked: now it shows
        return _restore(connection, scope, document_id)


def _restore(connection: Connection, scope: Scope, document_id: UUID) -> bool:
    found = connection.execute(
        text(f"""
            SELECT d.project_id FROM documents d
            WHERE {scope.condition()} AND d.document_id = :id AND d.deleted_at IS NOT NULL
            FOR NO KEY UPDATE"""),
        {"id": document_id, **scope.parameters},
    ).one_or_none()
    if found is None:
        return False
    scope = Scope(scope.tenant_id, found.project_id)
    if _path_is_taken(connection, scope, document_id):
        return False
    taken = _content_is_taken(connection, scope, document_id)
    move(
        connection,
        Status.PENDING,
        where="d.document_id = :id AND (:taken OR d.status IN ('processing', 'duplicate'))",
        change="queued_at = now(), attempts = 0",
        id=document_id,
        taken=taken,
    )
    if taken:
        _keep_copy(connection, document_id)
        give_up_fingerprints(connection, [document_id])
        chunks.purge_trash(connection, [document_id])
    connection.execute(
        text("UPDATE documents SET deleted_at = NULL, updated_at = now() WHERE document_id = :id"),
        {"id": document_id},
    )
    chunks.untrash(connection, [document_id])
    return True


def _keep_copy(connection: Connection, document_id: UUID) -> None:
    """Keep the chunks of a loaded document as its content: as a duplicate it may inherit them."""
    connection.execute(
        text(f"""
            UPDATE documents SET content_digest = NULL, content = (
                SELECT convert_to(json_build_object('chunks', json_agg(json_build_object(
                    'text', text, 'vector', CAST(embedding AS real[]), 'heading_path', heading_path,
                    'metadata', metadata) ORDER BY chunk_index))::text, 'UTF8')
                FROM chunks WHERE segment = {TRASH} AND document_id = :id)
            WHERE document_id = :id AND content IS NULL AND file_type = 'chunks'"""),
        {"id": document_id},
    )


def _path_is_taken(connection: Connection, scope: Scope, document_id: UUID) -> bool:
    found = connection.execute(
        text(f"""
            SELECT 1 FROM documents n WHERE {scope.condition("n.")} AND n.deleted_at IS NULL
              AND n.source_key = (SELECT source_key FROM documents WHERE document_id = :id)"""),
        {"id": document_id, **scope.parameters},
    )
    return found.one_or_none() is not None


def _content_is_taken(connection: Connection, scope: Scope, document_id: UUID) -> bool:
    """Tell whether another document owns the content of the chunk set this one has."""
    found = connection.execute(
        text(f"""
            SELECT 1 FROM documents d JOIN documents o ON o.content_hash = d.content_hash
            WHERE d.document_id = :id AND d.fingerprint IS NOT NULL AND {scope.condition("o.")}
              AND o.fingerprint IS NOT NULL AND o.deleted_at IS NULL"""),
        {"id": document_id, **scope.parameters},
    )
    return found.first() is not None
