"""Chunks, and perhaps vectors, that the producer made: what they must be, their hashes, how they are kept."""

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from worker.errors import DocumentError
from worker.steps.fingerprint import canonical_json, chunk_hash
from worker.steps.storable import metadata_json, storable, to_clean
from worker.steps.vectors import checked
from worker.types import EmbeddingType, GivenChunk


def dump(chunks: Sequence[GivenChunk]) -> bytes:
    """Write chunks as the content of a document of type `chunks`: canonical JSON in UTF-8.

    Raises DocumentError: "bad_chunks" for an empty text or what is no number, "vector_not_finite",
    "bad_metadata".
    """
    cleaned = (_cleaned(number, chunk) for number, chunk in enumerate(chunks, 1))
    return canonical_json({"chunks": [_record(chunk) for chunk in cleaned]}).encode()


def with_vectors(
    chunks: Sequence[GivenChunk], *, dimension: int, column_type: EmbeddingType
) -> list[GivenChunk]:
    """Give chunks as they are to be stored, their vectors big-endian in single precision.

    Raises DocumentError: "bad_chunks", "vector_missing", "bad_metadata", and what `checked` raises.
    """
    described = [_described(number, chunk) for number, chunk in enumerate(chunks, 1)]
    if not described:
        return []
    vectors = [_present(number, chunk, dimension) for number, chunk in enumerate(chunks, 1)]
    single = checked(vectors, count=len(vectors), dimension=dimension, column_type=EmbeddingType.VECTOR)
    if column_type is not EmbeddingType.VECTOR:
        checked(single, count=len(vectors), dimension=dimension, column_type=column_type)
    return [replace(chunk, vector=vector) for chunk, vector in zip(described, single, strict=True)]


def _present(number: int, chunk: GivenChunk, dimension: int) -> Sequence[float]:
    if chunk.vector is None:
        raise DocumentError("vector_missing", f"chunk {number} has no vector; submit the document instead")
    if len(chunk.vector) != dimension:
        raise DocumentError(
            "vector_dimension",
            f"chunk {number}: vectors have {len(chunk.vector)} dimensions, the database holds {dimension}",
        )
    return chunk.vector


def _record(chunk: GivenChunk) -> dict[str, object]:
    return {
        "text": chunk.text,
        "vector": chunk.vector,
        "heading_path": chunk.heading_path,
        "metadata": chunk.metadata,
    }


def _cleaned(number: int, chunk: GivenChunk) -> GivenChunk:
    described = _described(number, chunk)
    if chunk.vector is None:
        return described
    return replace(described, vector=_numbers(number, chunk.vector))


def _described(number: int, chunk: GivenChunk) -> GivenChunk:
    """Give a chunk without its vector, storable."""
    text = storable(chunk.text)
    if not text.strip():
        raise DocumentError("bad_chunks", f"chunk {number} has no text")
    return GivenChunk(
        text,
        None,
        tuple(storable(title) for title in chunk.heading_path),
        {} if chunk.metadata == {} else json.loads(metadata_json(chunk.metadata)),
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


def replaced_in(chunks: Sequence[GivenChunk]) -> int:
    """Count the NULs and lone surrogates of chunks that can be stored without them."""
    return sum(to_clean([chunk.text, chunk.heading_path, chunk.metadata]) for chunk in chunks)


def parse(text: str) -> tuple[list[GivenChunk], int]:
    """Read what `dump` wrote, or what a producer wrote like it; gives also how much of it was cleaned.

    Raises DocumentError: "bad_chunks", "vector_not_finite", "bad_metadata".
    """
    try:
        read = [_chunk(item) for item in json.loads(text)["chunks"]]
        cleaned = [_cleaned(number, chunk) for number, chunk in enumerate(read, 1)]
        return cleaned, replaced_in(read)
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
    return chunk_hash(f"given:{_digest(chunk.vector)}", chunk.text)


def content_hash(chunks: Sequence[GivenChunk]) -> bytes:
    """Hash all that a document's given chunks are: the same however they came here."""
    whole = hashlib.sha256()
    for chunk in chunks:
        vector = "" if chunk.vector is None else _digest(chunk.vector)
        described = canonical_json(
            {"text": chunk.text, "vector": vector, "path": chunk.heading_path, "metadata": chunk.metadata}
        )
        whole.update(hashlib.sha256(described.encode()).digest())
    return whole.digest()


def _digest(vector: Sequence[float]) -> str:
    """Hash a vector in single precision, which is what is stored at most."""
    with np.errstate(over="ignore"):
        return hashlib.sha256(np.asarray(vector, dtype=">f4").tobytes()).hexdigest()
