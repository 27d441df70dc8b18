"""Search latency while segments are sealed and ingestion runs at what backpressure lets through.

ROWS rows of 1,536 dimensions are written, sealed and merged. Then searches are timed, one right after the
other: at rest; while one process writes a batch whenever there is room and another seals as the
schedule does; and, demanded of nobody, while a third merges what was sealed, too.
"""

import multiprocessing
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.synchronize import Event

import numpy as np
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from benchmarks.ready import CHUNKS, DOCUMENTS, Clustered, ReadyWriter
from benchmarks.report import Demand, Report
from benchmarks.rounds import Watch
from benchmarks.stack import running_stack
from worker.db import segments
from worker.db.engine import transaction
from worker.lifecycle import collect_garbage_rarely
from worker.maintenance.run import run_chore
from worker.resources import Resources
from worker.searching import search
from worker.settings import Settings

ROWS, DIMENSION = 100_000, 1536
QUERIES, K = 300, 10
SEALED_MEANWHILE = 3
MOST_TIMES, MOST_MS = 3, 100
TENANT = "acme"

Work = Callable[[Settings, Event], None]


def run(scale: float) -> Report:
    rows, queries = max(2_000, round(ROWS * scale)), max(10, round(QUERIES * scale))
    with running_stack(
        EMBEDDING_PROVIDER="none",
        EMBEDDING_DIMENSION=str(DIMENSION),
        SEGMENT_ROWS="" if scale >= 1 else str(rows // 4),
        MAX_UNSEALED_ROWS="",
    ) as stack:
        report = Report("sealing", stack.versions(), stack.shown_settings())
        resources = Resources(stack.settings)
        with Watch() as filling:
            _fill(resources, rows)
        phases = [_phase(resources, queries, name, works) for name, works in PHASES.items()]
        resources.close()
    _report(report, phases)
    report.figures |= {"rows": rows, "filled and sealed, rows/s": round(rows / filling.seconds)}
    return report


@dataclass(frozen=True, slots=True)
class Phase:
    """Seconds of each search, how many rows came meanwhile, and the segments without and with an index."""

    name: str
    taken: list[float]
    written: int
    segments: int

    def quantile(self, share: float) -> float:
        """Give a latency, in milliseconds."""
        return 1e3 * float(np.quantile(self.taken, share))


def _phase(resources: Resources, queries: int, name: str, works: Sequence[Work]) -> Phase:
    before, written = _done(resources), _rows(resources)
    with _company(resources.settings, works):
        taken = _latencies(
            resources, queries, lambda: not works or _done(resources) >= before + SEALED_MEANWHILE
        )
        visible = _ask(
            resources, "SELECT count(*) FROM segments WHERE state IN ('open', 'sealing', 'sealed')"
        )
    return Phase(name, taken, _rows(resources) - written, visible)


def _fill(resources: Resources, rows: int) -> None:
    """Write and seal as it comes, one after the other."""
    writer = ReadyWriter(resources, TENANT, "at rest")
    written = 0
    while written < rows:
        while written < rows and _may_write(resources):
            written += writer.write()
        run_chore(resources, "seal")
    run_chore(resources, "compact")


def _may_write(resources: Resources) -> bool:
    with transaction(resources.engine) as connection:
        return segments.has_room(connection, resources.settings, DOCUMENTS * CHUNKS)


def _latencies(resources: Resources, queries: int, enough: Callable[[], bool]) -> list[float]:
    """Time searches one after the other, at least so many and until it is enough, in seconds."""
    asked = Clustered(DIMENSION).draw(queries, seed=0)
    taken: list[float] = []
    while len(taken) < queries or not enough():
        begun = time.perf_counter()
        hits = search(resources, "", tenant=TENANT, k=K, vector=asked[len(taken) % queries])
        taken.append(time.perf_counter() - begun)
        assert len(hits) == K
    return taken


@contextmanager
def _company(settings: Settings, works: Sequence[Work]) -> Iterator[None]:
    """Do these works in a process each, meanwhile."""
    context = multiprocessing.get_context("spawn")
    over = context.Event()
    others = [context.Process(target=work, args=(settings, over)) for work in works]
    for other in others:
        other.start()
    try:
        yield
    finally:
        over.set()
        for other in others:
            other.join()
    if any(other.exitcode for other in others):
        raise RuntimeError("a process that ran beside the searches failed")


def _ingest(settings: Settings, over: Event) -> None:
    collect_garbage_rarely()
    resources = Resources(settings)
    writer = ReadyWriter(resources, TENANT, f"meanwhile {os.getpid()}")
    while not over.is_set():
        if _may_write(resources):
            writer.write()
        else:
            over.wait(0.1)
    resources.close()


def _seal(settings: Settings, over: Event) -> None:
    _repeat(settings, over, "seal")


def _compact(settings: Settings, over: Event) -> None:
    _repeat(settings, over, "compact")


def _repeat(settings: Settings, over: Event, chore: str) -> None:
    resources = Resources(settings)
    while not over.wait(1):
        try:
            run_chore(resources, chore, stopping=over.is_set)
        except DBAPIError:
            if not over.is_set():  # else it was cancelled, and has undone itself
                raise
    resources.close()


def _done(resources: Resources) -> int:
    """Count the times a segment was sealed."""
    return _ask(
        resources, "SELECT coalesce(sum(jsonb_array_length(details -> 'sealed')), 0) FROM maintenance_runs"
    )


def _rows(resources: Resources) -> int:
    return _ask(resources, "SELECT coalesce(sum(total_chunks), 0) FROM documents")


def _ask(resources: Resources, statement: str) -> int:
    with transaction(resources.engine) as connection:
        return int(connection.execute(text(statement)).scalar_one())


PHASES: dict[str, tuple[Work, ...]] = {
    "at rest": (),
    "beside sealing and ingestion": (_ingest, _seal),
    "and merging": (_ingest, _seal, _compact),
}


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
