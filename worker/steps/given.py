"""Chunks, and perhaps vectors, that the producer made: how they travel in `documents.content`."""

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from worker.errors import DocumentError
from worker.steps.fingerprint import canonical_json, chunk_hash
from worker.steps.storable import metadata_json, storable
from worker.types import GivenChunk


def dump(chunks: Sequence[GivenChunk]) -> bytes:
    """Write chunks as the content of a document of type `chunks`: canonical JSON in UTF-8.

    Raises DocumentError: "bad_chunks" for an empty text or what is no number, "vector_not_finite",
    "bad_metadata".
    """
    cleaned = (_cleaned(number, chunk) for number, chunk in enumerate(chunks, 1))
    return canonical_json({"chunks": [_record(chunk) for chunk in cleaned]}).encode()


def _record(chunk: GivenChunk) -> dict[str, object]:
    return {
        "text": chunk.text,
        "vector": chunk.vector,
        "heading_path": chunk.heading_path,
        "metadata": chunk.metadata,
    }


def _cleaned(number: int, chunk: GivenChunk) -> GivenChunk:
    text = storable(chunk.text)
    if not text.strip():
        raise DocumentError("bad_chunks", f"chunk {number} has no text")
    return GivenChunk(
        text,
        None if chunk.vector is None else _numbers(number, chunk.vector),
        tuple(storable(title) for title in chunk.heading_path),
        json.loads(metadata_json(chunk.metadata)),
    )


def _numbers(number: int, vector: Sequence[float]) -> list[float]:
    try:
        numbers = [float(value) for value in vector]
    except OverflowError:
        numbers = [math.inf]
    except (TypeError, ValueError):
        raise DocumentError("bad_chunks", f"the vector of chunk {number} is not numbers") from None
    if not all(map(math.isfinite, numbers)):
        raise DocumentError("vector_not_finite", f"the vector of chunk {number} has NaN or infinity")
    return numbers


def parse(text: str) -> list[GivenChunk]:
    """Read what `dump` wrote, or what a producer wrote like it.

    Raises DocumentError: "bad_chunks", "vector_not_finite", "bad_metadata".
    """
    try:
        items = json.loads(text)["chunks"]
        return [_cleaned(number, _chunk(item)) for number, item in enumerate(items, 1)]
    except (AttributeError, KeyError, TypeError, ValueError, RecursionError) as error:
        raise DocumentError("bad_chunks", f"the given chunks cannot be read: {error!r}") from None


def _chunk(item: Mapping[str, Any]) -> GivenChunk:
    if not isinstance(item["heading_path"], list):
        raise TypeError("heading_path is not a list")
    return GivenChunk(item["text"], item["vector"], tuple(item["heading_path"]), item["metadata"])


def given_hash(model: str, chunk: GivenChunk) -> bytes:
    """Hash a given chunk: one with a vector is equal only to one with the same vector."""
    if chunk.vector is None:
        return chunk_hash(model, chunk.text)
    digest = hashlib.sha256(np.asarray(chunk.vector, dtype=">f8").tobytes()).hexdigest()
    return chunk_hash(f"given:{digest}", chunk.text)
