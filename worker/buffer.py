"""Encoded rows waiting for their COPY: in memory up to a limit, in a temporary file beyond it."""

import tempfile
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import IO, Self

from worker.steps.copyrows import HEADER, TRAILER

Range = tuple[int, int]


class RowBuffer:
    """Holds the encoded rows of a batch. Ranges of it (start, end in bytes) belong to documents."""

    def __init__(self, memory_bytes: int) -> None:
        self._file: IO[bytes] = tempfile.SpooledTemporaryFile(max_size=memory_bytes)  # noqa: SIM115 -- see __exit__

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    @property
    def size(self) -> int:
        """The number of bytes written so far."""
        return self._file.tell()

    def append(self, row: bytes) -> None:
        """Add an encoded row."""
        self._file.write(row)

    def take_back(self, size: int) -> None:
        """Forget everything after the first `size` bytes."""
        self._file.seek(size)
        self._file.truncate()

    def stream(self, ranges: Sequence[Range]) -> "CopyStream":
        """Give a binary COPY of the rows in these ranges. Writing goes on at the end afterwards."""
        return CopyStream(self._parts(ranges))

    def _parts(self, ranges: Sequence[Range]) -> Iterator[bytes]:
        end = self._file.tell()
        yield HEADER
        for start, stop in merged(ranges):
            self._file.seek(start)
            left = stop - start
            while left:
                part = self._file.read(min(left, 1 << 20))
                left -= len(part)
                yield part
        yield TRAILER
        self._file.seek(end)


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
