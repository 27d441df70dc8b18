"""The terms of a batch's new chunks, by number, until they are written: in memory, then in a file.

A vocabulary that is full is put away, for the rows that it numbered, and begins anew: it takes no more memory
however many words a document has.

    rows     0 … 1,299   1,300 … 2,611   2,612 …
    terms    _full[0]    _full[1]        the vocabulary
"""

import tempfile
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import IO, NamedTuple

import numpy as np

from worker.steps.copyrows import Row
from worker.steps.postings import Postings, Words, invert
from worker.steps.terms import TermIds, Vocabulary

# What is turned round at once: it takes some 60 bytes a term.
_ROWS_A_PART = 4_096
_BYTES_A_PART = 8 << 20


class _Full(NamedTuple):
    """A vocabulary that was put away: the row that it ends before, and where its terms are, in bytes."""

    stop: int
    start: int
    end: int


class TermStore:
    """Holds the term ids of rows, in their order. The vocabulary is nobody else's: it is renewed."""

    def __init__(self, memory_bytes: int, vocabulary: Vocabulary) -> None:
        self._vocabulary = vocabulary
        self._ids: IO[bytes] = tempfile.SpooledTemporaryFile(max_size=memory_bytes)  # noqa: SIM115 -- see close()
        self._ends = [0]  # in bytes
        self._terms: IO[bytes] = tempfile.SpooledTemporaryFile(max_size=memory_bytes)  # noqa: SIM115 -- see close()
        self._full: list[_Full] = []

    def close(self) -> None:
        """Give up what is held."""
        self._ids.close()
        self._terms.close()

    def append(self, rows: Sequence[Row]) -> None:
        """Find the terms of rows: those of a chunk's text, and of its headings what the text lacks."""
        self._ids.seek(self._ends[-1])
        for row in rows:
            if self._vocabulary.is_full:
                self._put_away()
            ids = self._vocabulary.chunk_ids(row.piece.text, row.piece.heading_path, row.language)
            self._ids.write(ids.data)
            self._ends.append(self._ends[-1] + ids.nbytes)

    def _put_away(self) -> None:
        """Keep the terms of the rows so far, then renew: without memory for it, both are as before."""
        written = "\n".join(self._vocabulary.terms()).encode()
        start = self._full[-1].end if self._full else 0
        self._terms.seek(start)
        self._terms.write(written)
        self._full.append(_Full(len(self._ends) - 1, start, start + len(written)))
        self._vocabulary.renew()

    def take_back(self, size: int) -> None:
        """Forget all but the first `size` rows."""
        del self._ends[size + 1 :]
        self._full = [full._replace(stop=min(full.stop, size)) for full in self._full]

    def parts(self, start: int, stop: int) -> Iterator[tuple[int, int]]:
        """Cut a range of rows into ranges of one vocabulary, each small enough for `postings`."""
        while start < stop:
            fitting = bisect_right(self._ends, self._ends[start] + _BYTES_A_PART) - 1
            full = self._full_of(start)
            end = min(stop, full.stop if full else stop, start + _ROWS_A_PART, max(fitting, start + 1))
            yield start, end
            start = end

    def postings(self, rows: Sequence[Row], start: int) -> Postings:
        """Give the postings of a part's rows, the first of which is the one at position `start`."""
        words = zip(rows, self._read(start, start + len(rows)), strict=True)
        chunks = [Words(row.number, row.language, ids) for row, ids in words]
        return invert(chunks, self._vocabulary_of(start))

    def _full_of(self, row: int) -> _Full | None:
        """Give the vocabulary that numbered a row's terms; None where that is the one at hand."""
        return next((full for full in self._full if row < full.stop), None)

    def _vocabulary_of(self, row: int) -> Vocabulary:
        full = self._full_of(row)
        if full is None:
            return self._vocabulary
        self._terms.seek(full.start)
        return Vocabulary(self._terms.read(full.end - full.start).decode().split("\n"))

    def _read(self, start: int, stop: int) -> list[TermIds]:
        first = self._ends[start]
        self._ids.seek(first)
        data = self._ids.read(self._ends[stop] - first)
        return [
            np.frombuffer(data[low - first : high - first], np.uint32)
            for low, high in pairwise(self._ends[start : stop + 1])
        ]
