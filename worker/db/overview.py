"""What people ask about the state of things. Read only."""

from collections.abc import Sequence
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, Row, text

from worker.db.submissions import Scope
from worker.types import Status


def counts(connection: Connection, scope: Scope | None) -> dict[Status, int]:
    """Count the live documents by status; of everybody without a scope."""
    condition, parameters = ("true", {}) if scope is None else (scope.condition(), scope.parameters)
    found = connection.execute(
        text(f"""
            SELECT d.status, count(*) AS documents FROM documents d
            WHERE d.deleted_at IS NULL AND {condition} GROUP BY d.status"""),
        parameters,
    )
    by_status = {row.status: row.documents for row in found}
    return {status: by_status.get(status.value, 0) for status in Status}


def oldest_waiting_seconds(connection: Connection, scope: Scope | None) -> float | None:
    """Give the age of the oldest document that is ready and not settled; None where there is none."""
    condition, parameters = ("true", {}) if scope is None else (scope.condition(), scope.parameters)
    found = connection.execute(
        text(f"""
            SELECT extract(epoch FROM now() - min(d.queued_at)) FROM documents d
            WHERE d.status IN ('pending', 'processing') AND d.deleted_at IS NULL AND d.queued_at <= now()
              AND {condition}"""),
        parameters,
    ).scalar()
    return None if found is None else float(found)


def reasons(connection: Connection, scope: Scope | None, limit: int) -> Sequence[Row[Any]]:
    """Give (status, error_code, documents, example, message) of what did not complete, most first."""
    condition, parameters = ("true", {}) if scope is None else (scope.condition(), scope.parameters)
    return connection.execute(
        text(f"""
            SELECT d.status, d.error_code, count(*) AS documents, min(d.source_path) AS example,
                   min(d.error_message) AS message
            FROM documents d
            WHERE d.deleted_at IS NULL AND d.error_code IS NOT NULL AND {condition}
            GROUP BY d.status, d.error_code ORDER BY documents DESC, d.error_code LIMIT :limit"""),
        {"limit": limit, **parameters},
    ).all()


def documents(
    connection: Connection, scope: Scope, *, ids: Sequence[UUID] = (), paths: Sequence[str] = ()
) -> Sequence[Row[Any]]:
    """Give the documents with these ids or source paths, deleted ones included, newest first."""
    return connection.execute(
        text(f"""
            SELECT d.document_id, d.filename, d.source_path, d.status, d.file_type, d.size_bytes,
                   d.total_chunks, d.attempts, d.next_attempt_at, d.error_code, d.error_message,
                   d.duplicate_of, d.cleaned, d.metadata, d.fingerprint IS NOT NULL AS searchable,
                   d.created_at, d.updated_at, d.settled_at, d.deleted_at
            FROM documents d
            WHERE {scope.condition()} AND (d.document_id = ANY(:ids) OR d.source_path = ANY(:paths))
            ORDER BY d.created_at DESC"""),
        {"ids": list(ids), "paths": list(paths), **scope.parameters},
    ).all()


def unsettled(connection: Connection, document_ids: Sequence[UUID]) -> int:
    """Count which of these documents are still on their way."""
    found = connection.execute(
        text("""
            SELECT count(*) FROM documents
            WHERE document_id = ANY(:ids) AND status IN ('pending', 'processing') AND deleted_at IS NULL"""),
        {"ids": list(document_ids)},
    )
    return int(found.scalar_one())


def outcome(connection: Connection, document_ids: Sequence[UUID]) -> Row[Any]:
    """Sum up these documents: how many there are by status, their bytes and their chunks."""
    return connection.execute(
        text("""
            SELECT count(*) FILTER (WHERE status = 'completed') AS completed,
                   count(*) FILTER (WHERE status = 'duplicate') AS duplicate,
                   count(*) FILTER (WHERE status = 'skipped') AS skipped,
                   count(*) FILTER (WHERE status = 'failed') AS failed,
                   count(*) FILTER (WHERE status = 'cancelled') AS cancelled,
                   count(*) FILTER (WHERE status IN ('pending', 'processing')) AS waiting,
                   coalesce(sum(size_bytes), 0) AS size_bytes, coalesce(sum(total_chunks), 0) AS chunks,
                   coalesce(sum(chunks_embedded), 0) AS embedded, coalesce(sum(chunks_reused), 0) AS reused
            FROM documents WHERE document_id = ANY(:ids) AND deleted_at IS NULL"""),
        {"ids": list(document_ids)},
    ).one()
