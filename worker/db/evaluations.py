"""`evaluation_runs`: searches that were recorded, and what people said of them later."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, Row, text

_COLUMNS = """run_id, created_at, user_name, query, response, sources, latency_ms, token_count, thumbs,
                   quality_score, metadata"""


@dataclass(frozen=True, slots=True)
class Record:
    """A search as it is recorded. Everything but the query is what JSON can hold."""

    query: str
    response: Mapping[str, Any]
    sources: Sequence[Mapping[str, Any]]
    latency_ms: Mapping[str, float]
    token_count: int
    metadata: Mapping[str, Any] = field(default_factory=dict)
    user: str | None = None


@dataclass(frozen=True, slots=True)
class Run:
    """A recorded search. `request` is what was asked, `response` and `sources` sum up what was answered.

    `thumbs` is 1, -1, or None where nobody said; `quality_score` is from 0 to 1.
    """

    run_id: UUID
    created_at: datetime
    user: str | None
    query: str
    request: Mapping[str, Any]
    response: Mapping[str, Any]
    sources: Sequence[Mapping[str, Any]]
    latency_ms: Mapping[str, float]
    token_count: int | None
    thumbs: int | None
    quality_score: float | None
    comment: str | None


def insert(connection: Connection, tenant_id: UUID, record: Record) -> UUID:
    """Record a search; gives the id of its run. A crash of the server may lose the last ones.

    No search should wait for the disk because it is recorded.
    """
    connection.execute(text("SET LOCAL synchronous_commit = off"))
    run_id: UUID = connection.execute(
        text("""
            INSERT INTO evaluation_runs
                (tenant_id, user_name, query, response, sources, latency_ms, token_count, metadata)
            VALUES (:tenant_id, :user, :query, CAST(:response AS jsonb), CAST(:sources AS jsonb),
                    CAST(:latency_ms AS jsonb), :token_count, CAST(:metadata AS jsonb))
            RETURNING run_id"""),
        {
            "tenant_id": tenant_id,
            "user": record.user,
            "query": record.query,
            "response": _json(record.response),
            "sources": _json(record.sources),
            "latency_ms": _json(record.latency_ms),
            "token_count": record.token_count,
            "metadata": _json(record.metadata),
        },
    ).scalar_one()
    return run_id


def _json(value: Mapping[str, Any] | Sequence[Any]) -> str:
    return json.dumps(value, allow_nan=False)


def rate(
    connection: Connection,
    tenant_id: UUID,
    run_id: UUID,
    *,
    thumbs: int | None,
    quality_score: float | None,
    comment: str | None,
) -> Run | None:
    """Say of a recorded search what is not None; 0 takes `thumbs` back. None: no such run."""
    found = connection.execute(
        text(f"""
            UPDATE evaluation_runs SET
                   thumbs = nullif(coalesce(CAST(:thumbs AS smallint), thumbs), 0),
                   quality_score = coalesce(CAST(:quality_score AS double precision), quality_score),
                   metadata = metadata || jsonb_strip_nulls(
                       jsonb_build_object('comment', CAST(:comment AS text))),
                   updated_at = now()
            WHERE tenant_id = :tenant_id AND run_id = :run_id
            RETURNING {_COLUMNS}"""),
        {
            "tenant_id": tenant_id,
            "run_id": run_id,
            "thumbs": thumbs,
            "quality_score": quality_score,
            "comment": comment,
        },
    ).one_or_none()
    return None if found is None else _run(found)


def newest(connection: Connection, tenant_id: UUID, most: int) -> list[Run]:
    """Give the recorded searches of a tenant, newest first."""
    found = connection.execute(
        text(f"""
            SELECT {_COLUMNS} FROM evaluation_runs
            WHERE tenant_id = :tenant_id ORDER BY created_at DESC, run_id LIMIT :most"""),
        {"tenant_id": tenant_id, "most": most},
    )
    return [_run(row) for row in found]


def _run(row: Row[Any]) -> Run:
    return Run(
        run_id=row.run_id,
        created_at=row.created_at,
        user=row.user_name,
        query=row.query,
        request=row.metadata.get("request", {}),
        response=row.response,
        sources=row.sources,
        latency_ms=row.latency_ms,
        token_count=row.token_count,
        thumbs=row.thumbs,
        quality_score=row.quality_score,
        comment=row.metadata.get("comment") or None,
    )
