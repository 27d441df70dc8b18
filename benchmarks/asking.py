"""Searches, timed: one after the other in this process, or by several clients at once, a process each."""

import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from itertools import count, islice
from multiprocessing.synchronize import Barrier
from typing import Any

import numpy as np

from benchmarks.beside import context
from benchmarks.ready import Clustered
from worker.errors import NoAnswerError
from worker.queries import Query, read_query
from worker.resources import Resources
from worker.searching import search
from worker.settings import Settings
from worker.types import Answer

START_SECONDS = 120
WARM_UP = 20  # queries of each client
AT_ONCE = 256
MOST_WARM_UP, NO_LESS, ENOUGH = 10_240, 0.97, 2  # queries, of the best median, parts

_together: Barrier


def nearest_to(vectors: Clustered, *, first: int = 0, **fields: Any) -> Iterator[Query]:
    """Yield searches by vectors that are stored nowhere, for ever, and no two the same."""
    for seed in count(first):
        for vector in vectors.draw(AT_ONCE, seed):
            yield read_query(vector=vector, **fields)


def until(queries: Iterable[Query], fewest: int, enough: Callable[[], bool]) -> Iterator[Query]:
    """Yield so many, and more until it is enough."""
    for number, query in enumerate(queries):
        if number >= fewest and enough():
            return
        yield query


@dataclass(frozen=True, slots=True)
class Asked:
    """What each search took, in seconds, and what it answered."""

    taken: Sequence[float]
    answers: Sequence[Answer]

    def milliseconds(self, *shares: float) -> tuple[float, ...]:
        """Give quantiles of the latency."""
        return quantiles(self.taken, *shares)

    @property
    def late(self) -> int:
        """Count the answers without a stage that was late, or without any."""
        return sum(bool(answer.dropped) for answer in self.answers)


def quantiles(seconds: Sequence[float], *shares: float) -> tuple[float, ...]:
    """Give quantiles, in milliseconds."""
    return tuple(round(1e3 * float(np.quantile(seconds, share)), 1) for share in shares)


def ask(resources: Resources, queries: Iterable[Query]) -> Asked:
    """Ask one query after the other. One that is answered too late is answered by nothing."""
    taken: list[float] = []
    answers: list[Answer] = []
    for query in queries:
        begun = time.perf_counter()
        try:
            answer = search(resources, query)
        except NoAnswerError:
            answer = Answer(dropped=("all",))
        taken.append(time.perf_counter() - begun)
        answers.append(answer)
    return Asked(taken, answers)


def warm_up(resources: Resources, queries: Iterator[Query], part: int) -> int:
    """Ask, `part` by part, until searches twice took no less than before; gives how many were asked.

    What they read is then in memory, as it is after the first hours of service.
    """
    before, asked, no_less = math.inf, 0, 0
    while asked < MOST_WARM_UP and no_less < ENOUGH:
        [median] = ask(resources, islice(queries, part)).milliseconds(0.5)
        asked += part
        no_less = no_less + 1 if median > NO_LESS * before else 0
        before = min(median, before)
    return asked


@dataclass(frozen=True, slots=True)
class Crowd:
    """What several clients reached together: searches a second, and what each search took, in seconds."""

    rate: float
    taken: Sequence[float]


def ask_together(settings: Settings, shares: Sequence[Sequence[Query]]) -> Crowd:
    """Have a client for each share of the queries ask them one after the other, all at the same time.

    The first WARM_UP of each are not counted.
    """
    barrier = context().Barrier(len(shares), timeout=START_SECONDS)
    with ProcessPoolExecutor(len(shares), context(), _share, (barrier,)) as pool:
        found = [client.result() for client in [pool.submit(_client, settings, mine) for mine in shares]]
    taken = [seconds for _, _, mine in found for seconds in mine]
    begun, ended = min(begun for begun, _, _ in found), max(ended for _, ended, _ in found)
    return Crowd(len(taken) / (ended - begun), taken)


def _share(barrier: Barrier) -> None:
    global _together  # noqa: PLW0603 -- what all clients wait at can only come with their birth
    _together = barrier


def _client(settings: Settings, queries: Sequence[Query]) -> tuple[float, float, Sequence[float]]:
    """Give when it began and ended, by the clock all processes share, and what each search took."""
    resources = Resources(settings)
    try:
        ask(resources, queries[:WARM_UP])
    except BaseException:
        _together.abort()
        raise
    _together.wait()
    begun = time.monotonic()
    asked = ask(resources, queries[WARM_UP:])
    ended = time.monotonic()
    resources.close()
    return begun, ended, asked.taken
