"""`chunks`: what is stored of a document, COPY into the open segment's leaf, the trash."""

import json
from collections.abc import Sequence
from typing import Any
from uuid import UUID

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Connection, text

from worker.db import segments
from worker.db.copying import Readable, copy_in
from worker.db.leaves import TRASH
from worker.steps.copyrows import COLUMNS
from worker.steps.plan import Stored
from worker.types import EmbeddingType

_VECTOR_HEADER_BYTES = 4
_NUMBER = {EmbeddingType.VECTOR: ">f4", EmbeddingType.HALFVEC: ">f2"}


def stored_chunks(connection: Connection, document_ids: Sequence[UUID]) -> dict[UUID, list[Stored]]:
    """Give the live chunk sets of documents, in order: {document_id: chunks}."""
    sets: dict[UUID, list[Stored]] = {document_id: [] for document_id in document_ids}
    if not document_ids:
        return sets
    visible = segments.in_list(segments.visible(connection))
    found = connection.execute(
        text(f"""
            SELECT document_id, chunk_id, chunk_index, content_hash, char_length, heading_path, metadata,
                   language
            FROM chunks WHERE segment IN ({visible}) AND document_id = ANY(:ids)
            ORDER BY document_id, chunk_index"""),
        {"ids": list(document_ids)},
    )
    for row in found:
        what = identity(
            bytes(row.content_hash), row.char_length, row.heading_path, row.metadata, row.language
        )
        sets[row.document_id].append(Stored(row.chunk_id, row.chunk_index, what))
    return sets


def identity(
    content_hash: bytes, char_length: int, heading_path: Sequence[str], metadata: Any, language: str
) -> tuple[bytes, int, tuple[str, ...], str, str]:
    """Give all of a chunk that must be equal for its row to stay as it is."""
    written = json.dumps(metadata, sort_keys=True) if metadata else "{}"
    return content_hash, char_length, tuple(heading_path), written, language


def known_vectors(
    connection: Connection, tenant_id: UUID, hashes: Sequence[bytes], column_type: EmbeddingType
) -> dict[bytes, NDArray[np.floating]]:
    """Find vectors the tenant already has for these chunk hashes, in one query, the trash included."""
    if not hashes:
        return {}
    where = segments.visible(connection)
    if _has_trash(connection, tenant_id):
        where.append(TRASH)
    found = connection.execute(
        text(f"""
            SELECT DISTINCT ON (content_hash) content_hash, {column_type.value}_send(embedding) AS sent
            FROM chunks
            WHERE segment IN ({segments.in_list(where)}) AND tenant_id = :tenant_id
              AND content_hash = ANY(:hashes)
              AND embedding IS NOT NULL"""),
        {"tenant_id": tenant_id, "hashes": list(hashes)},
    )
    number = _NUMBER[column_type]
    return {
        bytes(row.content_hash): np.frombuffer(bytes(row.sent), number, offset=_VECTOR_HEADER_BYTES)
        for row in found
    }


def _has_trash(connection: Connection, tenant_id: UUID) -> bool:
    """Tell whether looking for every hash in the trash, too, can find anything.

    A deletion that commits just now may be missed: its vectors are then computed again.
    """
    any_row = text(f"SELECT 1 FROM chunks WHERE segment = {TRASH} AND tenant_id = :tenant_id LIMIT 1")
    return connection.execute(any_row, {"tenant_id": tenant_id}).first() is not None


def draw_numbers(connection: Connection, count: int) -> list[int]:
    """Give the numbers of so many chunks to be. Those that are not used in the end are lost, at no harm."""
    drawn = connection.execute(
        text("SELECT nextval('chunk_numbers') FROM generate_series(1, :count)"), {"count": count}
    )
    return list(drawn.scalars())


def copy_rows(connection: Connection, leaf: str, data: Readable) -> int:
    """Stream a binary COPY (header, rows, trailer) into a leaf; gives the number of rows."""
    return copy_in(connection, leaf, COLUMNS, data)


def remove_chunks(connection: Connection, document_ids: Sequence[UUID], chunk_ids: Sequence[UUID]) -> None:
    """Delete these live chunks of these documents, which the caller has locked."""
    if chunk_ids:
        wherever_they_are(
            connection,
            "DELETE FROM chunks WHERE segment IN ({segments})"
            " AND document_id = ANY(:documents) AND chunk_id = ANY(:chunks)",
            documents=list(document_ids),
            chunks=list(chunk_ids),
        )


def remove_sets(connection: Connection, document_ids: Sequence[UUID]) -> None:
    """Delete whatever live chunks these documents have; the caller has locked them."""
    if document_ids:
        wherever_they_are(
            connection,
            "DELETE FROM chunks WHERE segment IN ({segments}) AND document_id = ANY(:documents)",
            documents=list(document_ids),
        )


def wherever_they_are(connection: Connection, deletion: str, **parameters: Any) -> None:
    """Delete in all segments that hold chunks, and again where others do by now.

    A merge may begin or end between our look at the list and the statement. From the statement on we
    hold locks that a merge waits for after its copy, so what the second look does not show has not
    been copied past us (docs/decisions/0009).
    """
    seen: list[int] = []
    while (now := segments.holding(connection)) != seen:
        connection.execute(text(deletion.format(segments=segments.in_list(now))), parameters)
        seen = now


def trash(connection: Connection, document_ids: Sequence[UUID]) -> None:
    """Move the chunks of documents, which the caller has locked, out of every search's sight.

    Two sessions that move the same rows get 40001: callers try again.
    """
    visible = segments.visible(connection)
    connection.execute(
        text(f"""
            UPDATE chunks SET segment = {TRASH}, updated_at = now()
            WHERE segment IN ({segments.in_list(visible)}) AND document_id = ANY(:ids)"""),
        {"ids": list(document_ids)},
    )
    if segments.holding(connection) != visible:
        remove_sets(connection, document_ids)  # what is left are the copies of a merge


def untrash(connection: Connection, document_ids: Sequence[UUID]) -> int:
    """Move documents' chunks from the trash into the open segment; gives how many moved."""
    segment, _ = segments.lock_open(connection)
    moved = connection.execute(
        text(f"""
            UPDATE chunks SET segment = :segment, updated_at = now()
            WHERE segment = {TRASH} AND document_id = ANY(:ids)"""),
        {"segment": segment, "ids": list(document_ids)},
    )
    return moved.rowcount


def purge_trash(connection: Connection, document_ids: Sequence[UUID]) -> int:
    """Delete documents' chunks from the trash for good; gives how many."""
    gone = connection.execute(
        text(f"DELETE FROM chunks WHERE segment = {TRASH} AND document_id = ANY(:ids)"),
        {"ids": list(document_ids)},
    )
    return gone.rowcount
