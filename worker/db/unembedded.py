"""Chunks without a vector: found, counted, and moved to the open segment with the vector they were owed.

An UPDATE in a leaf with a vector index writes the index again. A row that moves is deleted there and written,
finished, where there is no index yet. It keeps its id and number, so that its postings hold.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple
from uuid import UUID

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Connection, text

from worker.db import chunks, segments
from worker.db.documents import uuid_array
from worker.types import EmbeddingType


class Place(NamedTuple):
    """Where a chunk stands among all: by its document's id, then by its order key."""

    document_id: UUID
    chunk_index: int


START = Place(UUID(int=0), -1)


class Bare(NamedTuple):
    """A chunk without a vector."""

    chunk_id: UUID
    place: Place
    tenant_id: UUID
    text: str


class Owed(NamedTuple):
    """A vector for a chunk, and the hash that a chunk of this text and model has."""

    vector: NDArray[np.floating]
    content_hash: bytes


class Recipes(NamedTuple):
    """What chunk sets are made by: without a model, and with the model that embeds now."""

    bare: bytes
    now: bytes


def count(connection: Connection, most: int) -> int:
    """Count the chunks that a search sees and that have no vector, at most `most`."""
    counted = connection.execute(
        text(f"""
            SELECT count(*) FROM (
                SELECT 1 FROM chunks WHERE segment IN ({_visible(connection)}) AND embedding IS NULL
                LIMIT :most) AS waiting"""),
        {"most": most},
    )
    return int(counted.scalar_one())


def following(connection: Connection, after: Place, most: int) -> list[Bare]:
    """Give the next chunks without a vector, in the order of their places."""
    found = connection.execute(
        text(f"""
            SELECT chunk_id, document_id, chunk_index, tenant_id, text FROM chunks
            WHERE segment IN ({_visible(connection)}) AND embedding IS NULL
              AND (document_id, chunk_index) > (:document_id, :chunk_index)
            ORDER BY document_id, chunk_index LIMIT :most"""),
        {**after._asdict(), "most": most},
    )
    return [Bare(r.chunk_id, Place(r.document_id, r.chunk_index), r.tenant_id, r.text) for r in found]


def give(
    connection: Connection,
    document_ids: Sequence[UUID],
    owed: Mapping[UUID, Owed],
    column_type: EmbeddingType,
    recipes: Recipes,
) -> int:
    """Give chunks of these documents their vectors; gives to how many.

    What was edited, deleted or embedded meanwhile is not there any more, or has a vector. A document that has
    all its vectors now, and was cut as it would be today, counts as made with this model.
    """
    parameters = {"documents": uuid_array(document_ids)}
    connection.execute(
        text("""
            SELECT 1 FROM documents WHERE document_id = ANY(CAST(:documents AS uuid[]))
            ORDER BY document_id FOR NO KEY UPDATE"""),
        parameters,
    )
    moved = _move(connection, owed, column_type)
    connection.execute(
        text(f"""
            UPDATE documents d SET fingerprint = {_FINGERPRINT.format("now")}
            WHERE d.document_id = ANY(CAST(:documents AS uuid[]))
              AND d.fingerprint = {_FINGERPRINT.format("bare")} AND NOT EXISTS (
                SELECT 1 FROM chunks c WHERE c.segment IN ({_visible(connection)})
                  AND c.document_id = d.document_id AND c.embedding IS NULL)"""),
        {**parameters, **recipes._asdict()},
    )
    return moved


# That of worker/steps/fingerprint.py. `updated_at` stays: searches filter by it, and the text is the same.
_FINGERPRINT = "sha256(d.content_hash || :{} || convert_to(d.file_type || '/' || d.language, 'UTF8'))"


def _move(connection: Connection, owed: Mapping[UUID, Owed], column_type: EmbeddingType) -> int:
    visible = segments.visible(connection)
    segment, _ = segments.lock_open(connection)
    moved = connection.execute(
        text(f"""
            UPDATE chunks c SET segment = :segment, updated_at = now(),
                   embedding = CAST(o.vector AS {column_type.value}), content_hash = decode(o.hash, 'hex')
            FROM unnest(CAST(:ids AS uuid[]), CAST(:vectors AS text[]), CAST(:hashes AS text[]))
                 AS o(chunk_id, vector, hash)
            WHERE c.segment IN ({segments.in_list(visible)}) AND c.chunk_id = o.chunk_id
              AND c.embedding IS NULL"""),
        {
            "segment": segment,
            "ids": uuid_array(owed),
            "vectors": [str(one.vector.tolist()) for one in owed.values()],
            "hashes": [one.content_hash.hex() for one in owed.values()],
        },
    )
    if segments.holding(connection) != visible:  # what is left are the copies of a merge
        chunks.wherever_they_are(
            connection,
            "DELETE FROM chunks WHERE segment IN ({segments}) AND chunk_id = ANY(CAST(:ids AS uuid[]))"
            " AND embedding IS NULL",
            ids=uuid_array(owed),
        )
    return moved.rowcount


def _visible(connection: Connection) -> str:
    return segments.in_list(segments.visible(connection))
