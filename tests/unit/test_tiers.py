"""Which segments are merged: of one size, few at a time, and the worn ones."""

import math

import pytest

from worker.steps.tiers import FANOUT, Size, choose, is_worn, tier


def sizes(*rows: int) -> list[Size]:
    return [Size(number, count, count) for number, count in enumerate(rows, 1)]


@pytest.mark.parametrize(
    ("rows", "wanted"), [(0, 0), (999, 0), (3_999, 0), (4_000, 1), (20_000, 2), (64_000, 3), (10**6, 4)]
)
def test_each_tier_is_four_times_the_one_below(rows: int, wanted: int) -> None:
    assert tier(rows) == wanted


@pytest.mark.parametrize(
    ("rows", "wanted"),
    [
        ((), []),
        ((20_000,) * 3, []),
        ((20_000,) * 5, [1, 2, 3, 4]),
        ((20_000, 80_000, 20_000, 80_000, 20_000, 80_000, 80_000), [2, 4, 6, 7]),
        ((20_000, 500, 20_000, 500, 20_000, 500, 500, 20_000), [2, 4, 6, 7]),
        ((300_000,) * 4, []),  # larger together than a segment may be
    ],
)
def test_four_of_a_tier_are_merged_the_smallest_first(rows: tuple[int, ...], wanted: list[int]) -> None:
    assert choose(sizes(*rows), 1_000_000) == wanted


def test_a_worn_segment_is_built_anew_and_the_most_worn_first() -> None:
    worn, more = Size(1, 1_000_000, 690_000), Size(2, 20_000, 9_000)
    assert all(map(is_worn, (worn, more)))
    assert not any(map(is_worn, (Size(3, 100, 75), Size(4, 0, 0))))
    assert choose([worn, more], 1_000_000) == [2]
    assert choose([worn], 1_000_000) == [1]
    assert choose([Size(1, 1_000_000, 750_000)], 1_000_000) == []


def test_the_number_of_segments_and_of_copies_grows_with_the_logarithm() -> None:
    segment_rows, inserted, copied = 20_000, 0, 0
    kept: list[Size] = []
    for number in range(1, 1 + 64):
        inserted += segment_rows
        kept.append(Size(number, segment_rows, segment_rows))
        while chosen := choose(kept, 10**9):
            rows = sum(size.live for size in kept if size.segment in chosen)
            copied += rows
            kept = [size for size in kept if size.segment not in chosen] + [Size(1000 + copied, rows, rows)]
        most = (FANOUT - 1) * (1 + math.log(number, FANOUT))
        assert len(kept) <= most
    assert copied / inserted == math.log(64, FANOUT)
