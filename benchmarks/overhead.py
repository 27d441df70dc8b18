"""What the Celery task adds to a search: the producer's call through a search worker, beside `search()`.

Some thousand real chunks, searched in hybrid mode by both, as the search role: every question once by either,
each first every other time, after some to warm up with. Both sides embed the question themselves. Of the
worker's side the broker, two serialisations of the request and of the answer, and the result backend
are what is more; they cost the more, the more hits come back.
"""

import time
from collections.abc import Iterator, Mapping
from functools import partial
from itertools import islice
from typing import Any, NamedTuple

from benchmarks import corpus
from benchmarks.asking import quantiles
from benchmarks.ours import seal_everything
from benchmarks.questions import ask_about, some_chunks
from benchmarks.report import Report
from benchmarks.stack import Stack, running_stack, search_url
from worker import producer
from worker.document import Document
from worker.producer import submit
from worker.queries import read_query
from worker.resources import close_resources, resources
from worker.searching import search
from worker.settings import export

NAME, PROCESSES, TENANT = "overhead", 2, "default"
BYTES, QUESTIONS, WARM_UP, FEWEST = 4e6, 300, 30, 10
HITS = (10, 100)


class Pair(NamedTuple):
    """Seconds that one question took by each way."""

    direct: float
    task: float


def run(scale: float) -> Report:
    many = max(FEWEST, round(QUESTIONS * min(1, 2 * scale)))
    with running_stack() as stack:
        report = Report(NAME, stack.versions(), stack.shown_settings())
        _fill(stack, scale)
        questions = resources().transact(partial(some_chunks, tenant=TENANT))
        asked = ask_about(questions)
        export({"SEARCH_DATABASE_URL": search_url(stack.settings)})
        close_resources()
        with stack.workers(1, kind="search"):
            measured = {hits: _pairs(list(islice(asked, WARM_UP + many)), hits) for hits in HITS}
        report.figures["chunks"] = int(stack.ask("SELECT count(*) FROM chunks"))
    _report(report, measured)
    return report


def _fill(stack: Stack, scale: float) -> None:
    paths = corpus.files(BYTES * min(1, 10 * scale))
    with stack.workers(PROCESSES):
        submit([Document.path(path) for path in paths], tenant=TENANT)
        stack.settle()
    seal_everything(resources())


def _pairs(questions: list[str], hits: int) -> list[Pair]:
    """Ask each question by either way, each way first every other time."""
    pairs = [_pair({"text": said, "k": hits, "tenant": TENANT}, n % 2) for n, said in enumerate(questions)]
    return pairs[min(WARM_UP, len(pairs) // 2) :]


def _pair(request: Mapping[str, Any], first: int) -> Pair:
    taken = [0.0, 0.0]
    for way in (first, 1 - first):
        begun = time.perf_counter()
        answer = producer.search(**request) if way else search(resources(), read_query(request))
        taken[way] = time.perf_counter() - begun
        assert answer.hits
        assert not answer.dropped
    return Pair(*taken)


def _report(report: Report, measured: Mapping[int, list[Pair]]) -> None:
    columns = ("hits", "searches", "", "p50 ms", "p95 ms", "p99 ms")
    report.table("the same questions by both ways", columns, [*_lines(measured)])


def _lines(measured: Mapping[int, list[Pair]]) -> Iterator[tuple[Any, ...]]:
    for hits, pairs in measured.items():
        ways = {
            "search() in this process": [pair.direct for pair in pairs],
            "producer.search, through a search worker": [pair.task for pair in pairs],
            "what the task adds": [pair.task - pair.direct for pair in pairs],
        }
        for way, seconds in ways.items():
            yield hits, len(pairs), way, *quantiles(seconds, 0.5, 0.95, 0.99)
