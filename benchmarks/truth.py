"""The truly nearest vectors, by cosine, in full precision: compared block by block, so that none is kept."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from benchmarks.ready import place_of
from worker.types import Answer

Vectors = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Truth:
    """The nearest of the vectors seen so far to each of those asked for, by their places."""

    asked: Vectors
    scores: Vectors
    places: NDArray[np.int64]

    @classmethod
    def of(cls, asked: Sequence[Sequence[float]] | Vectors, k: int) -> Self:
        """Begin with nothing seen."""
        vectors = _unit(np.array(asked, np.float32))
        shape = len(vectors), k
        return cls(vectors, np.full(shape, -np.inf, np.float32), np.full(shape, -1, np.int64))

    def having_seen(self, first: int, vectors: Vectors, there: Sequence[bool] | None = None) -> Self:
        """Compare with the vectors at the places from `first` on, too; `there`: which of them count."""
        new = self.asked @ _unit(vectors).T
        if there is not None:
            new[:, ~np.array(there)] = -np.inf
        places = np.broadcast_to(np.arange(first, first + len(vectors)), new.shape)
        scores = np.concatenate([self.scores, new], axis=1)
        places = np.concatenate([self.places, places], axis=1)
        k = self.places.shape[1]
        best = np.argpartition(-scores, k - 1, axis=1)[:, :k]
        return type(self)(
            self.asked, np.take_along_axis(scores, best, axis=1), np.take_along_axis(places, best, axis=1)
        )

    def nearest(self) -> list[set[int]]:
        """Give the places of the nearest of each."""
        return [set(row.tolist()) - {-1} for row in self.places]

    def recall(self, answers: Sequence[Answer]) -> float:
        """Give the share of the nearest that was found, over the first so many that were asked for."""
        true = self.nearest()[: len(answers)]
        found = [{place_of(hit.text) for hit in answer.hits} for answer in answers]
        return sum(map(len, map(set.intersection, true, found))) / sum(map(len, true))


def _unit(vectors: Vectors) -> Vectors:
    unit: Vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return unit
