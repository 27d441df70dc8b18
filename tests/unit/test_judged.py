"""Judged sets: what lines of their files say, and which documents their names mean."""

from contextlib import suppress
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.steps.judged import (
    Documents,
    Judgement,
    Likeness,
    Named,
    by_document,
    by_query,
    judgement_of,
    meant,
    query_of,
)

ONE, TWO = UUID(int=1), UUID(int=2)


@pytest.mark.parametrize(
    "line",
    [
        '{"_id": "3", "text": "a b"}',
        '{"id": 3, "text": "a b", "more": 1}',
        '  {"_id": " 3 ", "text": "a b"}',
        "3\ta b",
        " 3 \t a b ",
    ],
)
def test_query_is_json_or_columns(line: str) -> None:
    assert query_of(line) == ("3", "a b")


def test_text_of_a_query_may_have_tabs_or_be_empty() -> None:
    assert query_of("3\ta\tb") == ("3", "a\tb")
    assert query_of("3\t") == ("3", "")


@pytest.mark.parametrize("heading", ["id\ttext", "_id\ttext", "query-id\tquery", "QID\tText"])
def test_first_line_of_queries_may_name_the_columns(heading: str) -> None:
    assert query_of(heading, first=True) is None
    assert query_of(heading) is not None


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("3 a b", "a tab"),
        ("\ta b", "a tab"),
        ('{"_id": "3"', "no JSON"),
        ('{"a":' * 100_000, "no JSON"),
        ('{"text": "a"}', '"_id" or "id"'),
        ('{"_id": true, "text": "a"}', '"_id" or "id"'),
        ('{"_id": " ", "text": "a"}', '"_id" or "id"'),
        ('{"_id": "3"}', '"text"'),
        ('{"_id": "3", "text": null}', '"text"'),
    ],
)
def test_line_that_is_no_query_is_refused(line: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        query_of(line)


@pytest.mark.parametrize(
    "line", ["3\ta b.md\t2", "3\t0\ta b.md\t2", "3\tQ0\ta b.md\t2.0", " 3 \t a b.md \t 2 "]
)
def test_judgement_has_three_or_four_columns(line: str) -> None:
    assert judgement_of(line) == Judgement("3", "a b.md", 2)


def test_blanks_divide_columns_where_there_is_no_tab() -> None:
    assert judgement_of("3 0 d1 -1") == judgement_of("3   d1  -1") == Judgement("3", "d1", -1)


@pytest.mark.parametrize("heading", ["query-id\tcorpus-id\tscore", "query\tdoc\tgrade", "qid iter doc rel"])
def test_first_line_of_judgements_may_name_the_columns(heading: str) -> None:
    assert judgement_of(heading, first=True) is None
    with pytest.raises(ValueError, match="no whole number"):
        judgement_of(heading)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("3\td1", "a query, a document and a grade"),
        ("3\td1\t", "a query, a document and a grade"),
        ("3\t\t1", "a query, a document and a grade"),
        ("1 2 3 4 5", "a query, a document and a grade"),
        ("3\td1\thigh", "'high' is no whole number"),
        ("3\td1\t1.5", "'1.5' is no whole number"),
        ("3\td1\tnan", "'nan' is no whole number"),
        ("3\td1\tinf", "'inf' is no whole number"),
        ("3\td1\t1e300", "'1e300' is no whole number"),
    ],
)
def test_line_that_is_no_judgement_is_refused(line: str, said: str) -> None:
    for first in (False, True):
        with pytest.raises(ValueError, match=said):
            judgement_of(line, first=first)


@given(st.text(), st.booleans())
def test_no_line_ends_in_another_error(line: str, first: bool) -> None:
    for read in (query_of, judgement_of):
        with suppress(ValueError):
            read(line, first=first)


def test_pair_that_is_judged_twice_has_the_higher_grade() -> None:
    judgements = [Judgement("q", "d", grade) for grade in (1, 3, 2)] + [Judgement("p", "d", 0)]
    assert by_query(judgements) == {"q": {"d": 3}, "p": {"d": 0}}


def test_name_means_the_document_it_is_most_like() -> None:
    found = [
        Named("a", Likeness.STEM, ONE),
        Named("a", Likeness.SOURCE_PATH, TWO),
        Named("a", Likeness.FILENAME, ONE),
        Named("b", Likeness.STEM, ONE),
        Named("b", Likeness.STEM, TWO),
        Named("c", Likeness.STEM, ONE),
        Named("c", Likeness.STEM, ONE),
    ]
    assert meant(["a", "b", "c", "d"], found) == Documents({"a": TWO, "c": ONE}, ["b"], ["d"])


def test_what_is_not_there_still_counts() -> None:
    documents = Documents({"a": ONE, "b": ONE, "c": TWO}, [], ["d"])
    assert by_document({"a": 1, "b": 2, "c": 0, "d": 1}, documents) == {ONE: 2, TWO: 0, "d": 1}
