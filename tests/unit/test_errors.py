"""Errors cross processes whole, and each kind of trouble has an exit code of its own."""

import inspect
import pickle
from typing import Any

import pytest

from worker import errors
from worker.errors import DocumentError, Exit, IngestError, LeaseLostError, SkipDocument, TransientError

KINDS: list[type[Any]] = [
    kind
    for _, kind in inspect.getmembers(errors, inspect.isclass)
    if issubclass(kind, Exception) and kind.__module__ == errors.__name__
]
FOR_PEOPLE = [kind for kind in KINDS if issubclass(kind, IngestError)]
OF_DOCUMENTS = [kind for kind in KINDS if issubclass(kind, DocumentError)]


@pytest.mark.parametrize("kind", KINDS)
def test_error_is_the_same_after_a_journey(kind: type[Any]) -> None:
    sent = kind("what", "more") if kind is not LeaseLostError else kind("batch")
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        got = pickle.loads(pickle.dumps(sent, protocol))
        assert type(got) is kind
        assert (got.args, vars(got), str(got)) == (sent.args, vars(sent), str(sent))


@pytest.mark.parametrize("kind", FOR_PEOPLE)
def test_error_for_people_says_what_to_do_where_there_is_something(kind: type[IngestError]) -> None:
    assert str(kind("it broke", "mend it")) == "it broke → mend it"
    assert str(kind("it broke")) == "it broke"


def test_exit_codes_are_distinct_and_each_has_its_error() -> None:
    assert len({code.value for code in Exit}) == len(Exit.__members__)
    codes = [kind.exit_code for kind in FOR_PEOPLE]
    assert len(set(codes)) == len(codes)
    assert {Exit.OK, Exit.FINDINGS} == set(Exit) - set(codes)
    assert all(0 <= code <= 255 for code in Exit)


@pytest.mark.parametrize("kind", OF_DOCUMENTS)
def test_document_error_has_a_code_and_a_message(kind: type[DocumentError]) -> None:
    error = kind("a_code", "a message")
    assert (error.code, error.message) == ("a_code", "a message")


def test_policy_reads_types() -> None:
    assert [DocumentError, SkipDocument, TransientError] == OF_DOCUMENTS
    assert not set(FOR_PEOPLE) & set(OF_DOCUMENTS)
    assert not issubclass(LeaseLostError, IngestError | DocumentError)
