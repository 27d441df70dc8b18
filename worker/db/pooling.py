"""The pool of one process, whose state its metrics show."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

from sqlalchemy import exc
from sqlalchemy.pool import ConnectionPoolEntry, QueuePool

from worker import metrics


class CountedPool(QueuePool):
    """A QueuePool that sets its gauges whenever a connection comes or goes: microseconds a transaction."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        name = self.logging_name or "other"
        self._checked_out = metrics.pool_checked_out.labels(name)
        self._beyond = metrics.pool_overflow.labels(name)
        self._waiting = metrics.pool_waiting.labels(name)
        self._timeouts = metrics.pool_timeouts.labels(name)
        self._waiters, self._waiters_lock = 0, threading.Lock()
        metrics.pool_size.labels(name).set(self.size())
        metrics.pool_limit.labels(name).set(self._most())
        self._waiting.set(0)
        self._show()

    def _most(self) -> int:
        return self.size() + self._max_overflow

    def _show(self) -> None:
        self._checked_out.set(self.checkedout())
        self._beyond.set(max(self.overflow(), 0))

    def _do_get(self) -> ConnectionPoolEntry:
        try:
            with nullcontext() if self.checkedout() < self._most() else self._counted_as_waiting():
                return super()._do_get()
        finally:
            self._show()

    def _do_return_conn(self, record: ConnectionPoolEntry) -> None:
        super()._do_return_conn(record)
        self._show()

    @contextmanager
    def _counted_as_waiting(self) -> Iterator[None]:
        self._count_waiters(1)
        try:
            yield
        except exc.TimeoutError:
            self._timeouts.inc()
            raise
        finally:
            self._count_waiters(-1)

    def _count_waiters(self, more: int) -> None:
        with self._waiters_lock:
            self._waiters += more
            self._waiting.set(self._waiters)
