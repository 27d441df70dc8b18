"""What watching costs: a scrape of the exporter over HTTP, and what workers count.

Documents are made by SQL, a hundredth of them waiting, in a hundred tenants, with a month's records of
chores; a worker has counted and timed some real ones. Then one scrape follows the other, each with every
question asked anew: in service they are kept for some seconds. CPU seconds are those of exporter, client and
servers together. What a worker adds to a batch is timed on the numbers of a full one.
"""

import threading
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from urllib.request import urlopen

from benchmarks import corpus
from benchmarks.asking import quantiles
from benchmarks.report import Demand, Report
from benchmarks.rounds import Watch
from benchmarks.stack import Stack, running_stack
from worker import metricfiles
from worker.counting import count_outcomes
from worker.db.documents import Settled
from worker.document import Document
from worker.metrics import stage
from worker.monitoring import exposition
from worker.monitoring.server import Application, listen
from worker.producer import submit
from worker.settings import Settings
from worker.types import Status

SIZES, SCRAPES, FEWEST = (50_000, 1_000_000), 200, 20
TENANTS, RUNS, PROCESSES = 100, 500_000, 2
INTERVAL_SECONDS = 15
MOST_MS, MOST_SHARE = 100, 1
BATCH, BATCHES = 256, 2_000

TENANT_ROWS = "INSERT INTO tenants (name) SELECT 'tenant ' || n FROM generate_series(1, {tenants}) n"
DOCUMENT_ROWS = """
INSERT INTO documents (tenant_id, filename, source_path, source_key, file_type, status, content_hash,
                       fingerprint, total_chunks, claimed_version, settled_at)
SELECT t.tenant_id, name, name, sha256(name::bytea), 'markdown',
       CASE WHEN waits THEN 'pending' ELSE 'completed' END, hash, hash,
       CASE WHEN NOT waits THEN 20 END, CASE WHEN waits THEN 0 ELSE 1 END, CASE WHEN NOT waits THEN now() END
FROM (SELECT n, 'made/' || n || '.md' AS name, n % 100 = 0 AS waits,
             CASE WHEN n % 100 <> 0 THEN sha256(n::text::bytea) END AS hash
      FROM generate_series({first}, {last}) n) AS made
JOIN (SELECT tenant_id, row_number() OVER () AS place FROM tenants WHERE name LIKE 'tenant %') t
  ON t.place = 1 + n % {tenants}"""
RUN_ROWS = """
INSERT INTO maintenance_runs (chore, outcome, started_at, finished_at)
SELECT CASE n % 2 WHEN 0 THEN 'dispatch' ELSE 'seal' END, 'done', now() - n * interval '5 s', now()
FROM generate_series(1, {runs}) n"""


@dataclass(frozen=True, slots=True)
class Measured:
    """Scrapes of one database: seconds of each, CPU seconds of all, bytes of the last answer."""

    documents: int
    taken: Sequence[float]
    cpu_seconds: float
    size: int
    counting: float

    @property
    def share(self) -> float:
        """Give the percentage of a core that scraping every INTERVAL_SECONDS takes."""
        return 100 * self.cpu_seconds / len(self.taken) / INTERVAL_SECONDS


def run(scale: float) -> Report:
    scrapes = max(FEWEST, round(SCRAPES * min(1, scale)))
    with running_stack() as stack:
        report = Report("exporter", stack.versions(), stack.shown_settings())
        _work(stack)
        stack.ask(TENANT_ROWS.format(tenants=TENANTS))
        stack.ask(RUN_ROWS.format(runs=max(100, round(RUNS * scale))))
        measured, there = [], 0
        for documents in (max(100, round(size * scale)) for size in SIZES):
            stack.ask(DOCUMENT_ROWS.format(first=there + 1, last=documents, tenants=TENANTS))
            stack.ask("VACUUM (ANALYZE) documents, maintenance_runs")
            measured.append(_measure(stack.settings, documents, scrapes))
            there = documents
        counted = _count(stack.settings)
    _report(report, measured)
    report.figures |= {"records of chores": RUNS, "counting and timing a batch, µs": round(counted * 1e6)}
    return report


def _work(stack: Stack) -> None:
    """Have real workers leave real figures."""
    with stack.workers(PROCESSES):
        submit([Document.path(path) for path in corpus.files(1e6)], tenant="default")
        stack.settle()


def _measure(settings: Settings, documents: int, scrapes: int) -> Measured:
    with _served(settings) as (url, collector):
        _scrape(url)
        with Watch() as watch:
            answers = [_scrape(url) for _ in range(scrapes)]
        return Measured(
            documents,
            [seconds for seconds, _ in answers],
            watch.cpu_seconds,
            answers[-1][1],
            collector.counting_seconds,
        )


@contextmanager
def _served(settings: Settings) -> Iterator[tuple[str, exposition.StateCollector]]:
    """Serve in this process, with nothing kept from one scrape to the next."""
    application = Application(settings, keep=0, count_load=float("inf"))
    server = listen(settings.model_copy(update={"metrics_port": 0}), application)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/metrics", application.state
    finally:
        server.shutdown()
        server.server_close()


def _scrape(url: str) -> tuple[float, int]:
    begun = time.perf_counter()
    with urlopen(url) as page:
        text = page.read()
    taken = time.perf_counter() - begun
    assert b"ingest_documents{" in text
    return taken, len(text)


def _count(settings: Settings) -> float:
    """Give the seconds that a batch's worth of counting and timing takes, into files as in a worker."""
    metricfiles.share(settings, "benchmark", 0, lambda: metricfiles.MAIN)
    batch = [Settled(uuid.uuid4(), Status.COMPLETED, total_chunks=20, embedded=20) for _ in range(BATCH)]
    begun = time.perf_counter()
    for _ in range(BATCHES):
        for name in ("load", "chunk", "plan", "embed", "embed", "embed", "wait", "write"):
            with stage(name):
                pass
        count_outcomes(batch)
    return (time.perf_counter() - begun) / BATCHES


def _report(report: Report, measured: Sequence[Measured]) -> None:
    columns = ("documents", "p50 ms", "p95 ms", "slowest ms", "counting ms", "CPU ms", "% of a core", "bytes")
    rows = [
        (
            one.documents,
            *quantiles(one.taken, 0.5, 0.95, 1),
            round(1e3 * one.counting, 1),
            round(1e3 * one.cpu_seconds / len(one.taken), 1),
            round(one.share, 3),
            one.size,
        )
        for one in measured
    ]
    report.table(f"one scrape after the other; % at one in {INTERVAL_SECONDS} s", columns, rows)
    small = measured[0]
    report.demands += [
        Demand("scrape p95, ms", MOST_MS, quantiles(small.taken, 0.95)[0], at_most=True),
        Demand("% of a core", MOST_SHARE, small.share, at_most=True),
    ]
