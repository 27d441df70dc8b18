"""A steady load: documents come, are edited and go, and questions are asked, at a fixed rate each.

As many documents come as go. What is written is far below what the workers can do (`pipeline`): a backlog
would be a finding.
"""

import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import count
from statistics import mean

from benchmarks.chaos.script import paragraph
from worker import Document, delete, search, submit
from worker.errors import IngestError
from worker.types import Lane

TENANT, SEARCH_MS = "soak", "search ms"
WRITE_SECONDS, SEARCH_SECONDS = 0.5, 0.5
NEW = EDITED = DELETED = 4
PARAGRAPHS, A_PERSON, QUESTIONS = 4, 4, 100  # a person: who waits, every so many times
_AHEAD = 10_000_000  # numbers of paragraphs: those of another edition are nobody else's


class Load:
    """`done`: what was submitted, edited, deleted, answered, and what was not answered."""

    def __init__(self, live: int, seed: int) -> None:
        self.done: Counter[str] = Counter()
        self._chance = random.Random(seed)
        self._editions = dict.fromkeys(range(live), 0)
        self._waits: list[float] = []
        self._waited = 0.0
        submit(map(self._document, self._editions), tenant=TENANT)

    @contextmanager
    def going_on(self) -> Iterator[None]:
        """Keep it up meanwhile. Raises what a producer was refused with."""
        over = threading.Event()
        with ThreadPoolExecutor(2) as threads:
            both = [
                threads.submit(_regularly, self._write, WRITE_SECONDS, over),
                threads.submit(_regularly, self._search, SEARCH_SECONDS, over),
            ]
            try:
                yield
            finally:
                over.set()
        for one in both:
            one.result()

    def expected(self) -> Mapping[str, str]:
        """Give the text of each document that is live, by its path."""
        return {_path(number): self._text(number) for number in self._editions}

    def _write(self, tick: int) -> None:
        edited = self._chance.sample(sorted(self._editions), EDITED)
        for number in edited:
            self._editions[number] += 1
        submit(map(self._document, edited), tenant=TENANT)
        first = max(self._editions) + 1
        new = range(first, first + NEW)
        self._editions |= dict.fromkeys(new, 0)
        lane = Lane.INTERACTIVE if tick % A_PERSON == 0 else Lane.BULK
        submit(map(self._document, new), tenant=TENANT, lane=lane)
        gone = sorted(self._editions)[:DELETED]
        delete([_path(number) for number in gone], tenant=TENANT)
        for number in gone:
            del self._editions[number]
        self.done.update(submitted=NEW, edited=EDITED, deleted=DELETED)

    def _search(self, tick: int) -> None:
        words = " ".join(paragraph(tick % QUESTIONS).split()[2:6])
        begun = time.monotonic()
        try:
            search(words, tenant=TENANT, k=5)
        except IngestError as error:
            self.done[f"not answered: {type(error).__name__}"] += 1
        else:
            self.done["answered"] += 1
            self._waits.append(time.monotonic() - begun)

    def waits(self) -> dict[str, float]:
        """Give what a search took in the mean since this was asked last; without one, the same again."""
        waits, self._waits = self._waits, []
        self._waited = 1000 * mean(waits) if waits else self._waited
        return {SEARCH_MS: self._waited}

    def _document(self, number: int) -> Document:
        return Document.text(self._text(number), source_path=_path(number))

    def _text(self, number: int) -> str:
        """Write it: an edit is of one paragraph, the next one each time."""
        edition = self._editions[number]
        numbers = [PARAGRAPHS * number + place for place in range(PARAGRAPHS)]
        for earlier in range(edition):
            numbers[earlier % PARAGRAPHS] += _AHEAD
        return "\n\n".join(map(paragraph, numbers))


def _path(number: int) -> str:
    return f"log-{number}.txt"


def _regularly(work: Callable[[int], None], seconds: float, over: threading.Event) -> None:
    """Do it at the times it is due, and where it is late, at once."""
    begun = time.monotonic()
    for tick in count():
        if over.wait(max(0.0, begun + tick * seconds - time.monotonic())):
            return
        work(tick)
