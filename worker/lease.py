"""Keeping a batch's lease while its documents are worked on, and knowing when to stop."""

import logging
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import Self

from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError

from worker.db import batches
from worker.db.engine import describe, transaction
from worker.errors import LeaseLostError
from worker.settings import Settings

log = logging.getLogger(__name__)


_TELL_SECONDS = 2


class Heartbeat:
    """Renews a lease from a thread, so that a long computation does not lose it.

    A renewal that fails because the database is away is tried again at the next beat: whether the
    lease still holds is decided by the fence of the write, not here. `trouble` is asked what keeps the
    batch from going on, which each renewal says.
    """

    def __init__(
        self,
        engine: Engine,
        lease: batches.Lease,
        settings: Settings,
        trouble: Callable[[], str | None] = lambda: None,
    ) -> None:
        self._engine, self._lease, self._settings, self._trouble = engine, lease, settings, trouble
        self._stop, self._lost = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, name="lease", daemon=True)
        self._deadline = time.monotonic() + settings.task_soft_time_limit
        self.progress = 0

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()

    def check(self) -> None:
        """Raise LeaseLostError when another worker has the batch by now."""
        if self._lost.is_set():
            raise LeaseLostError(str(self._lease.batch_id))

    @property
    def overdue(self) -> bool:
        """Whether the batch has had its time (TASK_SOFT_TIME_LIMIT)."""
        return time.monotonic() > self._deadline

    def _run(self) -> None:
        """Beat to the end, whatever memory a document takes: the process is bounded, this thread included."""
        while not (self._stop.is_set() or self._lost.is_set()):
            with suppress(MemoryError):
                self._beat()

    def _beat(self) -> None:
        """Renew every HEARTBEAT_SECONDS, and sooner where there is something new to tell."""
        heartbeat, renewed = self._settings.heartbeat_seconds, time.monotonic()
        told: tuple[int, str | None] = (0, None)
        while not self._stop.wait(min(_TELL_SECONDS, heartbeat)):
            if self._news() == told and time.monotonic() - renewed < heartbeat:
                continue
            told, renewed = self._news(), time.monotonic()
            try:
                with transaction(self._engine, heartbeat) as connection:
                    batches.renew(connection, self._lease, *told, self._settings.lease_seconds)
            except LeaseLostError:
                self._lost.set()
                return
            except SQLAlchemyError as error:
                log.warning(
                    "lease.unrenewed", extra={"batch": self._lease.batch_id, "reason": describe(error)}
                )

    def _news(self) -> tuple[int, str | None]:
        return self.progress, self._trouble()
