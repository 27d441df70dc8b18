"""Rows of `chunks` in PostgreSQL's binary COPY format (manual, "COPY", file formats).

A row does not name its segment: a leaf's column default does, so rows are encoded before it is known
which segment they go into.
"""

import struct
from collections.abc import Sequence
from uuid import UUID

import numpy as np
from numpy.typing import NDArray

COLUMNS = (
    "document_id", "tenant_id", "project_id", "chunk_index", "char_length", "text", "heading_path",
    "content_hash", "embedding", "metadata",
)  # fmt: skip

HEADER = b"PGCOPY\n\xff\r\n\0" + struct.pack("!ii", 0, 0)
TRAILER = struct.pack("!h", -1)

_TEXT_OID = 25
_NULL = struct.pack("!i", -1)
_LENGTH = struct.Struct("!i")
_FIELDS = struct.pack("!h", len(COLUMNS))
_INDEX_AND_LENGTH = struct.Struct("!iqii")
_VECTOR_HEAD = struct.Struct("!ihh")
_NO_HEADINGS = struct.pack("!iiii", 12, 0, 0, _TEXT_OID)


def document_fields(document_id: UUID, tenant_id: UUID, project_id: UUID | None) -> bytes:
    """Encode the fields all rows of a document begin with."""
    ids = b"".join(_field(key.bytes) if key else _NULL for key in (document_id, tenant_id, project_id))
    return _FIELDS + ids


def encode_row(
    prefix: bytes,
    *,
    chunk_index: int,
    char_length: int,
    text: bytes,
    heading_path: Sequence[str],
    content_hash: bytes,
    embedding: NDArray[np.floating] | None,
    metadata: bytes = b"{}",
) -> bytes:
    """Encode one row. `embedding` is big-endian and of the column's type; `text` and `metadata` are UTF-8."""
    return b"".join(
        (
            prefix,
            _INDEX_AND_LENGTH.pack(8, chunk_index, 4, char_length),
            _field(text),
            encode_texts(heading_path),
            _field(content_hash),
            encode_vector(embedding),
            _LENGTH.pack(1 + len(metadata)),
            b"\x01",
            metadata,
        )
    )


def encode_vector(embedding: NDArray[np.floating] | None) -> bytes:
    """Encode a vector or halfvec: dimension, an unused word, the numbers (pgvector vector_send)."""
    if embedding is None:
        return _NULL
    data = embedding.tobytes()
    return _VECTOR_HEAD.pack(4 + len(data), len(embedding), 0) + data


def encode_texts(items: Sequence[str]) -> bytes:
    """Encode text[]: dimensions, null flag, element type, size, lower bound, elements (array_send)."""
    if not items:
        return _NO_HEADINGS
    body = b"".join(_field(item.encode()) for item in items)
    return _LENGTH.pack(20 + len(body)) + struct.pack("!iiiii", 1, 0, _TEXT_OID, len(items), 1) + body


def _field(data: bytes) -> bytes:
    return _LENGTH.pack(len(data)) + data
