"""One question to a server, asked in a thread: who scrapes waits a bounded time, and the server rests."""

import logging
import threading
import time
from collections.abc import Callable
from typing import Generic, TypeVar

from worker.db.engine import describe

T = TypeVar("T")

log = logging.getLogger(__name__)


class Sampler(Generic[T]):
    """Asks at most one question at a time, and keeps its answer for `keep` seconds.

    `load`: the share of the time that asking may take at most; an answer that took long is kept longer.
    """

    def __init__(self, name: str, ask: Callable[[], T], keep: float, *, load: float = 1) -> None:
        self._name, self._ask, self._keep, self._load = name, ask, keep, load
        self._turn = threading.Lock()
        self._asked: threading.Event | None = None
        self._fresh_until = 0.0
        self._well = True
        self.last: T | None = None
        self.seconds = 0.0

    def begin(self) -> threading.Event | None:
        """Ask, unless the last answer is fresh or a question is under way; gives what to wait for."""
        with self._turn:
            if self._asked is None and time.monotonic() >= self._fresh_until:
                asked = threading.Event()
                threading.Thread(target=self._run, args=(asked,), name=self._name, daemon=True).start()
                self._asked = asked  # it ends in its turn, which is after ours
            return self._asked

    def get(self, patience: float) -> T | None:
        """Give the answer, a new one where the last is not fresh; None where there was none in time."""
        asked = self.begin()
        if asked is not None and not asked.wait(patience):
            return None
        return self.last

    def _run(self, asked: threading.Event) -> None:
        begun = time.monotonic()
        try:
            self.last = self._ask()
            self._say(None)
        except Exception as error:  # noqa: BLE001 -- whatever it is, the next scrape asks again
            self.last = None
            self._say(error)
        ended = time.monotonic()
        self.seconds = ended - begun
        with self._turn:
            self._fresh_until = ended + max(self._keep, self.seconds / self._load)
            self._asked = None
        asked.set()

    def _say(self, error: Exception | None) -> None:
        """Say once that it went wrong, and once that it is well again."""
        if error is not None and self._well:
            log.warning("server.silent", extra={"server": self._name, "reason": describe(error)})
        elif error is None and not self._well:
            log.info("server.back", extra={"server": self._name})
        self._well = error is None
