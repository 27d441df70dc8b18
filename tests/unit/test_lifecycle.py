"""Celery's signals, mended where one comes within the answer to another; and garbage between tasks."""

import gc
import weakref

from celery.signals import task_postrun, worker_shutting_down
from celery.utils.dispatch import Signal

import worker.lifecycle  # noqa: F401 -- the mend, and what listens


class Node:
    """Keeps itself: nothing but a look for garbage frees it."""

    def __init__(self) -> None:
        self.itself = self


def test_what_a_task_leaves_goes_before_the_next() -> None:
    node = Node()
    gc.collect()  # it is among the oldest, which Python itself looks through least
    left = weakref.ref(node)
    del node
    assert left() is not None
    task_postrun.send(sender=None)
    assert left() is None


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
