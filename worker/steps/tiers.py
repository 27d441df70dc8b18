"""Which sealed segments are merged next: those of one size, so that their number grows with the logarithm.

Size-tiered compaction (O'Neil et al., "The log-structured merge-tree", 1996; Cassandra's
SizeTieredCompactionStrategy): a row is copied once a tier.
"""

import math
from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple

FANOUT = 4
SMALLEST_TIER = 1_000  # rows; below it segments count as equal
# A graph with more dead vectors than this is built anew: the dead are walked through by every search.
MOST_DELETED = 0.3


class Size(NamedTuple):
    """A sealed segment: the rows its index was built with, and those that live."""

    segment: int
    rows: int
    live: int


def choose(sizes: Sequence[Size], most_rows: int) -> list[int]:
    """Give the segments to merge into one of at most `most_rows`; none where all is well.

    FANOUT of a tier, the smallest tier first; else the one with the largest share of deleted rows, alone.
    """
    tiers: dict[int, list[Size]] = defaultdict(list)
    for size in sorted(sizes):
        tiers[tier(size.live)].append(size)
    for _, members in sorted(tiers.items()):
        chosen = members[:FANOUT]
        if len(chosen) == FANOUT and sum(size.live for size in chosen) <= most_rows:
            return [size.segment for size in chosen]
    worn = max(sizes, key=_deleted, default=None)
    return [worn.segment] if worn and is_worn(worn) else []


def is_worn(size: Size) -> bool:
    """Tell whether a segment is to be built anew for what was deleted in it."""
    return _deleted(size) > MOST_DELETED


def tier(rows: int) -> int:
    """Give the tier of a segment: each is FANOUT times the one below."""
    return max(0, math.floor(math.log(max(rows, 1) / SMALLEST_TIER, FANOUT)))


def _deleted(size: Size) -> float:
    return 1 - size.live / size.rows if size.rows else 0.0
