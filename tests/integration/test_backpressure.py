"""A full backlog: bulk producers wait or are told, by whole slices; what a person waits for goes on."""

from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import Connection, event, text

from worker import Document, Receipt, submit, submitting
from worker.errors import BacklogFullError, Exit
from worker.resources import resources
from worker.settings import Settings
from worker.types import Lane

Drain = Callable[[], dict[str, int]]


@pytest.fixture
def environment() -> dict[str, str]:
    return {"MAX_BACKLOG_DOCUMENTS": "10", "BATCH_DOCUMENTS": "1"}


@pytest.fixture(autouse=True)
def _small_slices(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """Five documents a slice; and the producer's calls use the settings of this test."""
    monkeypatch.setattr(submitting, "_SLICE_DOCUMENTS", 5)
    monkeypatch.setattr(submitting, "_ROOM_POLL_SECONDS", 0.01)


def texts(count: int, start: int = 0, words: str = "a ship") -> list[Document]:
    return [Document.text(f"{words} {n}", source_path=f"{n}") for n in range(start, start + count)]


def refused(documents: list[Document], tenant: str = "default") -> BacklogFullError:
    with pytest.raises(BacklogFullError) as found:
        submit(documents, tenant=tenant, when_full="refuse")
    return found.value


def counts_of_the_backlog() -> list[str]:
    """Give a list that is added each statement to that counts what waits."""
    seen: list[str] = []

    def note(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        if "AS counted" in statement:
            seen.append(statement)

    event.listen(resources().engine, "before_cursor_execute", note)
    return seen


def recorded(connection: Connection) -> int:
    return int(connection.execute(text("SELECT count(*) FROM documents")).scalar_one())


def test_slices_are_taken_whole_until_as_many_wait_as_may_and_the_rest_is_refused_in_one_error(
    connection: Connection,
) -> None:
    found = refused(texts(22))
    # one is in a batch, which is no backlog: ten wait after the third slice
    assert recorded(connection) == 15
    assert isinstance(found.receipt, Receipt)
    assert len(found.receipt.new) == 15
    assert (found.exit_code, found.limit) == (Exit.FULL, 10)
    assert str(found) == (
        "the backlog is full: 10 bulk documents in all wait already, as many as MAX_BACKLOG_DOCUMENTS allows;"
        " 15 documents of this submission are recorded → submit the rest later, or raise"
        " MAX_BACKLOG_DOCUMENTS; `ingest status` shows what waits"
    )
    assert len(refused(texts(3, start=15)).receipt.new) == 0
    assert recorded(connection) == 15


def test_what_a_person_waits_for_is_not_refused_because_of_bulk() -> None:
    refused(texts(22))
    receipt = submit(texts(3, start=100), lane=Lane.INTERACTIVE, when_full="refuse")
    assert len(receipt.new) == 3
    moved = submit(texts(1, start=14), lane=Lane.INTERACTIVE, when_full="refuse")
    assert len(moved.changed) == 1, "a document of the backlog that is urgent now"


def test_what_is_unchanged_passes_and_what_is_changed_does_not() -> None:
    refused(texts(22))
    assert submit(texts(15), when_full="refuse").unchanged == 15
    refused(texts(1, words="another ship"))


def test_who_waits_hears_why_and_goes_on_when_there_is_room(connection: Connection, drain: Drain) -> None:
    heard: list[str] = []

    def held_up(why: str) -> None:
        heard.append(why)
        drain()

    assert len(submit(texts(40), held_up=held_up).new) == 40
    assert 1 <= len(heard) <= 3
    assert heard[0].startswith("the backlog is full: 10 bulk documents in all wait already")
    assert recorded(connection) == 40


def test_without_anybody_to_hear_it_the_log_says_it_once(
    drain: Drain, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.submitting.time.sleep", lambda _seconds: drain())
    submit(texts(20))
    assert [one.message for one in caplog.records if one.message == "submission.waits"] == [
        "submission.waits"
    ]


def test_the_backlog_is_counted_again_only_when_the_room_that_was_there_is_used_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(submitting, "_SLICE_DOCUMENTS", 1)
    counted = counts_of_the_backlog()
    submit(texts(10))
    assert len(counted) == 1
    assert "LIMIT" in counted[0]


class TestOfATenant:
    """A limit of each tenant's own."""

    @pytest.fixture
    def environment(self) -> dict[str, str]:
        return {"MAX_TENANT_BACKLOG_DOCUMENTS": "5", "MAX_BACKLOG_DOCUMENTS": "0", "BATCH_DOCUMENTS": "1"}

    def test_one_tenants_backlog_keeps_no_other_out(self) -> None:
        found = refused(texts(20), tenant="a")
        assert "5 bulk documents of this tenant wait already" in found.message
        assert len(submit(texts(5), tenant="b", when_full="refuse").new) == 5


class TestWithoutLimits:
    """Neither limit is set."""

    @pytest.fixture
    def environment(self) -> dict[str, str]:
        return {"MAX_BACKLOG_DOCUMENTS": "0"}

    def test_nothing_is_counted(self) -> None:
        counted = counts_of_the_backlog()
        assert len(submit(texts(50), when_full="refuse").new) == 50
        assert counted == []
