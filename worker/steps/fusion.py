"""One order from those of several parts of a search. Each has scores of its own kind, higher ones better."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Literal, NamedTuple, TypeVar

Key = TypeVar("Key")

Method = Literal["minmax", "rrf"]

# What is measured best, docs/decisions/0012: how many candidates of each part, and what parts count for.
DEPTH = 200
WEIGHTS: Mapping[str, float] = MappingProxyType({"vector": 0.6, "keyword": 1.0})

RRF_RANK = 60  # as in the paper: Cormack, Clarke and Büttcher, SIGIR 2009


class Fused(NamedTuple):
    """What was found, with its score, and its scores in the parts that found it."""

    key: Any
    score: float
    parts: Mapping[str, float]


def fuse(
    method: Method, parts: Mapping[str, Mapping[Key, float]], weights: Mapping[str, float]
) -> list[Fused]:
    """Fuse what each part found, best first, equal scores by key. A part without a weight counts once.

    `minmax` adds scores, stretched to 0..1 between the worst and the best of their part; what a part did not
    find has 0 there. `rrf` adds 1 / (RRF_RANK + rank).
    """
    shares = {name: _SHARES[method](scores) for name, scores in parts.items()}
    sums: dict[Key, float] = {}
    for name in parts:
        weight = weights.get(name, 1.0)
        for key, share in shares[name].items():
            sums[key] = sums.get(key, 0.0) + weight * share
    order = sorted(sums, key=lambda key: (-sums[key], key))
    found = ({name: part[key] for name, part in parts.items() if key in part} for key in order)
    return [Fused(key, sums[key], scores) for key, scores in zip(order, found, strict=True)]


def minmax(scores: Mapping[Key, float]) -> dict[Key, float]:
    """Stretch scores to 0..1; equal ones are all 1."""
    low, high = min(scores.values(), default=0.0), max(scores.values(), default=0.0)
    if high == low:
        return dict.fromkeys(scores, 1.0)
    return {key: (score - low) / (high - low) for key, score in scores.items()}


def rrf(scores: Mapping[Key, float]) -> dict[Key, float]:
    """Give what each rank is worth, equal scores in order of key."""
    order = sorted(scores, key=lambda key: (-scores[key], key))
    return {key: 1 / (RRF_RANK + rank) for rank, key in enumerate(order, 1)}


_SHARES: Mapping[Method, Callable[[Mapping[Any, float]], dict[Any, float]]] = {"minmax": minmax, "rrf": rrf}
