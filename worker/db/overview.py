"""What people ask about the state of things. Read only."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, Row, text

from worker.db import batches, builds, operations, vacuums
from worker.db.pauses import Pause, standing
from worker.db.segments import unsealed_rows
from worker.db.submissions import Scope
from worker.types import Status


def _of(scope: Scope | None, trace: str | None) -> tuple[str, dict[str, Any]]:
    """Give the condition on a row `d` of `documents`, and what it refers to."""
    condition, parameters = ("true", {}) if scope is None else (scope.condition(), scope.parameters)
    if trace is None:
        return condition, parameters
    return f"{condition} AND d.trace = :trace", {**parameters, "trace": trace}


def counts(connection: Connection, scope: Scope | None, trace: str | None = None) -> dict[Status, int]:
    """Count the live documents by status; of everybody without a scope, of a trace where one is given."""
    condition, parameters = _of(scope, trace)
    found = connection.execute(
        text(f"""
            SELECT d.status, count(*) AS documents FROM documents d
            WHERE d.deleted_at IS NULL AND {condition} GROUP BY d.status"""),
        parameters,
    )
    by_status = {row.status: row.documents for row in found}
    return {status: by_status.get(status.value, 0) for status in Status}


def count_documents(connection: Connection, tenant_id: UUID | None) -> int:
    """Count the documents of a tenant, or of all, deleted ones included."""
    found = connection.execute(
        text("SELECT count(*) FROM documents WHERE CAST(:id AS uuid) IS NULL OR tenant_id = :id"),
        {"id": tenant_id},
    )
    return int(found.scalar_one())


def oldest_waiting_seconds(
    connection: Connection, scope: Scope | None, trace: str | None = None
) -> float | None:
    """Give the age of the oldest document that is ready and not settled; None where there is none."""
    condition, parameters = _of(scope, trace)
    found = connection.execute(
        text(f"""
            SELECT extract(epoch FROM now() - min(d.queued_at)) FROM documents d
            WHERE d.status IN ('pending', 'processing') AND d.deleted_at IS NULL AND d.queued_at <= now()
              AND {condition}"""),
        parameters,
    ).scalar()
    return None if found is None else float(found)


def reasons(
    connection: Connection, scope: Scope | None, limit: int, trace: str | None = None
) -> Sequence[Row[Any]]:
    """Give (status, error_code, documents, example, message) of what did not complete, most first."""
    condition, parameters = _of(scope, trace)
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
            SELECT d.document_id, d.project_id, d.filename, d.source_path, d.status, d.file_type,
                   d.size_bytes, d.total_chunks, d.batch_id, d.attempts, d.next_attempt_at, d.error_code,
                   d.error_message, d.duplicate_of, d.trace, d.cleaned, d.metadata,
                   d.fingerprint IS NOT NULL AS searchable,
                   d.created_at, d.updated_at, d.settled_at, d.deleted_at
            FROM documents d
            WHERE {scope.condition()} AND (d.document_id = ANY(:ids) OR d.source_path = ANY(:paths))
            ORDER BY d.created_at DESC"""),
        {"ids": list(ids), "paths": list(paths), **scope.parameters},
    ).all()


def traced(connection: Connection, scope: Scope | None, trace: str, limit: int) -> Sequence[Row[Any]]:
    """Give (document_id, source_path, status, error_code) of a trace's documents, unsettled ones first."""
    condition, parameters = _of(scope, trace)
    return connection.execute(
        text(f"""
            SELECT d.document_id, d.source_path, d.status, d.error_code FROM documents d
            WHERE d.deleted_at IS NULL AND {condition}
            ORDER BY d.settled_at DESC NULLS FIRST, d.document_id LIMIT :limit"""),
        {"limit": limit, **parameters},
    ).all()


def projects(connection: Connection) -> Sequence[Row[Any]]:
    """Give (tenant, project, documents, completed, chunks), one a project; project NULL is "no project"."""
    return connection.execute(
        text("""
            SELECT t.name AS tenant, p.name AS project, count(*) AS documents,
                   count(*) FILTER (WHERE d.status = 'completed') AS completed,
                   coalesce(sum(d.total_chunks), 0)::bigint AS chunks
            FROM documents d JOIN tenants t ON t.tenant_id = d.tenant_id
            LEFT JOIN projects p ON p.project_id = d.project_id
            WHERE d.deleted_at IS NULL GROUP BY t.name, p.name ORDER BY t.name, p.name NULLS FIRST""")
    ).all()


