"""Files to searchable rows, against what the embedding model alone reaches on the same chunks.

Both sides have two processes. The corpus is submitted to several new tenants at once, so that there
is enough of it and no vector is reused; the model alone embeds each tenant's distinct chunks, as the
pipeline does. Loading the model is not timed. The rounds alternate.
"""

import sys
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing.synchronize import Barrier
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks import corpus
from benchmarks.beside import context
from benchmarks.report import Demand, Report
from benchmarks.rounds import Watch, quietest
from benchmarks.stack import Stack, running_stack
from worker.embedding.wordllama import WordLlamaEmbedder, package_folder
from worker.producer import Document, submit

_together: Barrier

PROCESSES = 2
TENANTS = 8
DEMANDED = 0.7


@dataclass(frozen=True, slots=True)
class Round:
    """Seconds of both sides. `alone`: of the slower of the two processes that only embed."""

    pipeline: float
    alone: float
    cpu_pipeline: float
    cpu_alone: float
    others: float

    @property
    def ratio(self) -> float:
        """Give what the pipeline reaches of the model's rate."""
        return self.alone / self.pipeline


def run(scale: float) -> Report:
    tenants, paths = max(1, round(TENANTS * scale)), corpus.files(min(scale * 10, 1) * corpus.MOST_BYTES)
    with running_stack() as stack:
        report = Report("pipeline", stack.versions(), stack.shown_settings())
        texts = _distinct_chunks(stack, paths)
        with stack.workers(PROCESSES):
            _ingest(
                stack, [Document.path(path) for path in paths], ["warm-up"]
            )  # loads the model in both processes
            rounds = quietest(lambda: _round(stack, paths, texts, tenants), scale)
        if sys.version_info < (3, 14):  # the release installed there cannot load its model offline
            seconds, _ = model_alone(texts, 1, stack.settings.embedding_batch_size, packaged=True)
            report.figures["the package's own embed(), chunks/s"] = round(len(texts) / seconds)
    _report(report, rounds, tenants * len(texts), tenants * sum(path.stat().st_size for path in paths))
    report.figures |= {"corpus": corpus.name(), "files": tenants * len(paths)}
    return report


def _distinct_chunks(stack: Stack, paths: list[Path]) -> list[str]:
    size, overlap = stack.settings.chunk_size, stack.settings.chunk_overlap
    cut = corpus.pieces(paths, size=size, overlap=overlap)
    return list({piece.content_hash: piece.text for pieces in cut for piece in pieces}.values())


def _round(stack: Stack, paths: list[Path], texts: list[str], tenants: int) -> Round:
    stack.empty()
    documents = [Document.path(path) for path in paths]
    with Watch() as ours:
        embedded = _ingest(stack, documents, [f"tenant {n}" for n in range(tenants)])
    if embedded < len(texts) * tenants:  # a few more where two batches at once hold the same chunk
        raise RuntimeError(f"{embedded:,} chunks were embedded, {len(texts) * tenants:,} were expected")
    with Watch() as theirs:
        seconds, cpu_seconds = model_alone(texts, tenants, stack.settings.embedding_batch_size)
    others = max(ours.others, theirs.others)
    return Round(ours.seconds, seconds, ours.cpu_seconds, cpu_seconds, others)


def _ingest(stack: Stack, documents: Sequence[Document], tenants: Sequence[str]) -> int:
    """Submit to every tenant and wait until all is searchable; gives the chunks embedded."""
    for tenant in tenants:
        submit(documents, tenant=tenant)
    stack.settle()
    return int(stack.ask("SELECT sum(chunks_embedded) FROM documents"))


def model_alone(texts: list[str], times: int, batch: int, *, packaged: bool = False) -> tuple[float, float]:
    """Embed half of the texts in each process, `times` over; gives the slower's seconds, and CPU seconds.

    `packaged`: by the call that the model's package offers, not by our adapter.
    """
    barrier = context().Barrier(PROCESSES, timeout=300)
    with ProcessPoolExecutor(PROCESSES, context(), _share, (barrier,)) as pool:
        shares = [pool.submit(_embed, texts[n::PROCESSES], times, batch, packaged) for n in range(PROCESSES)]
        found = [share.result() for share in shares]
    return max(seconds for seconds, _ in found), sum(cpu_seconds for _, cpu_seconds in found)


def _share(barrier: Barrier) -> None:
    global _together  # noqa: PLW0603 -- what both processes wait at can only come with their birth
    _together = barrier


def _embed(texts: list[str], times: int, batch: int, packaged: bool) -> tuple[float, float]:
    try:
        embedder = _packaged_model() if packaged else WordLlamaEmbedder()
        embedder.embed(texts[:batch])
    except BaseException:
        _together.abort()
        raise
    _together.wait()
    begun, cpu_begun = time.perf_counter(), time.process_time()
    for _ in range(times):
        for start in range(0, len(texts), batch):
            embedder.embed(texts[start : start + batch])
    return time.perf_counter() - begun, time.process_time() - cpu_begun


def _packaged_model() -> Any:
    import wordllama

    return wordllama.WordLlama.load(cache_dir=package_folder(), disable_download=True)


def _report(report: Report, rounds: Sequence[Round], chunks: int, size: int) -> None:
    columns = (
        "pipeline s",
        "model s",
        "chunks/s",
        "model chunks/s",
        "ratio",
        "CPU s",
        "model CPU s",
        "others' load",
    )
    rows = [
        (
            round(r.pipeline, 2),
            round(r.alone, 2),
            round(chunks / r.pipeline),
            round(chunks / r.alone),
            round(r.ratio, 3),
            round(r.cpu_pipeline, 1),
            round(r.cpu_alone, 1),
            f"{r.others:.0%}",
        )
        for r in rounds
    ]
    report.table(f"{chunks:,} chunks of {size / 1e6:,.0f} MB", columns, rows)
    report.figures["MB/s"] = round(size / 1e6 / median(r.pipeline for r in rounds), 2)
    report.demands.append(Demand("pipeline / model alone", DEMANDED, median(r.ratio for r in rounds)))
