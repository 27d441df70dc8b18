"""Ingest workers that stand still between their steps until they are told to go on: others act meanwhile."""

from collections.abc import Sequence
from enum import Enum, auto
from hashlib import sha256
from threading import Semaphore, Thread, current_thread
from typing import Any
from uuid import UUID

import numpy as np

from worker.errors import DocumentError, LeaseLostError, TransientError
from worker.ingest import ingest_batch
from worker.resources import Resources
from worker.steps.vectors import Matrix

STORM = "storm"  # what the model refuses for good
_PATIENCE_SECONDS = 60


class Order(Enum):
    """What a standing worker is told."""

    STEP = auto()  # to the next place where it stands: before it reads, and after each group it has encoded
    END = auto()
    STOP = auto()  # as a process that ends: what is done is written, the rest goes back
    DIE = auto()  # as one that is killed


class KilledError(BaseException):
    """The worker is dead: nobody may catch it."""


class Worker(Thread):
    """One batch in the hands of one worker, in a thread of its own, of which one runs at a time."""

    def __init__(self, mine: Resources, batch_id: UUID) -> None:
        super().__init__(daemon=True)
        self.batch_id = batch_id
        self.token: UUID | None = None
        self.outcome: dict[str, int] | BaseException | None = None
        self.over = False
        self._mine = mine
        self._order = Order.STEP
        self._asked = False
        self._turn, self._rest = Semaphore(0), Semaphore(0)

    def claim(self) -> None:
        self.start()
        self._await()

    def go_on(self, order: Order) -> None:
        if self.over:
            return
        self._order = order
        self._turn.release()
        self._await()

    def _await(self) -> None:
        assert self._rest.acquire(timeout=_PATIENCE_SECONDS), "the worker neither stands nor ends"
        if self.over:
            self.join()

    def run(self) -> None:
        try:
            self.outcome = ingest_batch(
                self._mine, self.batch_id, "actor", stopping=self._stopping, report=self._report
            )
        except BaseException as end:  # noqa: BLE001 -- the test looks at what ended it
            self.outcome = end
        finally:
            self.over = True
            self._rest.release()

    def _stopping(self) -> bool:
        if not self._asked:
            self._asked = True
            self._stand()
        return self._order is Order.STOP

    def _report(self, _done: int, _total: int) -> None:
        self._stand()

    def _stand(self) -> None:
        if self._order is not Order.END:
            self._rest_until_told()

    def stops(self) -> bool:
        """Stand, also where it was told to go on to the end; tell whether it is to stop."""
        if self._order is not Order.STOP:
            self._rest_until_told()
        return self._order is Order.STOP

    def _rest_until_told(self) -> None:
        self._rest.release()
        self._turn.acquire()
        if self._order is Order.DIE:
            raise KilledError

    @property
    def lost(self) -> bool:
        return isinstance(self.outcome, LeaseLostError)

    @property
    def killed(self) -> bool:
        return isinstance(self.outcome, KilledError)


class Model:
    """An embedding model: a text's vector follows from its hash. It refuses storms.

    It may be away: who asks then waits for it, and stands.
    """

    model = "actors"

    def __init__(self) -> None:
        self.away = False

    def embed(self, texts: Sequence[str]) -> Matrix:
        worker = current_thread()
        while self.away:
            assert isinstance(worker, Worker)
            if worker.stops():
                raise TransientError("embedding_unavailable", "the provider does not answer")
        if any(STORM in text for text in texts):
            raise DocumentError("text_refused", "the provider takes no such text")
        return np.array([vector(text) for text in texts])


def vector(text: str) -> Any:
    """The 256 numbers that stand for a text."""
    return np.frombuffer(sha256(text.encode()).digest(), np.uint8).repeat(8).astype(np.float32) + 1
