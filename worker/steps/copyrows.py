"""PostgreSQL's binary COPY format (manual, "COPY", file formats): rows of `chunks` written, any rows read.

A row does not name its segment: a leaf's column default does, so rows are encoded before it is known
which segment they go into.
"""

import struct
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import NamedTuple
from uuid import UUID

import numpy as np
from numpy.typing import NDArray

from worker.steps.prepare import Piece

COLUMNS = (
    "document_id", "tenant_id", "project_id", "language", "chunk_id", "number", "chunk_index", "char_length",
    "text", "heading_path", "content_hash", "embedding", "metadata",
)  # fmt: skip

HEADER = b"PGCOPY\n\xff\r\n\0" + struct.pack("!ii", 0, 0)
TRAILER = struct.pack("!h", -1)

_TEXT_OID = 25
_NULL = struct.pack("!i", -1)
_LENGTH = struct.Struct("!i")
NO_VECTOR = _NULL
_FIELDS = struct.pack("!h", len(COLUMNS))
_ID_TO_TEXT = struct.Struct("!i16siqiqiii")
_VECTOR_HEAD = struct.Struct("!ihh")
_NO_HEADINGS = struct.pack("!iiii", 12, 0, 0, _TEXT_OID)
_JSONB_VERSION = b"\x01"


def document_fields(document_id: UUID, tenant_id: UUID, project_id: UUID | None, language: str) -> bytes:
    """Encode the fields all rows of a document begin with."""
    ids = b"".join(_field(key.bytes) if key else _NULL for key in (document_id, tenant_id, project_id))
    return _FIELDS + ids + _field(language.encode())


class Row(NamedTuple):
    """A row to be, without its vector. `prefix`: the encoded fields of its document."""

    prefix: bytes
    language: str
    chunk_id: bytes
    number: int
    chunk_index: int
    piece: Piece


def row_fields(row: Row, vector: bytes | memoryview) -> tuple[bytes | memoryview, ...]:
    """Give what a row consists of, to be joined with other rows. `vector` is an encoded one."""
    prefix, _, chunk_id, number, chunk_index, piece = row
    text = piece.text.encode()
    return (
        prefix,
        _ID_TO_TEXT.pack(16, chunk_id, 8, number, 8, chunk_index, 4, piece.char_length, len(text)),
        text,
        _encoded_texts(piece.heading_path),
        _LENGTH.pack(len(piece.content_hash)),
        piece.content_hash,
        vector,
        _NO_METADATA
        if piece.metadata_json == "{}"
        else _field(_JSONB_VERSION + piece.metadata_json.encode()),
    )


def encode_vectors(embeddings: Sequence[NDArray[np.floating]]) -> bytes:
    """Encode vectors of one dimension and type, one after the other, without copying them before."""
    if not embeddings:
        return b""
    head = _VECTOR_HEAD.pack(4 + embeddings[0].nbytes, len(embeddings[0]), 0)
    return head + head.join(embedding.data for embedding in embeddings)


def encode_texts(items: Sequence[str]) -> bytes:
    """Encode text[]: dimensions, null flag, element type, size, lower bound, elements (array_send)."""
    if not items:
        return _NO_HEADINGS
    body = b"".join(_field(item.encode()) for item in items)
    return _LENGTH.pack(20 + len(body)) + struct.pack("!iiiii", 1, 0, _TEXT_OID, len(items), 1) + body


# chunks that follow one another stand under the same headings
_encoded_texts = lru_cache(maxsize=64)(encode_texts)


def _field(data: bytes) -> bytes:
    return _LENGTH.pack(len(data)) + data


_NO_METADATA = _field(_JSONB_VERSION + b"{}")


def read_rows(data: memoryview) -> Iterator[Sequence[memoryview]]:
    """Yield the fields of each row, none of which may be NULL."""
    at = len(HEADER)
    while (fields := int.from_bytes(data[at : at + 2], signed=True)) >= 0:
        row, at = [], at + 2
        for _ in range(fields):
            start = at + _LENGTH.size
            at = start + _LENGTH.unpack_from(data, at)[0]
            row.append(data[start:at])
        yield row


class CopyStream:
    """A readable stream over parts, for the driver's COPY."""

    def __init__(self, parts: Iterator[bytes]) -> None:
        self._parts = parts
        self._rest = b""

    def read(self, size: int = -1) -> bytes:
        """Give at most `size` bytes (all of a part's with -1), b"" at the end."""
        if not self._rest:
            self._rest = next(self._parts, b"")
        if 0 <= size < len(self._rest):
            given, self._rest = self._rest[:size], self._rest[size:]
            return given
        given, self._rest = self._rest, b""
        return given
