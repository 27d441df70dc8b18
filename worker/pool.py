"""Celery's pool of processes, mended where one that ended is looked at too soon.

Its end is heard a moment before it can be waited for: it is no longer watched then, and stays in the pool
until the next look, up to five seconds later. So long Celery 5.7 has a place less, and does not know what
became of the task. A broker that is found again meanwhile has it watch all that are in the pool, and what
that one was watched by is gone: a ValueError, "Unrecoverable error".
"""

from typing import Any

from billiard.pool import RUN
from celery.concurrency import prefork
from celery.concurrency.asynpool import AsynPool

_AGAIN_SECONDS = 0.1


class Pool(AsynPool):  # type: ignore[misc] # untyped
    """The processes."""

    def _event_process_exit(self, hub: Any, proc: Any) -> None:
        """Replace a process that ended, as soon as it can be waited for."""
        super()._event_process_exit(hub, proc)
        if proc in self._pool and self._state == RUN:
            hub.call_later(_AGAIN_SECONDS, self._event_process_exit, hub, proc)

    def _track_child_process(self, proc: Any, hub: Any) -> None:
        """Watch a process, but for one that has ended: the next look at the pool replaces it."""
        if proc.exitcode is None and getattr(proc, "_sentinel_poll", hub) is not None:
            super()._track_child_process(proc, hub)


class TaskPool(prefork.TaskPool):  # type: ignore[misc] # untyped
    """What Celery knows as `prefork`, with these."""

    Pool = Pool
