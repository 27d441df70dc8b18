"""How fast documents are done, from a running total, and how long the rest will take."""

from collections import deque
from dataclasses import dataclass

from worker.db.batches import Done

SMOOTHING_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Rate:
    """What is done in a second."""

    documents: float
    chunks: float
    size_bytes: float


class Meter:
    """Remembers the totals of the last minute."""

    def __init__(self) -> None:
        self._totals: deque[tuple[float, Done]] = deque()

    def add(self, at: float, total: Done) -> None:
        """Note the total at a moment, in seconds. A clock that went back begins anew."""
        if self._totals and at <= self._totals[-1][0]:
            self._totals.clear()
        self._totals.append((at, total))
        # one total before the minute stays: the minute begins there
        while len(self._totals) > 2 and at - self._totals[1][0] >= SMOOTHING_SECONDS:  # noqa: PLR2004 -- the two ends
            self._totals.popleft()

    @property
    def now(self) -> Rate | None:
        """The rate between the last two totals."""
        return self._between(-2)

    @property
    def smooth(self) -> Rate | None:
        """The rate since the oldest total that counts."""
        return self._between(0)

    def _between(self, first: int) -> Rate | None:
        if len(self._totals) < 2:  # noqa: PLR2004 -- a rate has two ends
            return None
        (begun, before), (ended, after) = self._totals[first], self._totals[-1]
        seconds = ended - begun
        return Rate(*((new - old) / seconds for new, old in zip(after, before, strict=True)))


def eta_seconds(waiting: int, rate: Rate | None) -> float | None:
    """Give how long what waits will take at a rate; None where nobody can say."""
    if not waiting:
        return 0.0
    return waiting / rate.documents if rate is not None and rate.documents > 0 else None
