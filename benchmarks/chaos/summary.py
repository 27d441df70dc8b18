"""What a run came to: tables, and whether it is what is demanded."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from benchmarks.chaos.compare import Difference, Holdings
from benchmarks.chaos.embedded import Embedded
from benchmarks.chaos.faults import LEASE_SECONDS, kinds
from benchmarks.chaos.recovery import Recovery
from benchmarks.chaos.servers import HASTE
from benchmarks.report import Demand, Report, say

KINDS, FAULTS, LONG_MINUTES = 15, 500, 20
_SHOWN = ("LEASE_SECONDS", "HEARTBEAT_SECONDS", "RESCUE_SCHEDULE", "DISPATCH_SCHEDULE", "MAX_ATTEMPTS")
_TWICE = ("not one chunk set a document", "a content owned twice")
_EXAMPLES = 10


@dataclass(slots=True)
class Found:
    """All that was found of a run."""

    seconds: float
    recoveries: Sequence[Recovery]
    stages: Counter[tuple[str, str]]
    violated: Counter[str]
    asked: int
    produced: Counter[str]
    wrong_answers: Sequence[str]
    unexpected: Counter[str]
    stuck: int
    by_hand: Counter[str]
    undone_probes: int
    findings: Counter[str]
    embedded: Embedded
    holdings: Holdings
    most_attempts: int
    meant: Holdings | None = None
    difference: Difference = field(default_factory=lambda: Difference([], [], []))
    undisturbed: Embedded = field(default_factory=lambda: Embedded(0, 0, 0))

    @property
    def lost(self) -> int:
        """Documents or chunks that are missing, and probes that never completed."""
        return len(self.difference.lost) + self.undone_probes

    @property
    def duplicated(self) -> int:
        """What is there twice, at any moment, or should not be there."""
        return sum(self.violated[name] for name in _TWICE) + len(self.difference.extra)

    @property
    def left(self) -> int:
        """What never came to its end."""
        return self.stuck + sum(one.seconds is None for one in self.recoveries)


def settings() -> dict[str, Any]:
    """Give the settings the figures depend on."""
    return {name: int(HASTE[name]) for name in _SHOWN}


def fill(report: Report, found: Found, minutes: float) -> None:
    """Put everything into a report."""
    by_kind = _by_kind(found.recoveries)
    rows = [[name, len(times), *_spread(times)] for name, times in by_kind.items()]
    by_count = {
        "invariants violated": found.violated,
        "producers": found.produced,
        "processes": found.unexpected,
    }
    report.table("faults by kind", ["fault", "count", "recovery p50 s", "p95 s", "max s"], rows)
    stages = [[kind, stage, count] for (kind, stage), count in sorted(found.stages.items())]
    report.table("kills by stage", ["fault", "stage of the batch", "processes"], stages)
    report.table("what was found", ["what", "count"], _counts(found))
    for title, counts in by_count.items():
        if counts:
            report.table(title, ["what", "count"], sorted(counts.items()))
    for way in ("lost", "extra", "other"):
        for example in getattr(found.difference, way)[:_EXAMPLES]:
            say(f"{way}: {example}")
    for example in found.wrong_answers[:_EXAMPLES]:
        say(f"wrong answer: {example}")
    report.demands += _demands(found, by_kind, minutes)


def _counts(found: Found) -> list[tuple[str, Any]]:
    embedded, undisturbed = found.embedded, found.undisturbed
    return [
        ("faults", len(found.recoveries)),
        ("seconds", round(found.seconds)),
        ("documents in the end", len(found.holdings.documents)),
        ("chunks in the end", found.holdings.chunks),
        ("lost", found.lost),
        ("duplicated", found.duplicated),
        ("stuck", found.left),
        ("not as undisturbed", found.difference.total),
        ("failed, and tried again by hand", found.by_hand.total()),
        ("most attempts of a document", found.most_attempts),
        ("chunks embedded", embedded.texts),
        ("of them again, after an attempt that was undone", embedded.again),
        ("twice by one attempt", embedded.within),
        ("chunks embedded, undisturbed", undisturbed.texts),
        ("invariants asked", found.asked),
        ("findings of `ingest verify`", found.findings.total()),
        *((f"by hand: {code}", count) for code, count in found.by_hand.items()),
    ]


def _demands(found: Found, by_kind: Mapping[str, list[float]], minutes: float) -> list[Demand]:
    none = {
        "lost": found.lost,
        "duplicated": found.duplicated,
        "stuck": found.left,
        "not as undisturbed": found.difference.total,
        "failed": found.by_hand.total(),
        "invariants violated": found.violated.total(),
        "embedded twice by one attempt": found.embedded.within,
        "findings of verify": found.findings.total(),
        "wrong answers": len(found.wrong_answers),
        "processes that ended by themselves": found.unexpected.total(),
    }
    slowest: dict[str, tuple[str, str | tuple[str, ...], float]] = {
        "worker kill, p95 s": ("worker: ", "kill -9", LEASE_SECONDS + 30),
        "PostgreSQL restart, p95 s": ("PostgreSQL: ", ("postmaster kill -9", "restarted"), 15),
        "Redis restart, p95 s": ("Redis: kill -9", "", 60),
    }
    demands = [Demand(name, 0, count, at_most=True) for name, count in none.items()]
    for name, (begin, end, bound) in slowest.items():
        times = [
            one
            for kind, all_ in by_kind.items()
            if kind.startswith(begin) and kind.endswith(end)
            for one in all_
        ]
        if times:
            demands.append(Demand(name, bound, float(np.percentile(times, 95)), at_most=True))
    demands.append(Demand("kinds of faults", KINDS, sum(map(bool, by_kind.values()))))
    if minutes >= LONG_MINUTES:
        demands.append(Demand("faults", FAULTS, len(found.recoveries)))
    return demands


def _by_kind(recoveries: Sequence[Recovery]) -> dict[str, list[float]]:
    """Give the seconds of each kind that came; of what was not recovered from, infinitely many."""
    found: dict[str, list[float]] = {kind.name: [] for kind in kinds()}
    for one in recoveries:
        found[one.kind].append(float("inf") if one.seconds is None else one.seconds)
    return {name: times for name, times in found.items() if times}


def _spread(times: Sequence[float]) -> list[float]:
    p50, p95 = np.percentile(times, (50, 95), method="higher")
    return [round(float(p50), 1), round(float(p95), 1), round(max(times), 1)]
