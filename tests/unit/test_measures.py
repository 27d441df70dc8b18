"""Our three formulas against ir-measures, on rankings and judgements of any kind."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.steps.measures import ndcg, percentile, recall, reciprocal_rank

ir_measures = pytest.importorskip(
    "ir_measures", reason="trec_eval has no wheel for this machine (pyproject.toml, group dev)"
)

DOCUMENTS = [f"d{number}" for number in range(12)]
GRADES = st.dictionaries(st.sampled_from(DOCUMENTS), st.integers(-2, 4), min_size=1).filter(
    lambda grades: any(grade >= 1 for grade in grades.values())
)
RANKINGS = st.lists(st.sampled_from(DOCUMENTS), unique=True)


@given(GRADES, RANKINGS, st.integers(1, 15))
def test_measures_are_those_of_trec_eval(grades: dict[str, int], ranked: list[str], k: int) -> None:
    ranking = [grades.get(document, 0) for document in ranked]
    assert [
        ndcg(ranking, grades.values(), k),
        recall(ranking, grades.values(), k),
        reciprocal_rank(ranking, k),
    ] == pytest.approx(theirs(grades, ranked, k))


def theirs(grades: dict[str, int], ranked: list[str], k: int) -> list[float]:
    from ir_measures import RR, Qrel, R, ScoredDoc, nDCG

    judged = [Qrel("q", document, grade) for document, grade in grades.items()]
    run = [ScoredDoc("q", document, -float(place)) for place, document in enumerate(ranked)]
    measures = [nDCG @ k, R @ k, RR @ k]
    found = ir_measures.calc_aggregate(measures, judged, run)
    return [found[measure] for measure in measures]


def test_nothing_found_and_nothing_to_find_are_zero() -> None:
    assert (ndcg([], [1], 10), recall([], [1], 10), reciprocal_rank([], 10)) == (0, 0, 0)
    assert (ndcg([0], [0, -1], 10), recall([0], [0], 10), reciprocal_rank([0, -1], 10)) == (0, 0, 0)


def test_gain_is_the_grade_and_the_ideal_counts_everything_judged() -> None:
    assert ndcg([2, 1], [2, 1], 10) == 1
    assert ndcg([1, 2], [2, 1], 10) == pytest.approx((1 + 2 / 1.5849625) / (2 + 1 / 1.5849625))
    assert ndcg([2], [2, 1], 10) < 1
    assert ndcg([2], [2, 1], 1) == 1


@pytest.mark.parametrize(("share", "value"), [(0.5, 2.0), (0.51, 3.0), (0.95, 4.0), (0.0, 1.0), (1.0, 4.0)])
def test_percentile_is_the_nearest_rank(share: float, value: float) -> None:
    assert percentile([3.0, 1.0, 4.0, 2.0], share) == value
    assert percentile([7.0], share) == 7.0
