"""How good the results are: judged collections through the pipeline, every query by every mode.

SciFact's test split, of `$CORPORA/ir/scifact`, and the collection in the folder JUDGED, where they are there.
The model is the built-in one, the settings are the defaults, every segment is sealed.
"""

from collections.abc import Mapping
from typing import Any

from benchmarks import collection
from benchmarks.collection import Collection
from benchmarks.ours import seal_everything
from benchmarks.report import BenchmarkError, Demand, Report
from benchmarks.stack import Stack, running_stack
from worker.document import Document
from worker.producer import status, submit
from worker.resources import resources
from worker.searching.evaluation import Evaluation, Way
from worker.types import Status

NAME, PROCESSES, K = "quality", 2, 10
FEWEST = 5
KEYWORD, HYBRID = 0.66, 0.69
COLUMNS = ("mode", "nDCG@10", "recall@10", "MRR@10", "failed", "late", "p50 ms", "p95 ms")


def run(scale: float) -> Report:
    judged = [found for found in (collection.scifact(), collection.given()) if found]
    if not judged:
        raise BenchmarkError("there is no judged collection: set CORPORA, which has ir/scifact, or JUDGED")
    with running_stack() as stack:
        report = Report(NAME, stack.versions(), stack.shown_settings())
        for number, one in enumerate(judged):
            _measure(stack, report, one, f"collection {number}", scale)
    return report


def _measure(stack: Stack, report: Report, judged: Collection, tenant: str, scale: float) -> None:
    grades = dict(list(judged.grades().items())[: _part(len(judged.grades()), scale)])
    wanted = {document for mine in grades.values() for document in mine}
    _ingest(stack, judged, tenant, wanted, scale)
    ways = _ask(judged, tenant, grades)
    size = f"{len(ways[0].ndcg):,} queries, {_chunks(stack, tenant):,} chunks"
    report.table(f"{judged.name}: {size}", COLUMNS, [_row(way) for way in ways])
    if judged == collection.scifact():
        best = {way.mode: way.means["ndcg"] for way in reversed(ways)}
        report.demands += [
            Demand("SciFact nDCG@10, keyword", KEYWORD, best["keyword"]),
            Demand("SciFact nDCG@10, hybrid", HYBRID, best["hybrid"]),
        ]


def _part(whole: int, scale: float) -> int:
    return whole if scale >= 1 else max(FEWEST, round(whole * scale))


def _ingest(stack: Stack, judged: Collection, tenant: str, wanted: set[str], scale: float) -> None:
    """Ingest the collection, or a part that has what is `wanted`; every segment is sealed."""
    most = _part(sum(1 for _ in judged.documents()), scale)
    documents = (
        Document.text(text, source_path=name, language=judged.language)
        for number, (name, text) in enumerate(judged.documents())
        if number < most or name in wanted
    )
    with stack.workers(PROCESSES):
        submit(documents, tenant=tenant)
        stack.settle()
    failed = status(tenant=tenant).counts[Status.FAILED]
    if failed:
        raise RuntimeError(f"{failed:,} documents of {judged.name} failed")
    seal_everything(resources())


def _chunks(stack: Stack, tenant: str) -> int:
    return int(
        stack.ask(f"SELECT count(*) FROM chunks JOIN tenants USING (tenant_id) WHERE name = '{tenant}'")
    )


def _ask(judged: Collection, tenant: str, grades: Mapping[str, Mapping[str, int]]) -> list[Way]:
    """Ask every judged query by every mode: vector, keyword, hybrid by its default, hybrid by RRF."""
    ways: list[Way] = []
    for modes, settings in ((("vector", "keyword"), [{}]), (("hybrid",), [{}, {"fusion": "rrf"}])):
        plan = Evaluation(resources(), grades, modes, settings, tenant=tenant, project=None, k=K)
        for _ in plan.run(judged.queries()):
            pass
        ways += plan.ways
    return ways


def _row(way: Way) -> tuple[Any, ...]:
    measures = (round(mean, 4) for mean in way.means.values())
    latencies = (None if spent is None else round(spent, 1) for spent in way.latencies)
    name = f"{way.mode}, RRF" if way.setting else way.mode
    return (name, *measures, way.errors, way.incomplete, *latencies)
