"""More like these: the mean of the vectors stored for some chunks and documents."""

from collections.abc import Sequence
from typing import Any, NamedTuple
from uuid import UUID

from sqlalchemy import Connection, Row, text

from worker.db import segments
from worker.db.segments import Seen
from worker.errors import IngestError
from worker.types import Metric


class Named(NamedTuple):
    """What a search is to be like: that is not among its results."""

    chunks: list[UUID]
    documents: list[UUID]


def likeness(
    connection: Connection, tenant_id: UUID, ids: Sequence[UUID], *, seen: Seen, metric: Metric
) -> list[float]:
    """Give the mean of what is named, one chunk or document counting as much as another.

    A document counts by the mean of its chunks, a duplicate by those of its owner. For cosine distance only
    directions count, so vectors are brought to one length before a mean is taken.
    Raises IngestError naming the first id that is unknown or has no vector, or where the mean is nothing.
    """
    rows = {row.id: row for row in _means(connection, tenant_id, ids, seen, metric)}
    for named in ids:
        if named not in rows:
            raise IngestError(f"there is no chunk or document {named}", "take ids from a search or a status")
        if rows[named].mean is None:
            raise IngestError(
                f"{rows[named].kind} {named} has no embedding to be like", "name one that has, or give a text"
            )
    mean = _mean([_numbers(rows[named].mean) for named in dict.fromkeys(ids)])
    if not any(mean):
        raise IngestError("what like names cancels out: its mean is zero", "name fewer, or give a text")
    return mean


def named(connection: Connection, tenant_id: UUID, ids: Sequence[UUID], *, seen: Seen) -> Named:
    """Give which chunks and documents these ids are of, a duplicate by its owner; unknown ones are none."""
    chunks = connection.execute(
        text(f"""
            SELECT chunk_id FROM chunks
            WHERE segment IN ({segments.in_list(seen.all)})
              AND tenant_id = :tenant_id AND chunk_id = ANY(:ids)"""),
        {"tenant_id": tenant_id, "ids": list(ids)},
    )
    documents = connection.execute(
        text("""
            SELECT coalesce(duplicate_of, document_id) FROM documents
            WHERE tenant_id = :tenant_id AND document_id = ANY(:ids) AND deleted_at IS NULL"""),
        {"tenant_id": tenant_id, "ids": list(ids)},
    )
    return Named(list(chunks.scalars()), list(documents.scalars()))


def _means(
    connection: Connection, tenant_id: UUID, ids: Sequence[UUID], seen: Seen, metric: Metric
) -> Sequence[Row[Any]]:
    """Give (id, kind, mean) of those that are there."""
    vector = "l2_normalize(c.embedding::vector)" if metric is Metric.COSINE else "c.embedding::vector"
    mean = f"avg({vector}) AS mean"
    if metric is Metric.COSINE:
        mean = f"CASE WHEN vector_norm(avg({vector})) > 0 THEN l2_normalize(avg({vector})) END AS mean"
    among = f"c.segment IN ({segments.in_list(seen.all)}) AND c.tenant_id = :tenant_id"
    found = connection.execute(
        text(f"""
            SELECT c.chunk_id AS id, 'chunk' AS kind, {mean}
            FROM chunks c WHERE {among} AND c.chunk_id = ANY(:ids) GROUP BY c.chunk_id
            UNION ALL
            SELECT d.document_id, 'document', m.mean
            FROM (SELECT document_id, coalesce(duplicate_of, document_id) AS owner FROM documents
                  WHERE tenant_id = :tenant_id AND document_id = ANY(:ids) AND deleted_at IS NULL
                  OFFSET 0) d  -- else row-level security keeps the owner from an index
            CROSS JOIN LATERAL (
                SELECT {mean} FROM chunks c WHERE {among} AND c.document_id = d.owner) m"""),
        {"tenant_id": tenant_id, "ids": list(ids)},
    )
    return found.all()


def _numbers(written: Any) -> list[float]:
    """Read a vector as pgvector writes it."""
    return [float(number) for number in str(written)[1:-1].split(",")]


def _mean(vectors: Sequence[Sequence[float]]) -> list[float]:
    return [sum(numbers) / len(vectors) for numbers in zip(*vectors, strict=True)]
