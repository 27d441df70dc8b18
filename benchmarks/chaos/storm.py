"""Faults one after the other, from a shuffled deck: each struck, its end in time, its recovery watched."""

import heapq
import itertools
import random
import time
from collections import Counter
from collections.abc import Callable, Iterator

import psutil
import psycopg2
from redis import RedisError

from benchmarks.chaos.faults import Kind, Scene, deck
from benchmarks.chaos.recovery import Recoveries
from benchmarks.report import say

_PAUSE_SECONDS = (0.6, 2.6)
_TICK, _CALM_SECONDS, _TELL = 0.05, 60, 25


class Storm:
    """Strikes, in the thread that started the servers."""

    def __init__(self, scene: Scene, recoveries: Recoveries, seed: int) -> None:
        self._scene, self._recoveries = scene, recoveries
        self._order = random.Random(seed)  # its own: how much chance a fault takes, the moment decides
        self._ends: list[tuple[float, int, Kind, Callable[[], object]]] = []
        self._numbers = itertools.count(1)
        self.struck = 0
        self.stages: Counter[tuple[str, str]] = Counter()  # kinds of kills, and where in a batch they struck

    def rage(self, until: float, most: int) -> None:
        """Strike until it is so late, or so many were struck."""
        for kind in self._cards():
            if time.monotonic() > until or self.struck >= most:
                return
            self._make_room(kind)
            self._strike(kind)
            self._pause(self._scene.chance.uniform(*_PAUSE_SECONDS))

    def end(self) -> None:
        """End what has not ended yet."""
        while self._ends:
            self._end_next()

    def _cards(self) -> Iterator[Kind]:
        while True:
            yield from deck(self._order)

    def _make_room(self, kind: Kind) -> None:
        """Wait until what this kind takes is free; where it is to be alone, until all is well."""
        while any(kind.alone or (kind.on and kind.on == other.on) for _, _, other, _ in self._ends):
            self._pause(_TICK)
        if kind.alone:
            self._recoveries.calm(_CALM_SECONDS)

    def _strike(self, kind: Kind) -> None:
        try:
            struck = kind.strike(self._scene)
        except (psycopg2.Error, psutil.Error, RedisError, OSError) as error:  # another fault was in its way
            say(f"{kind.name}: not struck: {error!r:.100}")
            return
        self.struck += 1
        self.stages.update((kind.name, stage) for stage in struck.stages)
        if not kind.away:
            self._recoveries.begin(kind.name, struck.hit)
        if struck.seconds:
            due = time.monotonic() + struck.seconds
            heapq.heappush(self._ends, (due, next(self._numbers), kind, struck.end))
        if kind.alone:
            self._recoveries.calm(_CALM_SECONDS)
        if self.struck % _TELL == 0:
            say(f"{self.struck} faults, {len(self._recoveries.open)} not recovered from yet")

    def _pause(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while (now := time.monotonic()) < until:
            if self._ends and self._ends[0][0] <= now:
                self._end_next()
            time.sleep(_TICK)

    def _end_next(self) -> None:
        _, _, kind, end = heapq.heappop(self._ends)
        end()
        if kind.away:
            self._recoveries.begin(kind.name)
