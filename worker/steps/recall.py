"""Recall@10: how many of the ten truly nearest the answers have, summed up and recorded.

The nearest are those of an exact scan. Answers are compared by distance, as ann-benchmarks does: of some at
one distance it does not matter which were found.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean, median
from typing import Any, NamedTuple, Self

K = 10
# The median of so many runs, at least, tells what is usual.
_FEWEST_RUNS = 3
# A graph that was built anew has changed since when this share of its rows is left.
_CHANGED = 0.9


def share_found(given: Sequence[float], nearest: Sequence[float]) -> float:
    """Give which share of the nearest was given, by the distances of both; 1 where there is none."""
    if not nearest:
        return 1.0
    return min(sum(distance <= nearest[-1] for distance in given), len(nearest)) / len(nearest)


@dataclass(slots=True)
class Tally:
    """Answers that were compared: which share of the nearest each had, and what was amiss with how many."""

    found: list[float] = field(default_factory=list)
    underfilled: int = 0
    without_index: int = 0

    def add(self, given: Sequence[float], nearest: Sequence[float], *, used_index: bool) -> None:
        """Compare an answer with what is nearest, by the distances of both."""
        self.found.append(share_found(given, nearest))
        self.underfilled += len(given) < len(nearest)
        self.without_index += not used_index

    def figures(self) -> "Figures":
        """Sum them up."""
        worst = sorted(self.found)[: -(-len(self.found) // 10)]
        return Figures(_mean(self.found), _mean(worst), len(self.found), self.underfilled, self.without_index)


def _mean(values: Sequence[float]) -> float | None:
    return round(fmean(values), 4) if values else None


class Figures(NamedTuple):
    """What some answers came to.

    `recall`: the mean of all, None where none was compared; `worst_decile`: the mean of the worst tenth.
    `underfilled`: how many were shorter than what there is. `without_index`: how many plans did without a
    vector index that searches of its segment should go by.
    """

    recall: float | None
    worst_decile: float | None
    queries: int
    underfilled: int
    without_index: int

    @classmethod
    def read(cls, recorded: Mapping[str, Any]) -> Self:
        """Read what `_asdict` gave."""
        return cls(*(recorded[name] for name in cls._fields))


class Built(NamedTuple):
    """How a graph was built anew: of how many rows, with which settings."""

    rows: int
    m: int
    ef_construction: int


@dataclass(frozen=True, slots=True)
class Segment:
    """What the vector index of one segment gave, asked by itself.

    `graph` is the number of the index in the server's catalogue, which each build changes; None where there
    is none that can be used. `rebuilt`: how this chore built it, where it did.
    """

    leaf: str
    graph: int | None
    rows: int
    figures: Figures
    rebuilt: Built | None = None

    def as_json(self) -> dict[str, Any]:
        """Give what `read` reads."""
        rebuilt = {"rebuilt": self.rebuilt._asdict()} if self.rebuilt else {}
        return {
            "leaf": self.leaf,
            "graph": self.graph,
            "rows": self.rows,
            **self.figures._asdict(),
            **rebuilt,
        }

    @classmethod
    def read(cls, recorded: Mapping[str, Any]) -> Self:
        """Read what was recorded."""
        rebuilt = Built(**recorded["rebuilt"]) if "rebuilt" in recorded else None
        return cls(recorded["leaf"], recorded["graph"], recorded["rows"], Figures.read(recorded), rebuilt)

    def is_as_built(self, m: int, ef_construction: int) -> bool:
        """Tell whether this chore built it by these settings, of about its rows: again is no better."""
        built = self.rebuilt
        return (
            built is not None
            and (built.m, built.ef_construction) == (m, ef_construction)
            and self.rows >= _CHANGED * built.rows
        )


@dataclass(frozen=True, slots=True)
class Measured:
    """What one run measured.

    `over_all`: answers that came by the vector indexes, asked for as searches ask. `exactly`: how many more
    were compared one by one, so that nothing can be missing.
    """

    over_all: Figures
    exactly: int
    segments: tuple[Segment, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """Give what `read` reads."""
        segments = [segment.as_json() for segment in self.segments]
        return {**self.over_all._asdict(), "exactly": self.exactly, "segments": segments}

    @classmethod
    def read(cls, recorded: Mapping[str, Any]) -> Self:
        """Read what was recorded."""
        segments = tuple(map(Segment.read, recorded["segments"]))
        return cls(Figures.read(recorded), recorded["exactly"], segments)

    def segment(self, leaf: str, graph: int | None) -> Segment | None:
        """Give what was measured of a leaf while it had this graph."""
        return next((one for one in self.segments if (one.leaf, one.graph) == (leaf, graph)), None)


@dataclass(frozen=True, slots=True)
class History:
    """The newest measurement, and those before it, newest first."""

    newest: Measured
    earlier: tuple[Measured, ...] = ()

    @property
    def usual(self) -> float | None:
        """The median of recall over all before; None where too few runs tell."""
        return _median([run.over_all for run in self.earlier])

    def usual_of(self, segment: Segment) -> float | None:
        """Give the median of a segment's recall before, since its index was built."""
        found = (run.segment(segment.leaf, segment.graph) for run in self.earlier)
        return _median([one.figures for one in found if one is not None])


def _median(earlier: Sequence[Figures]) -> float | None:
    values = [figures.recall for figures in earlier if figures.recall is not None]
    return round(median(values), 4) if len(values) >= _FEWEST_RUNS else None
