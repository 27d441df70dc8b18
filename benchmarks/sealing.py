"""Search latency while segments are sealed and ingestion runs at what backpressure lets through.

ROWS rows of 1,536 dimensions are written, sealed and merged. Then searches are timed, one right after the
other: at rest; while one process writes a batch whenever there is room and another seals as the
schedule does; and, demanded of nobody, while a third merges what was sealed, too.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from benchmarks import company
from benchmarks.asking import ask, nearest_to, quantiles, until
from benchmarks.company import Work, may_write, rows_written, times_sealed, visible_segments
from benchmarks.ready import Clustered, ReadyWriter
from benchmarks.report import Demand, Report
from benchmarks.rounds import SMOKE, Watch, dimension_at
from benchmarks.stack import running_stack
from worker.maintenance.run import run_chore
from worker.resources import Resources

ROWS, DIMENSION = 100_000, 1536
QUERIES, K = 300, 10
SEALED_MEANWHILE = 3
MOST_TIMES, MOST_MS = 3, 100
TENANT = "acme"
INGEST: Work = partial(company.ingest, tenant=TENANT)
PHASES: dict[str, tuple[Work, ...]] = {
    "at rest": (),
    "beside sealing and ingestion": (INGEST, company.seal),
    "and merging": (INGEST, company.seal, company.compact),
}


def run(scale: float) -> Report:
    rows, queries = max(2_000, round(ROWS * scale)), max(10, round(QUERIES * scale))
    with running_stack(
        EMBEDDING_PROVIDER="none",
        EMBEDDING_DIMENSION=str(dimension_at(scale, DIMENSION)),
        SEGMENT_ROWS="" if scale >= 1 else str(rows // 4),
        MAX_UNSEALED_ROWS="",
    ) as stack:
        report = Report("sealing", stack.versions(), stack.shown_settings())
        resources = Resources(stack.settings)
        with Watch() as filling:
            _fill(resources, rows)
        seals = SEALED_MEANWHILE if scale >= SMOKE else 1
        phases = [_phase(resources, queries, seals, name, works) for name, works in PHASES.items()]
        resources.close()
    _report(report, phases)
    report.figures |= {"rows": rows, "filled and sealed, rows/s": round(rows / filling.seconds)}
    return report


@dataclass(frozen=True, slots=True)
class Phase:
    """Seconds of each search, how many rows came meanwhile, and the segments without and with an index."""

    name: str
    taken: Sequence[float]
    written: int
    segments: int

    def quantile(self, share: float) -> float:
        """Give a latency, in milliseconds."""
        return quantiles(self.taken, share)[0]


def _phase(resources: Resources, queries: int, seals: int, name: str, works: Sequence[Work]) -> Phase:
    before, written = times_sealed(resources), rows_written(resources)
    searches = nearest_to(Clustered(resources.settings.embedding_dimension), tenant=TENANT, k=K)
    enough = partial(_is_enough, resources, before + seals if works else None)
    with company.company(resources.settings, works):
        asked = ask(resources, until(searches, queries, enough))
        visible = visible_segments(resources)
    return Phase(name, asked.taken, rows_written(resources) - written, visible)


def _is_enough(resources: Resources, wanted: int | None) -> bool:
    return wanted is None or times_sealed(resources) >= wanted


def _fill(resources: Resources, rows: int) -> None:
    """Write and seal as it comes, one after the other."""
    writer = ReadyWriter(resources, TENANT, "at rest")
    written = 0
    while written < rows:
        while written < rows and may_write(resources):
            written += writer.write()
        run_chore(resources, "seal")
    run_chore(resources, "compact")


def _report(report: Report, phases: Sequence[Phase]) -> None:
    columns = ("", "searches", "p50 ms", "p95 ms", "slowest ms", "rows/s written", "segments at the end")
    report.table(
        "one search after the other",
        columns,
        [
            (
                phase.name,
                len(phase.taken),
                *(round(phase.quantile(share), 1) for share in (0.5, 0.95, 1)),
                round(phase.written / sum(phase.taken)),
                phase.segments,
            )
            for phase in phases
        ],
    )
    rest, busy, _ = (phase.quantile(0.95) for phase in phases)
    report.demands += [
        Demand("p95 beside sealing / at rest", MOST_TIMES, busy / rest, at_most=True),
        Demand("p95 beside sealing, ms", MOST_MS, busy, at_most=True),
    ]
