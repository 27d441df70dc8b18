"""A step that waits for somebody else, in calls without a time limit for the whole."""

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

T = TypeVar("T")

_ROOM = threading.BoundedSemaphore(16)  # threads of a process that may wait for who never answers


def until(time_up: float, step: Callable[[], T]) -> T:
    """Give what a step gives. Raises what it raises, and TimeoutError at `time_up` of the monotonic clock.

    Nothing ends a thread in the middle of a call: a late one is left behind, and what it gives is dropped.
    """
    if not _ROOM.acquire(timeout=max(time_up - time.monotonic(), 0)):
        raise TimeoutError
    given: Future[T] = Future()
    try:
        threading.Thread(target=_do, args=(step, given), daemon=True).start()
    except BaseException:
        _ROOM.release()
        raise
    return given.result(max(time_up - time.monotonic(), 0))


def _do(step: Callable[[], T], given: "Future[T]") -> None:
    try:
        given.set_result(step())
    except BaseException as error:  # noqa: BLE001 -- who waits raises it
        given.set_exception(error)
    finally:
        del given  # an error in it holds this frame
        _ROOM.release()
