"""Searches over real text, hybrid and by words, as the search role, in questions full of common words.

Everything real that is on the machine (benchmarks/texts.py) goes through the pipeline with the built-in
model, until there are 300,000 chunks that differ; a second tenant has 500 others, in the same tables. All is
sealed and merged as by the schedule. Questions are made of sentences and headings of the corpus
(benchmarks/questions.py): no two are the same, and none is asked twice.
"""

import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any, NamedTuple, Self

import numpy as np

from benchmarks.asking import Asked, ask
from benchmarks.charts import STAGES
from benchmarks.ours import seal_everything
from benchmarks.questions import ask_about, some_chunks
from benchmarks.report import Demand, Report, say
from benchmarks.stack import Stack, running_stack, with_search_role
from benchmarks.stored import settle_down
from benchmarks.texts import documents
from worker.db.engine import transaction
from worker.document import Document
from worker.maintenance.run import run_chore
from worker.producer import submit
from worker.queries import Mode, read_query
from worker.resources import Resources
from worker.types import Answer

NAME, PROCESSES, K = "hybrid", 2, 10
LARGE, SMALL = "large", "small"
CHUNKS, SMALL_CHUNKS, PORTION_BYTES = 300_000, 500, 20e6
CHUNK_BYTES = 600  # few
QUESTIONS, WARM_UP, FEWEST, EXPLAINED = 400, 50, 20, 50
COMMON = 0.1  # of the chunks
BETWEEN = "between the stages"
MOST_MS = 100
DEMANDED = (Mode.HYBRID, Mode.KEYWORD)


class Read(NamedTuple):
    """What a question had to read: its words, those in a tenth of all chunks, and entries of postings."""

    words: int
    common: int
    entries: int

    @classmethod
    def of(cls, answer: Answer) -> Self:
        """Take it out of an answer that explains itself."""
        explanation = answer.explanation or {}
        chunks = explanation["corpus"]["chunks"]
        words = explanation.get("keyword", {}).get("words", ())
        return cls(
            len(words),
            sum(word["chunks"] > chunks * COMMON for word in words),
            sum(word["chunks"] for word in words if word["read"]),
        )


@dataclass(frozen=True, slots=True)
class Measured:
    """What one tenant's questions took in one mode, and what some of them read."""

    tenant: str
    mode: Mode
    asked: Asked
    read: Sequence[Read]

    def line(self) -> tuple[Any, ...]:
        """Give it as a line of the table."""
        means = (round(fmean(column), 1) for column in zip(*self.read, strict=True))
        most = max(read.entries for read in self.read)
        return (
            self.tenant, self.mode.value, len(self.asked.taken),
            *self.asked.milliseconds(0.5, 0.95, 0.99, 1), self.asked.late, *means, most,
        )  # fmt: skip

    def stages(self) -> Iterator[tuple[Any, ...]]:
        """Give a line for each stage, and for what is between them."""
        spent: dict[str, list[float]] = defaultdict(list)
        for seconds, answer in zip(self.asked.taken, self.asked.answers, strict=True):
            for stage, latency in answer.latency_ms.items():
                spent[stage].append(latency)
            spent[BETWEEN].append(1e3 * seconds - sum(answer.latency_ms.values()))
        for stage, latencies in spent.items():
            p50, p95 = (float(np.quantile(latencies, share)) for share in (0.5, 0.95))
            mean = sum(latencies) / len(self.asked.taken)
            yield self.mode.value, stage, *(round(figure, 2) for figure in (mean, p50, p95))


def run(scale: float) -> Report:
    with running_stack() as stack:
        report = Report(NAME, stack.versions(), stack.shown_settings())
        report.figures |= _fill(stack, scale)
        resources = Resources(with_search_role(stack.settings))
        many = max(FEWEST, round(QUESTIONS * min(1, 2 * scale)))
        measured = [
            one
            for tenant in (LARGE, SMALL)
            for one in _measure(resources, tenant, _questions(stack, tenant), many)
        ]
        resources.close()
    _report(report, measured)
    return report


