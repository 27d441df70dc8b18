"""Celery's signals, mended where one comes within the answer to another."""

from celery.signals import worker_shutting_down
from celery.utils.dispatch import Signal

import worker.lifecycle  # noqa: F401 -- the mend


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
