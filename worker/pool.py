"""Celery's pool of processes, mended where one that ended as the broker was lost ends the worker.

A process is no longer watched once it has ended, and stays in the pool until it has been waited for: at the
next look, up to five seconds later. A broker that is found again meanwhile has Celery 5.7 watch all that are
in the pool, and what that one was watched by is gone: a ValueError, "Unrecoverable error".
"""

from typing import Any

from celery.concurrency import prefork
from celery.concurrency.asynpool import AsynPool


class Pool(AsynPool):  # type: ignore[misc] # untyped
    """The processes."""

    def _track_child_process(self, proc: Any, hub: Any) -> None:
        """Watch a process, but for one that has ended: the next look at the pool replaces it."""
        if proc.exitcode is None and getattr(proc, "_sentinel_poll", hub) is not None:
            super()._track_child_process(proc, hub)


class TaskPool(prefork.TaskPool):  # type: ignore[misc] # untyped
    """What Celery knows as `prefork`, with these."""

    Pool = Pool
