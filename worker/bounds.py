"""What decoding and cutting one document may take of its process: processor time and memory.

These steps are pure, they hold no connection, lock or file: ended anywhere, they leave nothing behind.
"""

import os
import resource
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from worker.errors import DocumentError
from worker.settings import Settings

_AGAIN_SECONDS = 1
_SIZES, _LONGEST = "/proc/self/statm", 256  # proc(5): the sixth number is data and stack, in pages


@contextmanager
def bounded(settings: Settings) -> Iterator[None]:
    """Hold a pure step to MAX_DOCUMENT_SECONDS and MAX_DOCUMENT_MEMORY_BYTES, beyond what the process has.

    Raises DocumentError "too_slow" and "too_much_memory". Time is bounded in the main thread, where Python
    runs signal handlers; memory on Linux, where a process can be held to it.
    """
    with _memory(settings.max_document_memory_bytes), _processor_time(settings.max_document_seconds):
        yield


@contextmanager
def _processor_time(seconds: int) -> Iterator[None]:
    """Count what this process computes, not what passes: a machine that is busy fails no document."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    over = False

    def stop(_number: int, _frame: FrameType | None) -> None:
        if not over:
            said = f"not decoded and cut within MAX_DOCUMENT_SECONDS, {seconds:,} s of processor time"
            raise DocumentError("too_slow", said)

    before = signal.signal(signal.SIGVTALRM, stop)
    # again and again: Python drops what is raised in a destructor
    signal.setitimer(signal.ITIMER_VIRTUAL, seconds, _AGAIN_SECONDS)
    try:
        yield
    finally:
        over = True  # raised from here on, it would leave the timer running
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)


@contextmanager
def _memory(most: int) -> Iterator[None]:
    used = data_bytes()
    if used is None:
        yield
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    limits = [used + most, *(limit for limit in (soft, hard) if limit != resource.RLIM_INFINITY)]
    try:
        resource.setrlimit(resource.RLIMIT_DATA, (min(limits), hard))
        try:
            yield
        finally:  # before anything else is made: there may be no room for it
            resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))
    except MemoryError:
        raise DocumentError(
            "too_much_memory", f"to decode and cut it takes over MAX_DOCUMENT_MEMORY_BYTES, {most:,}"
        ) from None


def data_bytes() -> int | None:
    """Give what Linux holds against RLIMIT_DATA, about; None elsewhere."""
    try:
        sizes = os.open(_SIZES, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        return int(os.read(sizes, _LONGEST).split()[5]) * resource.getpagesize()
    finally:
        os.close(sizes)
