"""Decide which stored chunks of a document stay, which go and which are new.

A row that stays is not touched: an edit costs what it changes. `chunk_index` is an order key with
gaps, so a new chunk finds its place between its neighbours.
"""

from bisect import bisect_left
from collections import defaultdict, deque
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from itertools import takewhile
from uuid import UUID

GAP = 1 << 20
_MOST_PAIRS = 1 << 14  # ten milliseconds or so: a batch plans all of its documents in one transaction


@dataclass(frozen=True, slots=True)
class Stored:
    """A stored chunk: its order key, and everything of it that must be equal for it to stay."""

    chunk_id: UUID
    chunk_index: int
    identity: Hashable


@dataclass(frozen=True, slots=True)
class Plan:
    """`insert` pairs positions in the new chunk list with order keys; `delete` names stored rows."""

    insert: tuple[tuple[int, int], ...]
    delete: tuple[UUID, ...]
    kept: int


def plan(stored: Sequence[Stored], wanted: Sequence[Hashable]) -> Plan:
    """Compare the stored chunks, in order, with the identities of the wanted ones, in order.

    Keeps a longest common subsequence, so no plan deletes or inserts less. Two are not minimal: where the
    gaps between kept neighbours are used up, nothing is kept and all are numbered anew; and where repeated
    chunks make over 2^14 pairs, the equal ones at both ends are kept, and of the others each is paired once.
    """
    kept = _in_order(_pair(stored, wanted))
    inserts = _number(stored, kept, len(wanted))
    if inserts is None:
        return replace(all_new(len(wanted)), delete=tuple(chunk.chunk_id for chunk in stored))
    staying = set(kept.values())
    gone = tuple(chunk.chunk_id for i, chunk in enumerate(stored) if i not in staying)
    return Plan(tuple(inserts), gone, len(kept))


def all_new(count: int) -> Plan:
    """Give the plan of a document's first `count` chunks."""
    return Plan(tuple(_between(range(count), 0, GAP)), (), 0)


def _pair(stored: Sequence[Stored], wanted: Sequence[Hashable]) -> list[tuple[int, int]]:
    """Pair wanted positions with stored ones of the same identity: the ends, and between them each with each.

    The stored ones of a position come last one first, so a run takes one of them (Hunt and Szymanski 1977).
    """
    before = [chunk.identity for chunk in stored]
    head = _equal(before, wanted)
    tail = _equal(before[head:][::-1], wanted[head:][::-1])
    places: dict[Hashable, deque[int]] = defaultdict(deque)
    for i in range(head, len(before) - tail):
        places[before[i]].appendleft(i)
    between = [j for j in range(head, len(wanted) - tail) if wanted[j] in places]
    if sum(len(places[wanted[j]]) for j in between) <= _MOST_PAIRS:
        middle = [(j, i) for j in between for i in places[wanted[j]]]
    else:  # first come, first served
        middle = [(j, places[wanted[j]].pop()) for j in between if places[wanted[j]]]
    return [
        *((n, n) for n in range(head)),
        *middle,
        *((len(wanted) - n, len(before) - n) for n in range(tail, 0, -1)),
    ]


def _equal(one: Sequence[Hashable], other: Sequence[Hashable]) -> int:
    """Count the leading items that are equal."""
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False)))


def _in_order(pairs: Sequence[tuple[int, int]]) -> dict[int, int]:
    """Keep a longest run of pairs that increases in both places (patience sorting, O(n log n))."""
    tails: list[int] = []
    ends: list[int] = []
    before: list[int] = []
    for n, (_, place) in enumerate(pairs):
        k = bisect_left(tails, place)
        before.append(ends[k - 1] if k else -1)
        tails[k : k + 1] = [place]
        ends[k : k + 1] = [n]
    run: dict[int, int] = {}
    n = ends[-1] if ends else -1
    while n >= 0:
        position, place = pairs[n]
        run[position] = place
        n = before[n]
    return run


def _number(stored: Sequence[Stored], kept: dict[int, int], count: int) -> list[tuple[int, int]] | None:
    """Give order keys to the positions that are not kept, None where a gap is too small."""
    inserts: list[tuple[int, int]] = []
    low, waiting = 0, []
    for position in range(count):
        if position not in kept:
            waiting.append(position)
            continue
        high = stored[kept[position]].chunk_index
        if (high - low) <= len(waiting):
            return None
        inserts += _between(waiting, low, (high - low) // (len(waiting) + 1))
        low, waiting = high, []
    return inserts + _between(waiting, low, GAP)


def _between(positions: Sequence[int], low: int, step: int) -> list[tuple[int, int]]:
    return [(position, low + step * n) for n, position in enumerate(positions, 1)]
