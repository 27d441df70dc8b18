"""The stages of a search: each timed, each within its share of the time; a late one is dropped and named."""

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError

from worker.db.engine import attempt, is_late, is_retryable, loggable
from worker.errors import NoAnswerError

log = logging.getLogger(__name__)

T = TypeVar("T")

# Of the time that is left, a stage gets this share: the stages after it can still answer.
_SHARE = 0.5
_LEAST_SECONDS = 0.05


class Stages:
    """What the stages of one search took, and which of them are missing from its answer."""

    def __init__(self, seconds: float) -> None:
        self._begun = time.monotonic()
        self._seconds = seconds
        self.latency_ms: dict[str, float] = {}
        self.dropped: list[str] = []

    @contextmanager
    def timed(self, name: str) -> Iterator[None]:
        """Add the time of a block to a stage's."""
        begun = time.monotonic()
        try:
            yield
        finally:
            spent = (time.monotonic() - begun) * 1000
            self.latency_ms[name] = round(self.latency_ms.get(name, 0) + spent, 3)

    @contextmanager
    def required(self, name: str) -> Iterator[None]:
        """Run a stage without which there is no answer. Raises NoAnswerError where it was late."""
        with self.timed(name):
            try:
                yield
            except DBAPIError as error:
                if not is_late(error):
                    raise
                raise self.too_late(name) from None

    def too_late(self, *stages: str) -> NoAnswerError:
        """Give the error that says which stages were late: those dropped, and these."""
        late = ", ".join((*self.dropped, *stages))
        return NoAnswerError(f"the search took too long: {late}", "raise SEARCH_TIMEOUT_SECONDS")

    @property
    def elapsed_ms(self) -> float:
        """The milliseconds since the search began."""
        return round((time.monotonic() - self._begun) * 1000, 3)

    def _drop(self, name: str) -> None:
        if name not in self.dropped:
            self.dropped.append(name)

    @property
    def left(self) -> float:
        """The seconds that are left of the search's."""
        return max(self._seconds - (time.monotonic() - self._begun), _LEAST_SECONDS)

    @property
    def share(self) -> float:
        """The seconds that one stage may take of those that are left."""
        return self.left * _SHARE

    def optional(self, name: str, connection: Connection, work: Callable[[], T]) -> T | None:
        """Run a stage the answer can do without: None where it was late, or the database refused it.

        Raises what its input is refused for.
        """
        with self.timed(name):
            try:
                with attempt(connection, self.share):
                    return work()
            except DBAPIError as error:
                if connection.invalidated or not is_retryable(error):
                    raise
                log.warning("stage.dropped", extra={"stage": name, "reason": loggable(error)})
                self._drop(name)
                return None

    def outside(self, name: str, work: Callable[[], T]) -> T | None:
        """Run a stage that needs no connection and that the answer can do without, whatever it raises."""
        with self.timed(name):
            try:
                return work()
            except Exception as error:  # noqa: BLE001 -- a model's own; the keywords answer
                log.warning("stage.dropped", extra={"stage": name, "reason": loggable(error)})
                self._drop(name)
                return None
