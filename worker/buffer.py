"""The rows of a batch waiting for their COPY; vectors and terms in memory up to a limit, in a file beyond it.

Rows are encoded while the server takes them in: the two processes then work at the same time, and
a chunk's text is not held twice.
"""

import tempfile
from collections.abc import Iterator, Sequence
from itertools import accumulate, chain, islice, pairwise, starmap
from types import TracebackType
from typing import IO, Self
from uuid import UUID

import numpy as np
from numpy.typing import NDArray

from worker.errors import IngestError
from worker.steps.copyrows import HEADER, NO_VECTOR, TRAILER, CopyStream, Row, encode_vectors, row_fields
from worker.steps.postings import copy_parts
from worker.steps.terms import Vocabulary
from worker.termstore import TermStore

Range = tuple[int, int]
Vector = NDArray[np.floating]

_ROWS_A_PART = 64


class BufferLostError(IngestError):
    """The disk refused what waits to be written: what was buffered is not whole, and must not be written."""


class RowBuffer:
    """Holds the rows of a batch. Ranges of it (start, end, counted in rows) belong to documents."""

    def __init__(self, memory_bytes: int, vocabulary: Vocabulary) -> None:
        memory_bytes = max(memory_bytes, 1)  # none, to the library, is no limit
        self._rows: list[Row] = []
        # how many vectors the rows before a position have: a row without one adds nothing
        self._before = [0]
        self._width = 0  # bytes of an encoded vector
        self._vectors: IO[bytes] = tempfile.SpooledTemporaryFile(max_size=memory_bytes)  # noqa: SIM115 -- see __exit__
        self._terms = TermStore(memory_bytes, vocabulary)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._vectors.close()
        self._terms.close()

    @property
    def size(self) -> int:
        """The number of rows."""
        return len(self._rows)

    def append(self, rows: Sequence[Row], vectors: Sequence[Vector | None]) -> None:
        """Add rows with their vectors, which are big-endian, of the column's type and of one dimension.

        Raises BufferLostError where the disk refuses: then the rows before are lost as well.
        """
        try:
            self._append(rows, vectors)
        except OSError as error:
            # the file may have taken a part, of rows that were in memory until now, too
            raise BufferLostError(
                f"the disk under {tempfile.gettempdir()} refuses what waits to be written: {error.strerror}",
                "free some space there, or set TMPDIR to a folder of another disk",
            ) from None

    def _append(self, rows: Sequence[Row], vectors: Sequence[Vector | None]) -> None:
        if len(rows) != len(vectors):
            raise ValueError(f"{len(vectors)} vectors came for {len(rows)} rows")
        encoded = encode_vectors([vector for vector in vectors if vector is not None])
        self._vectors.seek(self._before[-1] * self._width)
        self._vectors.write(encoded)
        before = self._before[-1]
        self._rows += rows
        self._terms.append(rows)
        self._before += islice(
            accumulate((vector is not None for vector in vectors), initial=before), 1, None
        )
        if encoded:
            self._width = len(encoded) // (self._before[-1] - before)

    def take_back(self, size: int) -> None:
        """Forget all but the first `size` rows."""
        del self._rows[size:], self._before[size + 1 :]
        self._terms.take_back(size)

    def stream(self, ranges: Sequence[Range]) -> CopyStream:
        """Give a binary COPY of the rows in these ranges."""
        return CopyStream(self._parts(ranges))

    def postings(self, ranges: Sequence[Range], tenant_id: UUID) -> CopyStream:
        """Give a binary COPY of the postings of the rows in these ranges."""
        return CopyStream(self._posting_parts(ranges, tenant_id))

    def _posting_parts(self, ranges: Sequence[Range], tenant_id: UUID) -> Iterator[bytes]:
        yield HEADER
        for start, stop in merged(ranges):
            for low, high in self._terms.parts(start, stop):
                yield b"".join(copy_parts(self._terms.postings(self._rows[low:high], low), tenant_id))
        yield TRAILER

    def _parts(self, ranges: Sequence[Range]) -> Iterator[bytes]:
        yield HEADER
        for start, stop in merged(ranges):
            for low in range(start, stop, _ROWS_A_PART):
                yield self._encoded(low, min(low + _ROWS_A_PART, stop))
        yield TRAILER

    def _encoded(self, start: int, stop: int) -> bytes:
        rows = zip(self._rows[start:stop], self._read(start, stop), strict=True)
        return b"".join(chain.from_iterable(starmap(row_fields, rows)))

    def _read(self, start: int, stop: int) -> Iterator[bytes | memoryview]:
        """Give the encoded vectors of these rows."""
        first, width = self._before[start], self._width
        self._vectors.seek(first * width)
        data = memoryview(self._vectors.read((self._before[stop] - first) * width))
        for low, high in pairwise(self._before[start : stop + 1]):
            yield data[(low - first) * width : (high - first) * width] if high > low else NO_VECTOR


def merged(ranges: Sequence[Range]) -> list[Range]:
    """Join ranges that touch, so that a whole batch is read in one go."""
    joined: list[Range] = []
    for start, stop in ranges:
        if joined and joined[-1][1] == start:
            joined[-1] = (joined[-1][0], stop)
        else:
            joined.append((start, stop))
    return joined
