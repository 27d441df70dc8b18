"""What a run came to: tables, and whether it is what is demanded."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from benchmarks.charts import SOAK, WARM_UP
from benchmarks.report import Demand, Report
from benchmarks.soak.load import SEARCH_MS
from benchmarks.soak.sampling import (
    CONNECTIONS,
    DESCRIPTORS,
    DOCUMENTS,
    MEMORY,
    POSTGRES,
    REDIS,
    REDIS_DATA,
    REDIS_KEYS,
    SEARCHES,
    SIZE,
    WAITING,
)
from benchmarks.soak.slopes import Blocks, Slope, warm_up
from worker.settings import Settings

SLOPES = "after the warm-up: the rise an hour by least squares, ± two standard errors"
# % within the run and an hour, beyond two standard errors; what docs/operations/growing.md allows; seconds.
RISE, ALLOWED, LONGEST_WAIT = 5, 1, 30
# Ten minutes say little of an hour: what a process opens as it first publishes is 13 % an hour in them.
SAYS_OF_AN_HOUR_SECONDS = 1_800
_SERVERS = (MEMORY + POSTGRES, MEMORY + REDIS)
_COLUMNS: Mapping[str, Callable[[Mapping[str, float]], float]] = {
    "ours, MB": lambda means: _sum(means, MEMORY, without=_SERVERS),
    "PostgreSQL, MB": lambda means: means[MEMORY + POSTGRES],
    "Redis, MB": lambda means: means[MEMORY + REDIS],
    "descriptors": lambda means: _sum(means, DESCRIPTORS),
    "connections": lambda means: means[f"{CONNECTIONS}all"],
    "documents/s": lambda means: means[DOCUMENTS],
    "searches/s": lambda means: means[SEARCHES],
    "search, ms": lambda means: means[SEARCH_MS],
    "database, MB": lambda means: means[SIZE],
}


@dataclass(frozen=True, slots=True)
class Found:
    """All that was found. `amiss`: documents that are not as they were submitted last, by how."""

    blocks: Blocks
    done: Counter[str]
    amiss: Counter[str]
    ended: Sequence[str]
    findings: Counter[str]
    others: float
    settings: Settings


def fill(report: Report, found: Found) -> None:
    """Put everything into a report."""
    rows = [
        (round(at / 60, 1), *(round(figure(means), 1) for figure in _COLUMNS.values()))
        for at, means in found.blocks.rows()
    ]
    report.table(SOAK, ("minute", *_COLUMNS), rows)
    slopes = found.blocks.slopes()
    columns = ("what", "mean", "highest sample", "an hour", "±", "% an hour", "± %")
    report.table(SLOPES, columns, [_row(name, one, found.blocks) for name, one in slopes.items()])
    for title, counts in (("not as submitted", found.amiss), ("findings of verify", found.findings)):
        if counts:
            report.table(title, ("what", "count"), sorted(counts.items()))
    report.figures |= {"seconds": round(found.blocks.total), WARM_UP: round(warm_up(found.blocks.seconds))}
    report.figures |= {"others' load": f"{found.others:.0%}"}
    report.figures |= dict(found.done)
    waited = Demand(WAITING, LONGEST_WAIT, found.blocks.highest[WAITING], at_most=True)
    report.demands += [
        *_of_outcomes(found),
        *of_slopes(slopes, found.blocks.seconds),
        _of_connections(found),
        waited,
    ]


def _row(name: str, one: Slope, blocks: Blocks) -> tuple[object, ...]:
    figures = (one.mean, blocks.highest[name], one.an_hour, 2 * one.error, one.share, 2 * one.share_error)
    return (name, *(round(figure, 1) for figure in figures))


def _of_outcomes(found: Found) -> list[Demand]:
    counts = {
        "documents not as submitted": found.amiss.total(),
        "searches not answered": sum(n for name, n in found.done.items() if name.startswith("not answered")),
        "processes that ended": len(found.ended),
        "findings of verify": found.findings.total(),
    }
    return [Demand(name, 0, count, at_most=True) for name, count in counts.items()]


def of_slopes(slopes: Mapping[str, Slope], seconds: float) -> list[Demand]:
    """Demand of so many seconds after the warm-up that nothing rises, and that throughput does not fall."""
    spans = {"within the run": seconds / 3600}
    if seconds >= SAYS_OF_AN_HOUR_SECONDS:
        spans["an hour"] = 1.0
    more = {f"{name}, % more": max(one.surely for one in found) for name, found in _rising(slopes).items()}
    fewer = {f"{name}, % fewer": -slopes[name].surely for name in (DOCUMENTS, SEARCHES)}
    return [
        Demand(f"{name} {span}", RISE, hours * share, at_most=True)
        for span, hours in spans.items()
        for name, share in (more | fewer).items()
    ]


def _rising(slopes: Mapping[str, Slope]) -> dict[str, list[Slope]]:
    """Give what must not rise. PostgreSQL's descriptors may: a process of it caches max_files_per_process."""
    files = {name: one for name, one in slopes.items() if name != DESCRIPTORS + POSTGRES}
    return {
        "memory of a kind": [one for name, one in slopes.items() if name.startswith(MEMORY)],
        "descriptors of a kind": [one for name, one in files.items() if name.startswith(DESCRIPTORS)],
        **{name: [slopes[name]] for name in (f"{CONNECTIONS}all", REDIS_DATA, REDIS_KEYS, SIZE, SEARCH_MS)},
    }


def _of_connections(found: Found) -> Demand:
    """Hold the most at once against what the documents allow for these processes and one producer."""
    settings = found.settings
    pool = settings.database_pool_size + settings.database_max_overflow
    most = {
        "ingest": 1 + settings.ingest_concurrency * pool,
        "interactive": 1 + settings.interactive_concurrency * pool,
        "search": 1 + 2 * pool,
        "maintenance": 1 + 4 * (pool + 2),
        "beat": 1,
        "exporter": pool,
        "producer": pool,
    }
    share = found.blocks.highest[f"{CONNECTIONS}all"] / sum(most.values())
    return Demand("connections at once, of those the documents allow", ALLOWED, share, at_most=True)


def _sum(means: Mapping[str, float], prefix: str, without: Sequence[str] = ()) -> float:
    return sum(value for name, value in means.items() if name.startswith(prefix) and name not in without)
