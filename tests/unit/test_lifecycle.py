"""Celery's signals, mended where one comes within the answer to another; and garbage between tasks."""

import gc
import weakref
from collections.abc import Iterator

import pytest
from celery.signals import task_postrun, worker_shutting_down
from celery.utils.dispatch import Signal

from worker.lifecycle import collect_garbage_rarely


class Node:
    """Keeps itself: nothing but a look for garbage frees it."""

    def __init__(self) -> None:
        self.itself = self


@pytest.fixture
def as_in_a_pool() -> Iterator[None]:
    thresholds = gc.get_threshold()
    gc.collect()
    collect_garbage_rarely()
    yield
    gc.unfreeze()
    gc.set_threshold(*thresholds)


def left_by_an_earlier_task() -> weakref.ref[Node]:
    """Leave garbage that Python itself would look at after two million objects more."""
    node = Node()
    gc.collect(1)
    return weakref.ref(node)


@pytest.mark.usefixtures("as_in_a_pool")
@pytest.mark.parametrize("objects", [3_000, 21_000])  # the young were looked through after 20,000
def test_what_tasks_leave_goes_between_two_once_some_was_made(objects: int) -> None:
    left = left_by_an_earlier_task()
    made: list[list[int]] = [[] for _ in range(objects)]
    assert left() is not None
    task_postrun.send(sender=None)
    assert left() is None
    assert made


@pytest.mark.usefixtures("as_in_a_pool")
def test_nothing_is_looked_through_after_a_small_task() -> None:
    left = left_by_an_earlier_task()
    task_postrun.send(sender=None)
    assert left() is not None


def may_come_again(signal: Signal) -> bool:
    """Tell whether it can be sent within its own answer: in the same thread, as handlers of signals are."""
    with signal.lock:
        again: bool = signal.lock.acquire(blocking=False)
        if again:
            signal.lock.release()
    return again


def test_a_worker_that_is_told_to_stop_again_and_again_does_not_wait_for_itself() -> None:
    assert may_come_again(worker_shutting_down)


def test_celerys_own_signals_need_the_mend() -> None:
    assert not may_come_again(Signal())
