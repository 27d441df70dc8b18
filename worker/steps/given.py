"""Chunks, and perhaps vectors, that the producer made: how they travel in `documents.content`."""

import hashlib
import json
from collections.abc import Sequence

import numpy as np

from worker.errors import DocumentError
from worker.steps.fingerprint import canonical_json, chunk_hash
from worker.steps.storable import metadata_json, storable
from worker.types import GivenChunk


def dump(chunks: Sequence[GivenChunk]) -> bytes:
    """Write chunks as the content of a document of type `chunks`: canonical JSON in UTF-8.

    Raises DocumentError "bad_chunks" for an empty text, "vector_not_finite" for NaN or infinity.
    """
    for number, chunk in enumerate(chunks, 1):
        if not chunk.text.strip():
            raise DocumentError("bad_chunks", f"chunk {number} has no text")
    try:
        return canonical_json({"chunks": [_record(chunk) for chunk in chunks]}).encode()
    except (TypeError, ValueError) as error:
        raise DocumentError("bad_chunks", f"the chunks cannot be written as JSON: {error}") from None


def _record(chunk: GivenChunk) -> dict[str, object]:
    return {
        "text": storable(chunk.text),
        "vector": None if chunk.vector is None else [float(number) for number in chunk.vector],
        "heading_path": [storable(title) for title in chunk.heading_path],
        "metadata": json.loads(metadata_json(chunk.metadata)),
    }


def parse(text: str) -> list[GivenChunk]:
    """Read what `dump` wrote. Raises DocumentError "bad_chunks"."""
    try:
        return [
            GivenChunk(item["text"], item["vector"], tuple(item["heading_path"]), item["metadata"])
            for item in json.loads(text)["chunks"]
        ]
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise DocumentError("bad_chunks", f"the given chunks cannot be read: {error!r}") from None


def given_hash(model: str, chunk: GivenChunk) -> bytes:
    """Hash a given chunk: one with a vector is equal only to one with the same vector."""
    if chunk.vector is None:
        return chunk_hash(model, chunk.text)
    digest = hashlib.sha256(np.asarray(chunk.vector, dtype=">f8").tobytes()).hexdigest()
    return chunk_hash(f"given:{digest}", chunk.text)