def _fill(stack: Stack, scale: float) -> dict[str, Any]:
    """Ingest, seal and merge; gives what there is then."""
    source, begun = documents(), time.monotonic()
    with stack.workers(PROCESSES):
        _ingest(stack, source, SMALL, round(SMALL_CHUNKS * min(1, 10 * scale)))
        _ingest(stack, source, LARGE, round(CHUNKS * scale))
    ingested = time.monotonic()
    say("sealing and merging")
    resources = Resources(stack.settings)
    seal_everything(resources)
    run_chore(resources, "compact")
    settle_down(resources)
    resources.close()
    return {
        "chunks": int(stack.ask("SELECT count(*) FROM chunks")),
        "of them different": int(stack.ask("SELECT count(DISTINCT content_hash) FROM chunks")),
        "documents": int(stack.ask("SELECT count(*) FROM documents WHERE total_chunks > 0")),
        "postings": int(stack.ask("SELECT count(*) FROM postings")),
        "segments": int(stack.ask("SELECT count(*) FROM segments WHERE state IN ('open', 'sealed')")),
        "ingestion s": round(ingested - begun),
        "sealing and merging s": round(time.monotonic() - ingested),
    }


def _ingest(stack: Stack, source: Iterator[Document], tenant: str, wanted: int) -> None:
    """Ingest until a tenant has so many chunks that differ, or nothing is left."""
    embedded = 0
    while embedded < wanted and (portion := list(_portion(source, wanted - embedded))):
        submit(portion, tenant=tenant)
        stack.settle()
        embedded = _embedded(stack, tenant)
        say(f"{tenant}: {embedded:,} chunks")


def _portion(source: Iterator[Document], wanted: int) -> Iterator[Document]:
    """Take some documents: fewer bytes than what is wanted should need."""
    size, most = 0, min(PORTION_BYTES, wanted * CHUNK_BYTES)
    while size < most and (document := next(source, None)):
        size += document.size_bytes or 0
        yield document


def _embedded(stack: Stack, tenant: str) -> int:
    return int(
        stack.ask(f"""
            SELECT coalesce(sum(chunks_embedded), 0) FROM documents JOIN tenants USING (tenant_id)
            WHERE name = '{tenant}'""")
    )


def _questions(stack: Stack, tenant: str) -> list[str]:
    owner = Resources(stack.settings)
    with transaction(owner.engine) as connection:
        found = list(ask_about(some_chunks(connection, tenant)))
    owner.close()
    return found


def _measure(resources: Resources, tenant: str, questions: Sequence[str], many: int) -> Iterator[Measured]:
    """Ask in each mode, questions that no other mode is asked; some of them to warm up with."""
    for number, mode in enumerate(Mode):
        said = questions[number :: len(Mode)][: WARM_UP + many]
        mine = [read_query(text=one, mode=mode.value, tenant=tenant, k=K) for one in said]
        first = min(WARM_UP, len(mine) // 2)
        ask(resources, mine[:first])
        asked = ask(resources, mine[first:])
        explained = [query.model_copy(update={"explain": True}) for query in mine[-EXPLAINED:]]
        say(f"{tenant}, {mode}: p50 and p95 {asked.milliseconds(0.5, 0.95)} ms")
        told = [answer for answer in ask(resources, explained).answers if answer.explanation]
        yield Measured(tenant, mode, asked, [Read.of(answer) for answer in told])


def _report(report: Report, measured: Sequence[Measured]) -> None:
    columns = (
        "tenant", "mode", "searches", "p50 ms", "p95 ms", "p99 ms", "slowest ms", "late", "words",
        "common words", "entries read", "most entries read",
    )  # fmt: skip
    report.table("one search after the other, as the search role", columns, [one.line() for one in measured])
    stages = [line for one in measured if one.tenant == LARGE for line in one.stages()]
    report.table(STAGES, ("mode", "stage", "mean ms", "p50 ms", "p95 ms"), stages)
    for one in measured:
        if one.mode in DEMANDED:
            [p95] = one.asked.milliseconds(0.95)
            demand = Demand(f"p95 {one.mode}, the {one.tenant} tenant, ms", MOST_MS, p95, at_most=True)
            report.demands.append(demand)