def reasons_of(connection: Connection, document_ids: Sequence[UUID], limit: int) -> Sequence[Row[Any]]:
    """Give (status, error_code, documents, example, message) for these documents, most first."""
    return connection.execute(
        text("""
            SELECT status, error_code, count(*) AS documents, min(source_path) AS example,
                   min(error_message) AS message
            FROM documents
            WHERE document_id = ANY(:ids) AND deleted_at IS NULL AND error_code IS NOT NULL
            GROUP BY status, error_code ORDER BY documents DESC, error_code LIMIT :limit"""),
        {"ids": list(document_ids), "limit": limit},
    ).all()


def server_version(connection: Connection) -> str:
    """Give the version of PostgreSQL, as its people write it."""
    return str(connection.execute(text("SHOW server_version")).scalar_one()).partition(" ")[0]


def take_room(connection: Connection) -> None:
    """Take a megabyte of the disk this database is on, until the transaction ends.

    Small writes succeed on a full disk for a while: into pages that are there. A replica takes nothing.
    """
    if not connection.execute(text("SELECT pg_is_in_recovery()")).scalar_one():
        connection.execute(text("SET LOCAL temp_tablespaces = ''"))
        connection.execute(
            text("CREATE TEMP TABLE room AS SELECT md5(n::text) FROM generate_series(1, 16000) n")
        )


@dataclass(frozen=True, slots=True)
class Health:
    """What the tables say of the system: living processes by kind, each chore's last run.

    `running`: the chores under way. `beat_seconds`: since when a beat is known, None where none is.
    `troubles`: rows of `batches.troubles`.
    """

    dimension: int
    column_type: str
    metric: str
    alive: dict[str, int]
    runs: Sequence[Row[Any]]
    running: Sequence[str]
    beat_seconds: float | None
    oldest_waiting_seconds: float | None
    segments: "Segments"
    paused: Sequence[Pause]
    troubles: Sequence[Row[Any]] = ()


@dataclass(frozen=True, slots=True)
class Segments:
    """How many segments there are by state, the rows searched exactly, and what is under way on tables.

    `builds`: rows of `builds.under_way`; `vacuums`: of `vacuums.under_way`.
    """

    counts: dict[str, int]
    unsealed_rows: int
    builds: Sequence[Row[Any]]
    vacuums: Sequence[Row[Any]] = ()


def health(connection: Connection, alive_seconds: int) -> Health:
    """Give what the tables say; a process counts as alive when heard of within `alive_seconds`."""
    space = connection.execute(text("SELECT dimension, column_type, metric FROM embedding_space")).one()
    return Health(
        dimension=space.dimension,
        column_type=space.column_type,
        metric=space.metric,
        alive=_alive(connection, alive_seconds),
        runs=operations.last_runs(connection),
        running=_running(connection),
        beat_seconds=_beat_seconds(connection),
        oldest_waiting_seconds=oldest_waiting_seconds(connection, None),
        segments=segments(connection),
        paused=standing(connection),
        troubles=batches.troubles(connection),
    )


def segments(connection: Connection) -> Segments:
    """Give the state of the segments, spares and trash left out."""
    found = connection.execute(
        text("""
            SELECT state, count(*) AS segments FROM segments WHERE state NOT IN ('spare', 'trash')
            GROUP BY state ORDER BY state""")
    )
    counted = {row.state: row.segments for row in found}
    under_way = builds.under_way(connection), vacuums.under_way(connection)
    return Segments(counted, unsealed_rows(connection), *under_way)


def _alive(connection: Connection, seconds: int) -> dict[str, int]:
    found = connection.execute(
        text("""
            SELECT kind, count(*) AS processes FROM heartbeats
            WHERE seen_at > now() - make_interval(secs => :seconds) GROUP BY kind"""),
        {"seconds": seconds},
    )
    return {row.kind: row.processes for row in found}


def _running(connection: Connection) -> Sequence[str]:
    found = connection.execute(text("SELECT chore FROM maintenance_runs WHERE outcome = 'running'"))
    return list(found.scalars())


def _beat_seconds(connection: Connection) -> float | None:
    found = connection.execute(
        text("SELECT extract(epoch FROM now() - min(created_at))::float FROM heartbeats WHERE kind = 'beat'")
    ).scalar()
    return None if found is None else float(found)


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
