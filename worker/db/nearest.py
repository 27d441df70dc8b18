"""The nearest chunks to a vector: what a search sees, filtered, exactly scored."""

from collections.abc import Sequence
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, Row, text

from worker.db import segments
from worker.types import EmbeddingType, Hit


def nearest(
    connection: Connection,
    vector: Sequence[float],
    *,
    tenant_id: UUID,
    project_id: UUID | None,
    any_project: bool,
    k: int,
    column_type: EmbeddingType,
    ef_search: int,
) -> list[Hit]:
    """Give the k nearest chunks by cosine distance, nearest first.

    Call it in a REPEATABLE READ transaction: the list of segments and their rows must be of one
    snapshot, or a chunk that moves between segments would be seen twice or never. The iterative scan
    goes on until k rows pass the filter; without it a filter that keeps 1 % gives no rows at all. It
    gives up after hnsw.max_scan_tuples rows: what comes out short is answered again, exactly.
    """
    connection.execute(
        text(
            f"SET LOCAL hnsw.iterative_scan = strict_order; SET LOCAL hnsw.ef_search = {int(ef_search)};"
            # a generic plan for these statements costs thirty times a custom one
            " SET LOCAL plan_cache_mode = force_custom_plan"
        )
    )
    visible = segments.visible(connection)
    statement = _nearest(visible, column_type, any_project=any_project, project_id=project_id)
    parameters = {"tenant_id": tenant_id, "project_id": project_id, "vector": literal(vector), "k": k}
    found = connection.execute(text(statement + _LIMIT), parameters).all()
    if len(found) < k:
        found = connection.execute(text(statement + _UNINDEXED + _LIMIT), parameters).all()
    return _located(connection, visible, found)


def literal(vector: Sequence[float]) -> str:
    """Write a vector as pgvector reads it."""
    return "[" + ",".join(repr(float(number)) for number in vector) + "]"


def _nearest(
    visible: list[int], column_type: EmbeddingType, *, any_project: bool, project_id: UUID | None
) -> str:
    project = "" if any_project else (" AND project_id IS NULL" if project_id is None else _IN_PROJECT)
    return f"""
        SELECT chunk_id, document_id, chunk_index, char_length, heading_path, text,
               embedding <=> CAST(:vector AS {column_type.value}) AS distance
        FROM chunks
        WHERE segment IN ({segments.in_list(visible)}) AND tenant_id = :tenant_id{project}
          AND embedding IS NOT NULL
        ORDER BY (embedding <=> CAST(:vector AS {column_type.value}))"""


_IN_PROJECT = " AND project_id = :project_id"
# No vector index gives this order. (PostgreSQL 18 takes one of a single leaf despite enable_indexscan = off.)
_UNINDEXED = " + 0"
_LIMIT = " LIMIT :k"


def _located(connection: Connection, visible: list[int], found: Sequence[Row[Any]]) -> list[Hit]:
    """Tell where in its document each chunk stands: number and span are running sums over the set."""
    places = connection.execute(
        text(f"""
            SELECT h.chunk_id, d.filename, d.source_path, d.total_chunks,
                   p.chunks_before, coalesce(p.characters_before, 0) AS start
            FROM unnest(CAST(:chunk_ids AS uuid[]), CAST(:document_ids AS uuid[]), CAST(:indexes AS bigint[]))
                 AS h(chunk_id, document_id, chunk_index)
            JOIN documents d ON d.document_id = h.document_id
            CROSS JOIN LATERAL (
                SELECT count(*) AS chunks_before, sum(c.char_length) AS characters_before
                FROM chunks c WHERE c.segment IN ({segments.in_list(visible)})
                  AND c.document_id = h.document_id AND c.chunk_index < h.chunk_index) p"""),
        {
            "chunk_ids": [row.chunk_id for row in found],
            "document_ids": [row.document_id for row in found],
            "indexes": [row.chunk_index for row in found],
        },
    )
    where = {row.chunk_id: row for row in places}
    return [_hit(row, where[row.chunk_id]) for row in found]


def _hit(row: Row[Any], place: Row[Any]) -> Hit:
    return Hit(
        score=1.0 - row.distance,
        distance=row.distance,
        chunk_id=row.chunk_id,
        document_id=row.document_id,
        filename=place.filename,
        source_path=place.source_path,
        number=place.chunks_before + 1,
        total=place.total_chunks,
        start=int(place.start),
        end=int(place.start) + row.char_length,
        heading_path=tuple(row.heading_path),
        text=row.text,
    )
