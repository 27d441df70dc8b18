"""The pool of one process, whose state its metrics show."""

import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

from sqlalchemy import exc
from sqlalchemy.pool import ConnectionPoolEntry, QueuePool
from sqlalchemy.util.queue import Empty, Queue

from worker import metrics


class NoFreeConnectionError(exc.TimeoutError):
    """All connections of a pool were in use for the whole DATABASE_POOL_TIMEOUT."""


class CountedQueue(Queue[ConnectionPoolEntry]):
    """A queue that counts who waits in it: each thread once, and no other."""

    waiting: Callable[[], AbstractContextManager[object]]

    def get(self, block: bool = True, timeout: float | None = None) -> ConnectionPoolEntry:
        """Take a connection, as soon as there is one."""
        try:
            return super().get(block=False)
        except Empty:
            if not block:
                raise
        with self.waiting():
            return super().get(timeout=timeout)


class CountedPool(QueuePool):
    """A QueuePool that sets its gauges whenever a connection comes or goes: microseconds a transaction."""

    _queue_class = CountedQueue
    _pool: CountedQueue

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._name = self.logging_name or "other"
        self._checked_out = metrics.pool_checked_out.labels(self._name)
        self._beyond = metrics.pool_overflow.labels(self._name)
        self._timeouts = metrics.pool_timeouts.labels(self._name)
        self._pool.waiting = metrics.pool_waiting.labels(self._name).track_inprogress
        # a connection that nobody closed may come back in the middle of this, in the same thread
        self._showing = threading.RLock()
        metrics.pool_size.labels(self._name).set(self.size())
        metrics.pool_limit.labels(self._name).set(self._most())
        self._show()

    def _most(self) -> int:
        return self.size() + self._max_overflow

    def _show(self) -> None:
        """Show what is so now; one thread at a time, or the older of two counts could be what stays."""
        with self._showing:
            self._checked_out.set(self.checkedout())
            self._beyond.set(max(self.overflow(), 0))

    def _do_get(self) -> ConnectionPoolEntry:
        try:
            return super()._do_get()
        except NoFreeConnectionError:
            raise  # from a second look within this one, which has counted it
        except exc.TimeoutError:
            self._timeouts.inc()
            said = f"all {self._most()} connections of the pool {self._name!r} were in use for"
            raise NoFreeConnectionError(f"{said} {self.timeout():g} s") from None
        finally:
            self._show()

    def _do_return_conn(self, record: ConnectionPoolEntry) -> None:
        super()._do_return_conn(record)
        self._show()
