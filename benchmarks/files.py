"""Files to searchable rows: our pipeline against LlamaIndex's, with the same model and two processes each.

The clock runs from `submit`, or from reading the first file, until every chunk can be searched. The peer's
rows are in its HNSW index then. Ours are searched exactly; sealing them comes after that, and a second line
has it in. Loading the model counts on neither side. Ours are submitted to several new tenants, so that
there is enough to measure.
"""

from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks import corpus, peer_runs
from benchmarks.adapters.files import Job
from benchmarks.ours import empty_database, sealing
from benchmarks.report import Demand, Report
from benchmarks.rounds import SMOKE, Watch
from benchmarks.stack import Stack, running_stack
from worker.producer import Document, submit

NAME, ROUNDS, PROCESSES, TENANTS = "files", 3, 2, 8
BYTES = 5e6
TIMES = 5
OURS, OURS_SEALED = "ours", "ours, to the first seal"
PLAIN, HYBRID = "LlamaIndex", "LlamaIndex, hybrid table"
PIPELINES = {PLAIN: False, HYBRID: True}


@dataclass(frozen=True, slots=True)
class Ingested:
    """One side of one round."""

    megabytes: float
    seconds: float
    chunks: int
    characters: int
    others: float

    @property
    def rate(self) -> float:
        """Give MB/s."""
        return self.megabytes / self.seconds


def run(scale: float) -> Report:
    peer_runs.require_installed()
    paths = corpus.files(BYTES * min(scale, 1))
    done: dict[str, list[Ingested]] = {name: [] for name in (OURS, OURS_SEALED, *PIPELINES)}
    with running_stack() as stack:
        report = Report(NAME, stack.versions() | peer_runs.versions(), stack.shown_settings())
        for number in range(ROUNDS if scale >= SMOKE else 1):
            for side in (_ours, _theirs) if number % 2 else (_theirs, _ours):
                for name, found in side(stack, paths).items():
                    done[name].append(found)
    _report(report, done)
    return report


def _ours(stack: Stack, paths: list[Path]) -> dict[str, Ingested]:
    stack.empty()
    with stack.workers(PROCESSES):
        _ingest(stack, paths, ["warm-up"])  # loads the model in both processes
        stack.empty()
        with Watch() as watch:
            _ingest(stack, paths, [f"tenant {number}" for number in range(TENANTS)])
        with sealing(stack.settings) as sealer, Watch() as closing:
            sealer.seal_the_rest()
    chunks, characters = (
        int(stack.ask(f"SELECT {what} FROM chunks")) for what in ("count(*)", "sum(char_length)")
    )
    size = TENANTS * _megabytes(paths)
    return {
        OURS: Ingested(size, watch.seconds, chunks, characters, watch.others),
        OURS_SEALED: Ingested(size, watch.seconds + closing.seconds, chunks, characters, closing.others),
    }


def _ingest(stack: Stack, paths: list[Path], tenants: list[str]) -> None:
    for tenant in tenants:
        submit([Document.path(path) for path in paths], tenant=tenant)
    stack.settle()


def _theirs(stack: Stack, paths: list[Path]) -> dict[str, Ingested]:
    return {name: _pipeline(stack, paths, hybrid=hybrid) for name, hybrid in PIPELINES.items()}


def _pipeline(stack: Stack, paths: list[Path], *, hybrid: bool) -> Ingested:
    settings = stack.settings
    with empty_database(stack, "files") as url, Watch() as watch:
        job = Job(
            url, list(map(str, paths)), PROCESSES, settings.chunk_size, settings.embedding_batch_size,
            settings.hnsw_m, settings.hnsw_ef_construction, hybrid,
        )  # fmt: skip
        found: dict[str, Any] = peer_runs.run("llamaindex_files", asdict(job))
    return Ingested(_megabytes(paths), found["seconds"], found["chunks"], found["characters"], watch.others)


def _megabytes(paths: list[Path]) -> float:
    return sum(path.stat().st_size for path in paths) / 1e6


def _report(report: Report, done: dict[str, list[Ingested]]) -> None:
    rates = {name: median(r.rate for r in rounds) for name, rounds in done.items()}
    rows = [
        (
            name, round(rounds[0].megabytes, 1), rounds[0].chunks,
            round(rounds[0].characters / rounds[0].chunks),
            " · ".join(f"{r.rate:.2f}" for r in rounds), round(rates[name], 2),
            round(rates[OURS] / rates[name], 1), f"{max(r.others for r in rounds):.0%}",
        )
        for name, rounds in done.items()
    ]  # fmt: skip
    columns = (
        "",
        "MB",
        "chunks",
        "mean characters",
        "MB/s by round",
        "median",
        "ours is times",
        "others' load",
    )
    report.table("files to searchable rows, 256 dimensions", columns, rows)
    report.demands.append(Demand(f"files to searchable rows / {HYBRID}", TIMES, rates[OURS] / rates[HYBRID]))
    report.figures |= {"corpus": corpus.name(), "peer": peer_runs.shown_versions()}
