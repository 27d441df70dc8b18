"""The rows of a batch waiting for their COPY; their vectors in memory up to a limit, in a file beyond it.

Rows are encoded while the server takes them in: the two processes then work at the same time, and
a chunk's text is not held twice.
"""

import tempfile
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import IO, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from worker.steps.copyrows import HEADER, TRAILER, encode_row
from worker.steps.prepare import Piece

Range = tuple[int, int]
Vector = NDArray[np.floating]

_ROWS_A_PART = 64


class Row(NamedTuple):
    """A row to be, without its vector. `prefix`: the encoded fields of its document."""

    prefix: bytes
    chunk_index: int
    piece: Piece


class RowBuffer:
    """Holds the rows of a batch. Ranges of it (start, end, counted in rows) belong to documents."""

    def __init__(self, memory_bytes: int) -> None:
        self._rows: list[Row] = []
        # how many vectors the rows before a position have: a row without one adds nothing
        self._before = [0]
        self._kind, self._dimension = np.dtype(np.float32), 0
        self._vectors: IO[bytes] = tempfile.SpooledTemporaryFile(max_size=memory_bytes)  # noqa: SIM115 -- see __exit__

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._vectors.close()

    @property
    def size(self) -> int:
        """The number of rows."""
        return len(self._rows)

    def append(self, rows: Sequence[Row], vectors: Sequence[Vector | None]) -> None:
        """Add rows with their vectors, which are big-endian, of the column's type and of one dimension."""
        self._vectors.seek(self._place(self.size))
        present = [vector for vector in vectors if vector is not None]
        if present:
            self._kind, self._dimension = present[0].dtype, len(present[0])
        self._vectors.write(b"".join(vector.data for vector in present))
        count = self._before[-1]
        for row, vector in zip(rows, vectors, strict=True):
            count += vector is not None
            self._rows.append(row)
            self._before.append(count)

    def take_back(self, size: int) -> None:
        """Forget all but the first `size` rows."""
        del self._rows[size:], self._before[size + 1 :]

    def stream(self, ranges: Sequence[Range]) -> "CopyStream":
        """Give a binary COPY of the rows in these ranges."""
        return CopyStream(self._parts(ranges))

    def _parts(self, ranges: Sequence[Range]) -> Iterator[bytes]:
        yield HEADER
        for start, stop in merged(ranges):
            for low in range(start, stop, _ROWS_A_PART):
                yield self._encoded(low, min(low + _ROWS_A_PART, stop))
        yield TRAILER

    def _encoded(self, start: int, stop: int) -> bytes:
        return b"".join(
            encode_row(
                prefix,
                chunk_index=chunk_index,
                char_length=piece.char_length,
                text=piece.text.encode(),
                heading_path=piece.heading_path,
                content_hash=piece.content_hash,
                embedding=vector,
                metadata=piece.metadata_json.encode(),
            )
            for (prefix, chunk_index, piece), vector in zip(
                self._rows[start:stop], self._read(start, stop), strict=True
            )
        )

    def _read(self, start: int, stop: int) -> Iterator[Vector | None]:
        self._vectors.seek(self._place(start))
        data = self._vectors.read(self._place(stop) - self._place(start))
        stored = iter(np.frombuffer(data, self._kind).reshape(-1, self._dimension or 1))
        for position in range(start, stop):
            yield next(stored) if self._before[position + 1] > self._before[position] else None

    def _place(self, position: int) -> int:
        return self._before[position] * self._dimension * self._kind.itemsize


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


def merged(ranges: Sequence[Range]) -> list[Range]:
    """Join ranges that touch, so that a whole batch is read in one go."""
    joined: list[Range] = []
    for start, stop in ranges:
        if joined and joined[-1][1] == start:
            joined[-1] = (joined[-1][0], stop)
        else:
            joined.append((start, stop))
    return joined
