"""The terms of a batch's new chunks, by number, until they are written: in memory, then in a file."""

import tempfile
from collections.abc import Sequence
from itertools import pairwise
from typing import IO

import numpy as np

from worker.steps.copyrows import Row
from worker.steps.postings import Postings, Words, invert
from worker.steps.terms import TermIds, Vocabulary


class TermStore:
    """Holds the term ids of rows, in their order."""

    def __init__(self, memory_bytes: int, vocabulary: Vocabulary) -> None:
        self._vocabulary = vocabulary
        self._ids: IO[bytes] = tempfile.SpooledTemporaryFile(max_size=memory_bytes)  # noqa: SIM115 -- see close()
        self._ends = [0]  # in bytes

    def close(self) -> None:
        """Give up what is held."""
        self._ids.close()

    def append(self, rows: Sequence[Row]) -> None:
        """Find the terms of rows: those of a chunk's text, and of its headings what the text lacks."""
        self._ids.seek(self._ends[-1])
        for row in rows:
            ids = self._vocabulary.chunk_ids(row.piece.text, row.piece.heading_path, row.language)
            self._ids.write(ids.data)
            self._ends.append(self._ends[-1] + ids.nbytes)

    def take_back(self, size: int) -> None:
        """Forget all but the first `size` rows."""
        del self._ends[size + 1 :]

    def postings(self, rows: Sequence[Row], start: int) -> Postings:
        """Give the postings of rows, the first of which is the one at position `start`."""
        words = zip(rows, self._read(start, start + len(rows)), strict=True)
        return invert([Words(row.number, row.language, ids) for row, ids in words], self._vocabulary)

    def _read(self, start: int, stop: int) -> list[TermIds]:
        first = self._ends[start]
        self._ids.seek(first)
        data = self._ids.read(self._ends[stop] - first)
        return [
            np.frombuffer(data[low - first : high - first], np.uint32)
            for low, high in pairwise(self._ends[start : stop + 1])
        ]
