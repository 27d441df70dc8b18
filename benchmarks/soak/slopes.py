"""From samples to what they say: means of blocks, and how much a figure rises an hour."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

# What fills up once is full by then: connections of each process, segments, sealed ones to be merged.
BLOCKS, WARM_UP_SECONDS, FEWEST = 40, 600.0, 3


def warm_up(seconds: float) -> float:
    """Give the seconds that go before so many in which it counts."""
    return min(seconds, WARM_UP_SECONDS)


@dataclass(slots=True)
class Blocks:
    """A warm-up and `seconds` after it, in BLOCKS parts: each figure's mean in each, and its highest ever.

    Means, as samples that follow one another are alike: what is left of one block says little of the next.
    Nothing but sums is kept: what measures for hours must not grow itself.
    """

    seconds: float
    _sums: list[dict[str, float]] = field(default_factory=lambda: [{} for _ in range(BLOCKS)])
    samples: list[int] = field(default_factory=lambda: [0] * BLOCKS)
    highest: dict[str, float] = field(default_factory=dict)

    def add(self, at: float, sample: Mapping[str, float]) -> None:
        """Take a sample of `at` seconds after the beginning. What one has and another has not is 0 there."""
        block = min(int(BLOCKS * at / self.total), BLOCKS - 1)
        self.samples[block] += 1
        for name, value in sample.items():
            self._sums[block][name] = self._sums[block].get(name, 0.0) + value
            self.highest[name] = max(self.highest.get(name, 0.0), value)

    @property
    def total(self) -> float:
        """Give how long the run is, with its warm-up, in seconds."""
        return warm_up(self.seconds) + self.seconds

    @property
    def names(self) -> list[str]:
        """Give the figures, in order."""
        return sorted(self.highest)

    def rows(self) -> list[tuple[float, dict[str, float]]]:
        """Give the middle of each block, in seconds, and the means of that block."""
        return [
            (
                (block + 0.5) * self.total / BLOCKS,
                {name: sums.get(name, 0.0) / samples for name in self.names},
            )
            for block, (sums, samples) in enumerate(zip(self._sums, self.samples, strict=True))
            if samples
        ]

    def slopes(self) -> dict[str, "Slope"]:
        """Fit each figure after the warm-up."""
        first = warm_up(self.seconds) + self.total / BLOCKS / 2
        rows = [(at, means) for at, means in self.rows() if at >= first]
        hours = [at / 3600 for at, _ in rows]
        return {name: slope(hours, [means[name] for _, means in rows]) for name in self.names}


@dataclass(frozen=True, slots=True)
class Slope:
    """A figure's mean, how much it rises an hour, and the standard error of that."""

    mean: float
    an_hour: float
    error: float

    @property
    def share(self) -> float:
        """Give what it rises an hour, % of its mean."""
        return self._percent(self.an_hour)

    @property
    def share_error(self) -> float:
        """Give the standard error of that."""
        return self._percent(self.error)

    @property
    def surely(self) -> float:
        """Give what is left of the rise, or fall, without two standard errors: % of the mean an hour."""
        beyond = max(abs(self.an_hour) - 2 * self.error, 0.0)
        return self._percent(beyond if self.an_hour > 0 else -beyond)

    def _percent(self, number: float) -> float:
        return 100 * number / self.mean if self.mean else 0.0


def slope(hours: Sequence[float], values: Sequence[float]) -> Slope:
    """Fit a line by least squares; through less than three points, as a run of seconds has, a flat one."""
    if len(values) < FEWEST:
        return Slope(float(np.mean(values)) if values else 0.0, 0.0, 0.0)
    (an_hour, _), covariance = np.polyfit(hours, values, 1, cov=True)
    return Slope(float(np.mean(values)), float(an_hour), float(np.sqrt(covariance[0, 0])))
