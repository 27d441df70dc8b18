"""How good a ranking is, by judgements: nDCG, recall and reciprocal rank, as trec_eval computes them.

A ranking is the grades of what was found, best first, 0 for what nobody judged; `judged` has the grades of
all judgements of the query. A grade of 1 or more is relevant, the gain is the grade. docs/decisions says why
they are here; the tests compare them with ir-measures.
"""

import math
from collections.abc import Collection, Sequence


def ndcg(ranking: Sequence[int], judged: Collection[int], k: int) -> float:
    """Give nDCG@k: the gain, discounted by the logarithm of the rank, over that of the ideal ranking."""
    ideal = _gain(sorted(judged, reverse=True)[:k])
    return _gain(ranking[:k]) / ideal if ideal else 0.0


def _gain(grades: Sequence[int]) -> float:
    return sum(max(grade, 0) / math.log2(place + 2) for place, grade in enumerate(grades))


def recall(ranking: Sequence[int], judged: Collection[int], k: int) -> float:
    """Give recall@k: which share of the relevant documents is among the first k."""
    relevant = _relevant(judged)
    return _relevant(ranking[:k]) / relevant if relevant else 0.0


def _relevant(grades: Collection[int]) -> int:
    return sum(grade >= 1 for grade in grades)


def reciprocal_rank(ranking: Sequence[int], k: int) -> float:
    """Give 1 over the rank of the first relevant document, 0 where none is among the first k."""
    return next((1 / rank for rank, grade in enumerate(ranking[:k], 1) if grade >= 1), 0.0)


def percentile(values: Sequence[float], share: float) -> float:
    """Give the smallest value that this share of them does not exceed."""
    ordered = sorted(values)
    return ordered[max(math.ceil(share * len(ordered)) - 1, 0)]
