"""Timing on a machine that others use too: what a block took, and what they took meanwhile."""

import os
import time
from collections.abc import Callable
from types import TracebackType
from typing import Protocol, Self, TypeVar

import psutil

QUIET = 0.10  # of the cores
ROUNDS, MOST_ROUNDS = 7, 12
SMOKE = 0.1
SMOKE_DIMENSION = 64
BUDGET_SECONDS = 300


def dimension_at(scale: float, dimension: int) -> int:
    """Give how many numbers a vector has: fewer where no figure is worth the time."""
    return dimension if scale >= SMOKE else SMOKE_DIMENSION


class Watch:
    """Times a block: `seconds`, `cpu_seconds` of our processes, `others`' share of the cores."""

    seconds = cpu_seconds = others = 0.0

    def __enter__(self) -> Self:
        self._ours, self._busy, self._begun = _our_seconds(), _busy_seconds(), time.perf_counter()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.seconds = time.perf_counter() - self._begun
        self.cpu_seconds = _our_seconds() - self._ours
        foreign = _busy_seconds() - self._busy - self.cpu_seconds
        self.others = max(0.0, foreign / (self.seconds * (os.cpu_count() or 1)))


def _busy_seconds() -> float:
    times = psutil.cpu_times()
    return float(sum(times) - times.idle - getattr(times, "iowait", 0) - getattr(times, "guest", 0))


def _our_seconds() -> float:
    """Sum up this process and all below it; what has ended counts with its parent."""
    me = psutil.Process()
    total = 0.0
    for process in (me, *me.children(recursive=True)):
        try:
            total += sum(process.cpu_times()[:4])
        except psutil.NoSuchProcess:
            continue
    return total


class Disturbed(Protocol):
    """A round that knows how much it was disturbed."""

    @property
    def others(self) -> float:
        """Give the share of the cores that other programs had."""
        ...


R = TypeVar("R", bound=Disturbed)


def quietest(run: Callable[[], R], scale: float) -> list[R]:
    """Repeat a round until ROUNDS of them were quiet, or it is enough; give the quietest ROUNDS.

    Which rounds count depends on what other programs did, never on what was measured. At the scale of
    a smoke test one is run.
    """
    if scale < SMOKE:
        return [run()]
    done: list[R] = []
    limit = time.monotonic() + BUDGET_SECONDS
    while len(done) < ROUNDS or (
        sum(r.others <= QUIET for r in done) < ROUNDS and len(done) < MOST_ROUNDS and time.monotonic() < limit
    ):
        done.append(run())
    return sorted(done, key=lambda r: r.others)[:ROUNDS]
