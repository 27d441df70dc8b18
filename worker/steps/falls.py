"""When recall is too low, of which segment, and what mends it."""

from collections.abc import Iterator
from typing import NamedTuple

from worker.steps.recall import Figures, History, K, Segment

# A fall by so much is one, though nothing is below the threshold yet.
_DROP = 0.03
# The ten nearest of so many queries tell a bad graph from bad luck.
_FEWEST_QUERIES = 5
_MORE_CANDIDATES = "raise HNSW_EF_SEARCH"


class Fall(NamedTuple):
    """Something that is amiss, in a few words, and what mends it. `segment`: of which; None: over all.

    `by_rebuild`: a new graph may mend it. `by_vacuum`: that, or new statistics.
    """

    segment: Segment | None
    why: str
    mend: str
    by_vacuum: bool = False
    by_rebuild: bool = False

    def __str__(self) -> str:
        """Say it in one line."""
        return f"{self.segment.leaf if self.segment else 'over all'}: {self.why}"


def falls(history: History, threshold: float, m: int, ef_construction: int) -> list[Fall]:
    """Say what is amiss in the newest measurement: segments first, the worst of them first.

    `threshold`: what recall must not be below. `m`, `ef_construction`: of graphs as they are built now.
    """
    of_segments = [*_of_segments(history, threshold, (m, ef_construction))]
    mend = of_segments[0].mend if of_segments else _MORE_CANDIDATES
    return [*of_segments, *_over_all(history, threshold, mend)]


def too_low(figures: Figures, threshold: float, usual: float | None) -> str | None:
    """Say in what way recall is too low: below the threshold or what is usual; None where it is not."""
    if figures.recall is None or figures.queries < _FEWEST_QUERIES:
        return None
    if figures.recall < threshold:
        return f"recall@{K} {figures.recall:.3f}, below {threshold:g}"
    if usual is not None and figures.recall < usual - _DROP:
        return f"recall@{K} {figures.recall:.3f}, {usual:.3f} before"
    return None


def _of_segments(history: History, threshold: float, built_by: tuple[int, int]) -> Iterator[Fall]:
    for segment in sorted(history.newest.segments, key=_recall):
        if segment.graph is None:
            yield Fall(segment, "has no vector index that can be used", "run `ingest maintain seal`")
        elif why := too_low(segment.figures, threshold, history.usual_of(segment)):
            yield _mendable(segment, why, built_by)
        elif segment.figures.without_index:
            yield Fall(
                segment,
                "is searched without its vector index, which is there",
                "run `ingest maintain recall`, then look whether enable_indexscan is off",
                by_vacuum=True,
            )


def _mendable(segment: Segment, why: str, built_by: tuple[int, int]) -> Fall:
    if not segment.is_as_built(*built_by):
        return Fall(segment, why, "run `ingest maintain recall`", by_vacuum=True, by_rebuild=True)
    mend = f"{_MORE_CANDIDATES}, or HNSW_EF_CONSTRUCTION and run `ingest maintain recall`"
    return Fall(segment, f"{why}, and was built anew already", mend)


def _over_all(history: History, threshold: float, mend: str) -> Iterator[Fall]:
    figures = history.newest.over_all
    if why := too_low(figures, threshold, history.usual):
        yield Fall(None, why, mend)
    if figures.underfilled:
        said = f"{figures.underfilled} of {figures.queries} answers were shorter than what there is"
        yield Fall(None, said, "run `ingest maintain recall`, then please report it")


def _recall(segment: Segment) -> float:
    if segment.graph is None:
        return 0.0
    return 1.0 if segment.figures.recall is None else segment.figures.recall
