"""Hashes that decide what work there is. Raise VERSION whenever a hash would mean something else."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from worker.steps.chunk import VERSION as CHUNKER_VERSION
from worker.types import FileType

VERSION = 1


def content_hash(text: str) -> bytes:
    """Hash a document's decoded text: SHA-256, 32 bytes."""
    return hashlib.sha256(text.encode()).digest()


def source_key(source_path: str) -> bytes:
    """Hash a source path: a path may be longer than a B-tree entry can be."""
    return hashlib.sha256(source_path.encode()).digest()


def chunk_hash(model: str, text: str) -> bytes:
    """Hash what an embedding depends on. Equal hashes mean that the stored vector can be used again."""
    return hashlib.sha256(f"{model}\0{text}".encode()).digest()


def recipe(*, model: str, dimension: int, chunk_size: int, chunk_overlap: int) -> bytes:
    """Hash everything but the content that a chunk set depends on: SHA-256, 32 bytes."""
    parts = {
        "version": VERSION,
        "chunker": CHUNKER_VERSION,
        "size": chunk_size,
        "overlap": chunk_overlap,
        "model": model,
        "dimension": dimension,
    }
    return hashlib.sha256(canonical_json(parts).encode()).digest()


def fingerprint(content: bytes, recipe_hash: bytes, file_type: FileType, language: str) -> bytes:
    """Hash a chunk set's origin. Submission computes the same in SQL, see `db/submissions.py`."""
    return hashlib.sha256(content + recipe_hash + f"{file_type}/{language}".encode()).digest()


def canonical_json(value: Mapping[str, Any]) -> str:
    """Write JSON so that equal values give equal text; refuses NaN and infinities with ValueError."""
    return json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
