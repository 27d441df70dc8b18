"""A pure step is ended where it takes too much, and the process goes on as it was."""

import re
import resource
import signal
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest

from worker.bounds import bounded
from worker.errors import DocumentError
from worker.settings import Settings, read_settings

MOST = 16 << 20
HUGE = 1 << 30  # more than this process can have to spare, of what others gave back


@pytest.fixture
def settings() -> Settings:
    return read_settings(
        database_url="postgresql://h/d",
        broker_url="redis://h",
        max_document_seconds=1,
        max_document_memory_bytes=MOST,
    )


def refusal(settings: Settings, step: Callable[[], Any]) -> DocumentError:
    with pytest.raises(DocumentError) as caught, bounded(settings):
        step()
    assert "\n" not in caught.value.message
    return caught.value


def test_a_step_that_goes_on_is_ended_and_the_next_has_all_its_time(settings: Settings) -> None:
    before = signal.getsignal(signal.SIGVTALRM)
    error = refusal(settings, lambda: re.match(r"(?:a+)+b", "a" * 60))
    assert (error.code, error.message) == (
        "too_slow",
        "not decoded and cut within MAX_DOCUMENT_SECONDS, 1 s of processor time",
    )
    assert signal.getitimer(signal.ITIMER_VIRTUAL) == (0, 0)
    assert signal.getsignal(signal.SIGVTALRM) == before


@pytest.mark.parametrize(
    "step", [lambda: bytearray(HUGE), lambda: [bytes(MOST) for _ in range(HUGE // MOST)]]
)
def test_a_step_that_takes_more_memory_is_ended_and_what_comes_after_it_is_not(
    settings: Settings, step: Callable[[], Any]
) -> None:
    before = resource.getrlimit(resource.RLIMIT_DATA)
    error = refusal(settings, step)
    assert (error.code, error.message) == (
        "too_much_memory",
        "to decode and cut it takes over MAX_DOCUMENT_MEMORY_BYTES, 16,777,216",
    )
    assert resource.getrlimit(resource.RLIMIT_DATA) == before
    assert bytearray(HUGE)


def test_a_step_that_drops_what_ends_it_is_ended_again(settings: Settings) -> None:
    def step() -> None:
        with suppress(DocumentError):
            re.match(r"(?:a+)+b", "a" * 60)
        re.match(r"(?:a+)+b", "a" * 60)

    assert refusal(settings, step).code == "too_slow"
    assert signal.getitimer(signal.ITIMER_VIRTUAL) == (0, 0)


def test_a_step_within_its_bounds_gives_what_it_gives(settings: Settings) -> None:
    with bounded(settings):
        found = bytearray(MOST // 4)
    assert len(found) == MOST // 4


def test_a_step_in_another_thread_is_held_to_memory_alone(settings: Settings) -> None:
    said: list[str] = []
    thread = threading.Thread(target=lambda: said.append(refusal(settings, lambda: bytearray(HUGE)).code))
    thread.start()
    thread.join()
    assert said == ["too_much_memory"]
