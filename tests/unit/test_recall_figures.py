"""Recall, summed up and judged: by distances, by what was before, and by what a rebuild can still give."""

from dataclasses import replace
from typing import Any

import pytest

from worker.steps.falls import falls, too_low
from worker.steps.recall import Built, Figures, History, Measured, Segment, Tally, share_found

GOOD = Figures(0.98, 0.9, 50, 0, 0)
LEAF, OTHER = "chunks_s000001", "chunks_s000002"
BUILT = Built(1000, 16, 64)


def segment(recall: float | None, leaf: str = LEAF, **changed: Any) -> Segment:
    made = Segment(leaf, 7, 1000, GOOD._replace(recall=recall))
    return replace(made, **changed)


def measured(*segments: Segment, over_all: Figures = GOOD) -> Measured:
    return Measured(over_all, 0, segments)


def judged(*segments: Segment, over_all: Figures = GOOD, earlier: tuple[Measured, ...] = ()) -> list[str]:
    found = falls(History(measured(*segments, over_all=over_all), earlier), 0.95, 16, 64)
    return [f"{fall} → {fall.mend}" for fall in found]


@pytest.mark.parametrize(
    ("given", "nearest", "share"),
    [
        ([0.1, 0.2], [0.1, 0.2], 1.0),
        ([0.1, 0.3], [0.1, 0.2], 0.5),
        ([], [0.1, 0.2], 0.0),
        ([0.1], [0.1, 0.2], 0.5),
        ([0.2, 0.2], [0.1, 0.2], 1.0),  # another at the same distance will do
        ([0.1, 0.2, 0.2], [0.1, 0.2], 1.0),
        ([], [], 1.0),
    ],
)
def test_what_is_as_near_as_the_last_counts(given: list[float], nearest: list[float], share: float) -> None:
    assert share_found(given, nearest) == share


def test_a_tally_sums_up() -> None:
    tally = Tally()
    assert tally.figures() == Figures(None, None, 0, 0, 0)
    for number in range(11):
        given = [0.1] * (10 - number)
        tally.add(given, [0.1] * 10, used_index=number != 3)
    assert tally.figures() == Figures(0.5, 0.05, 11, 10, 1)


def test_what_is_recorded_is_read_again() -> None:
    kept = measured(segment(0.9, rebuilt=BUILT), segment(None, OTHER, graph=None))
    assert Measured.read({**kept.as_json(), "live_ms": 3}) == kept


@pytest.mark.parametrize(
    ("figures", "usual", "said"),
    [
        (GOOD, None, None),
        (GOOD._replace(recall=0.95), None, None),
        (GOOD._replace(recall=0.9499), None, "recall@10 0.950, below 0.95"),
        (GOOD._replace(recall=0.96), 0.99, None),
        (GOOD._replace(recall=0.96), 0.991, "recall@10 0.960, 0.991 before"),
        (GOOD._replace(recall=0.2, queries=4), None, None),
        (GOOD._replace(recall=0.2, queries=5), None, "recall@10 0.200, below 0.95"),
        (GOOD._replace(recall=None, queries=0), 1.0, None),
    ],
)
def test_when_it_is_too_low(figures: Figures, usual: float | None, said: str | None) -> None:
    assert too_low(figures, 0.95, usual) == said


def test_the_worst_segment_comes_first_and_over_all_last() -> None:
    low = GOOD._replace(recall=0.5)
    assert judged(segment(0.9), segment(0.4, OTHER), over_all=low) == [
        f"{OTHER}: recall@10 0.400, below 0.95 → run `ingest maintain recall`",
        f"{LEAF}: recall@10 0.900, below 0.95 → run `ingest maintain recall`",
        "over all: recall@10 0.500, below 0.95 → run `ingest maintain recall`",
    ]
    assert judged(segment(0.99), over_all=low) == [
        "over all: recall@10 0.500, below 0.95 → raise HNSW_EF_SEARCH"
    ]


def test_the_median_of_three_runs_tells_what_is_usual() -> None:
    runs = tuple(measured(segment(recall)) for recall in (0.99, 1.0, 0.6))
    now = segment(0.955)
    assert judged(now, earlier=runs) == [
        f"{LEAF}: recall@10 0.955, 0.990 before → run `ingest maintain recall`"
    ]
    assert judged(now, earlier=runs[:2]) == []
    assert judged(segment(0.955, graph=8), earlier=runs) == [], "of a new graph there is no before"
    low = (measured(over_all=GOOD._replace(recall=0.999)),) * 3
    assert judged(over_all=GOOD._replace(recall=0.96), earlier=low) == [
        "over all: recall@10 0.960, 0.999 before → raise HNSW_EF_SEARCH"
    ]


@pytest.mark.parametrize(
    ("changed", "again"),
    [
        ({"rebuilt": None}, True),
        ({"rebuilt": BUILT}, False),
        ({"rebuilt": BUILT, "rows": 900}, False),
        ({"rebuilt": BUILT, "rows": 899}, True),
        ({"rebuilt": BUILT._replace(m=8)}, True),
        ({"rebuilt": BUILT._replace(ef_construction=32)}, True),
    ],
)
def test_a_graph_is_built_anew_only_where_that_may_help(changed: dict[str, Any], again: bool) -> None:
    [fall] = falls(History(measured(segment(0.5, **changed))), 0.95, 16, 64)
    assert (fall.by_vacuum, fall.by_rebuild) == (again, again)
    assert ("was built anew already" in fall.why) is not again


def test_what_is_amiss_beside_recall() -> None:
    unused = GOOD._replace(without_index=3)
    short = GOOD._replace(underfilled=2)
    gone, ignored, shorter = judged(
        segment(1.0, OTHER, figures=unused), segment(None, graph=None), over_all=short
    )
    assert gone == f"{LEAF}: has no vector index that can be used → run `ingest maintain seal`"
    assert ignored.startswith(f"{OTHER}: is searched without its vector index, which is there → run")
    assert shorter.startswith("over all: 2 of 50 answers were shorter than what there is → run")
