"""Celery's pool of processes, mended where one that ended is looked at too soon.

Its end is heard a moment before it can be waited for: it is no longer watched then, and stays in the pool
until the next look, up to five seconds later. So long Celery 5.7 has a place less, and does not know what
became of the task. A broker that is found again meanwhile has it watch all that are in the pool, and what
that one was watched by is gone: a ValueError, "Unrecoverable error".

Nor is it ready for one that is killed before the worker takes work. It ends the worker, "Could not start
worker processes"; and where the broker is lost as well it replaces that one without its place: StopIteration.
"""

from typing import Any

from billiard.pool import RUN
from celery.concurrency import prefork
from celery.concurrency.asynpool import AsynPool

_AGAIN_SECONDS = 0.1


class Pool(AsynPool):  # type: ignore[misc] # untyped
    """The processes."""

    def maintain_pool(self) -> None:
        """Replace those that ended, once a loop watches them: before that, none gives its place back."""
        if self._registered_with_event_loop:
            super().maintain_pool()

    def did_start_ok(self) -> bool:
        """Tell whether none gave up as it started. One that was killed is replaced."""
        if any(process.exitcode is not None and process.exitcode >= 0 for process in self._pool):
            return bool(super().did_start_ok())
        self.maintain_pool()
        return True

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
