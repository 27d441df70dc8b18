"""Chunks as a search shows them: where they stand, what they say, what stands around them."""

from collections.abc import Sequence
from typing import Any, NamedTuple
from uuid import UUID

from sqlalchemy import Connection, Row, text

from worker.db.segments import in_list


class Passage(NamedTuple):
    """A chunk in its document. `number`: of the chunk; `position` of `total` counts from one.

    [start, end) are characters of the document's text. `metadata` is the document's, `chunk_metadata` the
    chunk's own.
    """

    number: int
    chunk_id: UUID
    document_id: UUID
    chunk_index: int
    text: str
    language: str
    heading_path: tuple[str, ...]
    filename: str
    source_path: str
    position: int
    total: int
    start: int
    end: int
    metadata: dict[str, Any]
    chunk_metadata: dict[str, Any]


def passages(connection: Connection, visible: Sequence[int], numbers: Sequence[int]) -> dict[int, Passage]:
    """Give the chunks of these numbers: {number: passage}. Place and span are sums over the chunk set.

    Each document is gone through once, as far as its last one of these chunks.
    """
    among = in_list(visible)
    found = connection.execute(
        text(f"""
            WITH asked AS (
                SELECT * FROM chunks WHERE segment IN ({among}) AND number = ANY(:numbers)),
            placed AS (
                SELECT p.* FROM (
                    SELECT document_id, max(chunk_index) AS last FROM asked GROUP BY document_id) f
                CROSS JOIN LATERAL (
                    SELECT b.document_id, b.chunk_index, row_number() OVER upto AS position,
                           sum(b.char_length) OVER upto AS end_at
                    FROM chunks b WHERE b.segment IN ({among})
                      AND b.document_id = f.document_id AND b.chunk_index <= f.last
                    WINDOW upto AS (ORDER BY b.chunk_index)) p)
            SELECT c.number, c.chunk_id, c.document_id, c.chunk_index, c.text, c.language, c.heading_path,
                   c.char_length, c.metadata AS chunk_metadata,
                   d.filename, d.source_path, d.total_chunks,
                   coalesce(d.searched_metadata, d.metadata) AS metadata, p.position, p.end_at
            FROM asked c JOIN documents d ON d.document_id = c.document_id
            JOIN placed p ON p.document_id = c.document_id AND p.chunk_index = c.chunk_index"""),
        {"numbers": list(numbers)},
    )
    return {row.number: _passage(row) for row in found}


def _passage(row: Row[Any]) -> Passage:
    end = int(row.end_at)
    return Passage(
        row.number,
        row.chunk_id,
        row.document_id,
        row.chunk_index,
        row.text,
        row.language,
        tuple(row.heading_path),
        row.filename,
        row.source_path,
        row.position,
        row.total_chunks,
        end - row.char_length,
        end,
        row.metadata,
        row.chunk_metadata,
    )


def texts(connection: Connection, visible: Sequence[int], numbers: Sequence[int]) -> dict[int, str]:
    """Give what the chunks of these numbers say."""
    found = connection.execute(
        text(f"""
            SELECT number, text FROM chunks
            WHERE segment IN ({in_list(visible)}) AND number = ANY(:numbers)"""),
        {"numbers": list(numbers)},
    )
    return {row.number: row.text for row in found}


def around(
    connection: Connection, visible: Sequence[int], passage: Passage, most: int
) -> tuple[list[str], list[str]]:
    """Give the texts before and after a chunk in its document, at most so many each way, in order."""
    before, after = (
        connection.execute(
            text(f"""
                SELECT text FROM chunks
                WHERE segment IN ({in_list(visible)}) AND document_id = :document_id
                  AND chunk_index {side} :chunk_index
                ORDER BY chunk_index {order} LIMIT :most"""),
            {"document_id": passage.document_id, "chunk_index": passage.chunk_index, "most": most},
        )
        .scalars()
        .all()
        for side, order in (("<", "DESC"), (">", "ASC"))
    )
    return list(reversed(before)), list(after)
