"""Search latency while a segment is sealed and ingestion runs at what backpressure lets through.

ROWS rows of 1,536 dimensions are written and sealed. Then searches are timed, one after the other: at rest,
and again while one process writes batches whenever dispatch would let one go, and another seals and
merges as the schedule does.
"""

import multiprocessing
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.synchronize import Event

import numpy as np
from sqlalchemy import text

from benchmarks.ready import Clustered, ReadyWriter
from benchmarks.report import Demand, Report
from benchmarks.rounds import Watch
from benchmarks.stack import running_stack
from worker.db.engine import transaction
from worker.dispatch import has_room_for_rows
from worker.lifecycle import collect_garbage_rarely
from worker.maintenance.run import run_chore
from worker.resources import Resources
from worker.searching import search
from worker.settings import Settings
from worker.types import Lane

ROWS, DIMENSION = 100_000, 1536
QUERIES, K = 300, 10
SEALED_MEANWHILE = 3
MOST_TIMES, MOST_MS = 3, 100
TENANT = "acme"


def run(scale: float) -> Report:
    rows, queries = max(6_000, round(ROWS * scale)), max(10, round(QUERIES * scale))
    segment, bound = (Settings.model_fields[name].default for name in ("segment_rows", "max_unsealed_rows"))
    with running_stack(
        EMBEDDING_PROVIDER="none",
        EMBEDDING_DIMENSION=str(DIMENSION),
        SEGMENT_ROWS=str(min(segment, rows // 2)),
        MAX_UNSEALED_ROWS=str(bound),
    ) as stack:
        report = Report("sealing", stack.versions(), stack.shown_settings())
        resources = Resources(stack.settings)
        with Watch() as filling:
            _fill(resources, rows)
        rest = _latencies(resources, queries, lambda: True)
        before = _sealed(resources)
        with _company(stack.settings):
            busy = _latencies(resources, queries, lambda: _sealed(resources) >= before + SEALED_MEANWHILE)
        after = _rows(resources)
        resources.close()
    _report(report, rest, busy, after - rows)
    report.figures |= {"rows": rows, "filled and sealed, rows/s": round(rows / filling.seconds)}
    return report


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
        return has_room_for_rows(connection, Lane.BULK, resources.settings)


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
def _company(settings: Settings) -> Iterator[None]:
    """Ingest in one process and run the chores in another, meanwhile."""
    context = multiprocessing.get_context("spawn")
    over = context.Event()
    others = [context.Process(target=work, args=(settings, over)) for work in (_ingest, _maintain)]
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
    writer = ReadyWriter(resources, TENANT, "meanwhile")
    while not over.wait(0 if _may_write(resources) else 0.1):
        if _may_write(resources):
            writer.write()
    resources.close()


def _maintain(settings: Settings, over: Event) -> None:
    resources = Resources(settings)
    while not over.wait(1):
        run_chore(resources, "seal")
        run_chore(resources, "compact")
    resources.close()


def _sealed(resources: Resources) -> int:
    """Count the times a segment was sealed."""
    return _ask(
        resources, "SELECT coalesce(sum(jsonb_array_length(details -> 'sealed')), 0) FROM maintenance_runs"
    )


def _rows(resources: Resources) -> int:
    return _ask(resources, "SELECT coalesce(sum(total_chunks), 0) FROM documents")


def _ask(resources: Resources, statement: str) -> int:
    with transaction(resources.engine) as connection:
        return int(connection.execute(text(statement)).scalar_one())


def _report(report: Report, rest: Sequence[float], busy: Sequence[float], written: int) -> None:
    columns = ("", "searches", "p50 ms", "p95 ms", "slowest ms")
    report.table(
        "one search after the other",
        columns,
        [
            (
                name,
                len(taken),
                *(round(1e3 * float(np.quantile(taken, share)), 1) for share in (0.5, 0.95, 1)),
            )
            for name, taken in (("at rest", rest), ("beside sealing and ingestion", busy))
        ],
    )
    calm, troubled = (float(np.quantile(taken, 0.95)) for taken in (rest, busy))
    report.demands += [
        Demand("p95 beside sealing / at rest", MOST_TIMES, troubled / calm, at_most=True),
        Demand("p95 beside sealing, ms", MOST_MS, 1e3 * troubled, at_most=True),
    ]
    report.figures["rows written meanwhile, rows/s"] = round(written / sum(busy))


def _milliseconds(taken: Sequence[float], share: float) -> float:
    return 1e3 * float(np.quantile(taken, share))
