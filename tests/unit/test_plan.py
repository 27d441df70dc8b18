"""The plan of an edit: what is deleted and inserted turns the stored list into the wanted one."""

from collections.abc import Hashable, Sequence
from dataclasses import replace
from itertools import pairwise
from uuid import UUID

from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from worker.steps.plan import GAP, Plan, Stored, all_new, plan

FEW = st.lists(st.sampled_from("abcd"), max_size=12)
UNIQUE = st.lists(st.integers(0, 12), max_size=10, unique=True)


@st.composite
def stored_lists(draw: st.DrawFn, identities: st.SearchStrategy[list[str]] = FEW) -> list[Stored]:
    """Rows as edits leave them: order keys rise, with gaps of any size."""
    found = draw(identities)
    gaps = draw(
        st.lists(
            st.sampled_from([1, 2, 3, 5, GAP // 2, GAP, GAP + 7]), min_size=len(found), max_size=len(found)
        )
    )
    indexes = [sum(gaps[: n + 1]) for n in range(len(gaps))]
    return [Stored(UUID(int=n), indexes[n], identity) for n, identity in enumerate(found)]


def spaced(identities: Sequence[Hashable]) -> list[Stored]:
    return [Stored(UUID(int=n), (n + 1) * GAP, identity) for n, identity in enumerate(identities)]


def kept_rows(stored: Sequence[Stored], planned: Plan) -> list[Stored]:
    gone = set(planned.delete)
    return [row for row in stored if row.chunk_id not in gone]


def applied(
    stored: Sequence[Stored], wanted: Sequence[Hashable], planned: Plan
) -> list[tuple[int, Hashable]]:
    """The rows after the plan, as (order key, identity), in their order."""
    rows = [(row.chunk_index, row.identity) for row in kept_rows(stored, planned)]
    return sorted([*rows, *((index, wanted[position]) for position, index in planned.insert)])


def common_length(one: Sequence[Hashable], other: Sequence[Hashable]) -> int:
    """The length of a longest common subsequence, by the textbook."""
    row = [0] * (len(other) + 1)
    for item in one:
        before = row
        row = [0]
        for n, candidate in enumerate(other):
            row.append(before[n] + 1 if item == candidate else max(before[n + 1], row[n]))
    return row[-1]


@settings(max_examples=300)
@given(stored_lists(), FEW)
@example([Stored(UUID(int=0), 1, "a")], list("ba"))
def test_applied_plan_gives_the_wanted_list_in_order(stored: list[Stored], wanted: list[str]) -> None:
    rows = applied(stored, wanted, plan(stored, wanted))
    assert [identity for _, identity in rows] == wanted
    indexes = [index for index, _ in rows]
    assert len(set(indexes)) == len(indexes)
    assert all(index > 0 for index in indexes)


@settings(max_examples=300)
@given(stored_lists(), FEW)
def test_rows_are_kept_or_deleted_and_chunks_kept_or_inserted(
    stored: list[Stored], wanted: list[str]
) -> None:
    planned = plan(stored, wanted)
    assert len(set(planned.delete)) == len(planned.delete)
    assert set(planned.delete) <= {row.chunk_id for row in stored}
    assert planned.kept + len(planned.delete) == len(stored)
    assert planned.kept + len(planned.insert) == len(wanted)
    positions = [position for position, _ in planned.insert]
    assert positions == sorted(set(positions))


@given(stored_lists())
def test_equal_lists_need_nothing(stored: list[Stored]) -> None:
    assert plan(stored, [row.identity for row in stored]) == Plan((), (), len(stored))


@settings(max_examples=200)
@given(FEW, FEW)
@example(list("abab"), list("baba"))
@example(list("aab"), list("ba"))
def test_as_many_rows_are_kept_as_can_be_also_where_chunks_repeat(
    before: list[str], after: list[str]
) -> None:
    planned = plan(spaced(before), after)
    common = common_length(before, after)
    assert planned.kept == common
    assert (len(planned.delete), len(planned.insert)) == (len(before) - common, len(after) - common)


@settings(max_examples=300)
@given(stored_lists(), FEW)
@example([Stored(UUID(int=0), 1, "a")], list("ba"))
def test_with_gaps_of_any_size_as_many_are_kept_or_all_are_numbered_anew(
    stored: list[Stored], wanted: list[str]
) -> None:
    planned = plan(stored, wanted)
    common = common_length([row.identity for row in stored], wanted)
    if planned.kept != common:
        assert planned == replace(all_new(len(wanted)), delete=tuple(row.chunk_id for row in stored))
        gaps = [b - a for a, b in pairwise([0, *(row.chunk_index for row in stored)])]
        assert min(gaps) <= len(wanted), "no gap was too small"


@settings(max_examples=200)
@given(UNIQUE, UNIQUE)
def test_as_many_rows_are_kept_as_can_be(before: list[int], after: list[int]) -> None:
    assert plan(spaced(before), after).kept == common_length(before, after)


@settings(max_examples=200)
@given(FEW, FEW, FEW, FEW)
@example([], ["x"], list("axbxc"), [])
@example(list("ab"), [], list("ab"), list("ab"))
def test_one_edit_keeps_all_rows_around_it_also_where_chunks_repeat(
    head: list[str], tail: list[str], old: list[str], new: list[str]
) -> None:
    assume(len(new) < GAP)
    planned = plan(spaced([*head, *old, *tail]), [*head, *new, *tail])
    assert planned.kept >= len(head) + len(tail)
    assert len(planned.delete) <= len(old)
    assert len(planned.insert) <= len(new)


def test_new_chunks_stand_evenly_between_their_neighbours() -> None:
    planned = plan(spaced("ad"), "abcd")
    assert planned == Plan(((1, GAP + GAP // 3), (2, GAP + 2 * (GAP // 3))), (), 2)


def test_appended_chunks_leave_gaps_behind_the_last() -> None:
    assert plan(spaced("a"), "abc") == Plan(((1, 2 * GAP), (2, 3 * GAP)), (), 1)
    assert plan([], "ab") == Plan(((0, GAP), (1, 2 * GAP)), (), 0)


def test_gap_that_is_used_up_has_all_numbered_anew() -> None:
    stored = [Stored(UUID(int=1), 5, "a"), Stored(UUID(int=2), 6, "c")]
    assert plan(stored, "abc") == Plan(((0, GAP), (1, 2 * GAP), (2, 3 * GAP)), (UUID(int=1), UUID(int=2)), 0)


def test_last_place_of_a_gap_is_used() -> None:
    stored = [Stored(UUID(int=1), 5, "a"), Stored(UUID(int=2), 7, "c")]
    assert plan(stored, "abc") == Plan(((1, 6),), (), 2)


def test_inserting_at_one_place_again_and_again_costs_one_renumbering_in_twenty() -> None:
    stored, renumbered = spaced(range(2)), 0
    for n in range(100):
        wanted = [row.identity for row in stored]
        wanted.insert(1, ("new", n))
        planned = plan(stored, wanted)
        renumbered += planned.kept == 0
        rows = applied(stored, wanted, planned)
        stored = [Stored(UUID(int=place), index, identity) for place, (index, identity) in enumerate(rows)]
    assert renumbered <= 100 // 19


def test_repeated_chunks_are_used_once_each() -> None:
    assert plan(spaced("aaa"), "aa").kept == 2
    assert plan(spaced("aa"), "aaaa").kept == 2
    assert plan(spaced("abab"), "baba").kept == 3


def test_large_lists_are_planned_in_their_time() -> None:
    before = list(range(200_000))
    planned = plan(spaced(before), [*before[100_000:], *before[:100_000]])
    assert planned.kept == 100_000


def test_large_lists_of_the_same_few_are_planned_in_their_time() -> None:
    planned = plan(spaced("ab" * 50_000), "ba" * 50_000)
    assert planned.kept >= 50_000
