"""Identifiers that sort by time."""

from itertools import islice
from uuid import RFC_4122, UUID

from hypothesis import given
from hypothesis import strategies as st

from worker.steps.ordered import RANDOM_BYTES, ordered_ids

MOMENTS = st.integers(0, 2**48 - 1)
RANDOM = st.binary(min_size=RANDOM_BYTES, max_size=RANDOM_BYTES)


@given(MOMENTS, RANDOM)
def test_they_are_uuids_of_version_7_that_hold_their_moment(moment: int, random: bytes) -> None:
    (first,) = islice(ordered_ids(moment, random), 1)
    found = UUID(bytes=first)
    assert (found.version, found.variant, found.int >> 80) == (7, RFC_4122, moment)


@given(MOMENTS, RANDOM)
def test_each_is_greater_than_the_one_before(moment: int, random: bytes) -> None:
    ids = list(islice(ordered_ids(moment, random), 100))
    assert ids == sorted(set(ids))
    assert UUID(bytes=ids[-1]).version == 7


@given(MOMENTS, RANDOM, RANDOM)
def test_what_is_random_tells_two_of_one_moment_apart(moment: int, one: bytes, other: bytes) -> None:
    # bits 0 to 60 and 64 to 75 count; version and variant stand in the others
    kept = 0xFFF << 64 | (1 << 61) - 1
    same = int.from_bytes(one, "big") & kept == int.from_bytes(other, "big") & kept
    assert (next(ordered_ids(moment, one)) == next(ordered_ids(moment, other))) == same
