"""What a one-paragraph edit costs: chunks embedded again, rows written, and time.

Ours against a greedy splitter (semantic-text-splitter, which fills each chunk from where the last one
ended) on the same edits. Embedded again is a chunk whose text the document did not have; rewritten are
the rows that the plan inserts and deletes.
"""

import random
import re
import sysconfig
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from statistics import fmean, median
from typing import Any

from semantic_text_splitter import MarkdownSplitter, TextSplitter

from benchmarks import collection, corpus, scifact
from benchmarks.report import Demand, Report
from benchmarks.rounds import SMOKE, Watch, quietest
from benchmarks.stack import Stack, running_stack
from worker.document import Document
from worker.producer import submit, wait
from worker.steps.chunk import chunk, file_type_of
from worker.steps.plan import GAP, Stored, plan
from worker.types import FileType, Span

EDITS = 600  # a corpus
CHUNKS = 1_000  # of the document that is timed
FEWEST = 9  # of both: three kinds of edit at three places
SIZES = (300, 500, 1_000)
CHAPTER = 65_536  # characters a greedy splitter is given at once: it is quadratic
MOST_EMBEDDED, MOST_EMBEDDED_P95, MOST_REWRITTEN = 2, 4, 4
PARAGRAPH_END = re.compile(r"\n[ \t]*\n\s*")


@dataclass(frozen=True, slots=True)
class Cost:
    """What one edit costs: chunks whose text is new, rows deleted and inserted."""

    embedded: int
    rewritten: int


@dataclass(frozen=True, slots=True)
class Round:
    """Seconds from submit to settled: the whole document, and one changed paragraph of it."""

    whole: float
    edit: float
    embedded: int
    others: float


def run(scale: float) -> Report:
    edits, chunks = (max(FEWEST, round(count * scale)) for count in (EDITS, CHUNKS))
    with running_stack() as stack:
        report = Report("edits", stack.versions(), stack.shown_settings())
        ours = _boundaries(report, stack.settings.chunk_size, edits)
        if judged := collection.scifact():
            _retrieval(report, judged, *((SIZES, None) if scale >= SMOKE else (SIZES[:1], FEWEST)))
        with stack.workers(1):
            _round(stack, FEWEST)  # loads the model
            rounds = quietest(lambda: _round(stack, chunks), scale)
    columns = ("whole s", "edit s", "edit / whole", "chunks embedded again", "others' load")
    rows = [
        (round(r.whole, 3), round(r.edit, 3), round(r.edit / r.whole, 3), r.embedded, f"{r.others:.0%}")
        for r in rounds
    ]
    report.table(f"a document of {chunks:,} chunks", columns, rows)
    embedded = sorted(cost.embedded for cost in ours)
    report.demands += [
        Demand("chunks embedded again, median", MOST_EMBEDDED, median(embedded), at_most=True),
        Demand("chunks embedded again, p95", MOST_EMBEDDED_P95, _p95(embedded), at_most=True),
        Demand("rows rewritten, median", MOST_REWRITTEN, median(c.rewritten for c in ours), at_most=True),
    ]
    return report


def _retrieval(
    report: Report, judged: collection.Collection, sizes: Sequence[int], queries: int | None
) -> None:
    """Compare what is found with both boundaries, at several sizes."""
    rows = []
    for size in sizes:
        greedy_chunks, greedy = scifact.judge(judged, _greedy, size, queries)
        our_chunks, ours = scifact.judge(judged, _ours, size, queries)
        rows.append((size, greedy_chunks, round(greedy, 4), our_chunks, round(ours, 4)))
        report.demands.append(Demand(f"SciFact nDCG@10, chunks of {size}, ours / greedy", 1.0, ours / greedy))
    columns = ("CHUNK_SIZE", "greedy: chunks", "greedy: nDCG@10", "ours: chunks", "ours: nDCG@10")
    report.table("retrieval on SciFact", columns, rows)


def _boundaries(report: Report, size: int, how_many: int) -> list[Cost]:
    """Edit each corpus' documents; gives what the edits cost with our boundaries."""
    all_ours: list[Cost] = []
    rows: list[tuple[Any, ...]] = []
    for name, documents in _corpora().items():
        for splitter, split in (("ours", _ours), ("greedy", _greedy)):
            edits = _edits(documents, random.Random(7), how_many)
            costs = [_cost(split, before, after, kind, size) for before, after, kind in edits]
            rows.append((name, splitter, *_summary(costs)))
            all_ours += costs if split is _ours else []
    columns = ("corpus", "boundaries", "edits", "embedded median", "p95", "most", "mean", "rewritten median")
    report.table("one-paragraph edits", columns, rows)
    return all_ours


@cache
def _corpora() -> dict[str, list[tuple[str, FileType]]]:
    folders = {"the standard library's sources": Path(sysconfig.get_path("stdlib"))}
    for name in ("rust-rfcs", "vue-ja"):
        folder = corpus.collection(name)
        folders |= {name: folder} if folder else {}
    return {name: list(_documents(folder)) for name, folder in folders.items()}


def _documents(folder: Path) -> Iterator[tuple[str, FileType]]:
    """Give the texts that have a top, a middle and an end."""
    for path in sorted(folder.glob("*.py")) or sorted(folder.rglob("*.md")):
        text = path.read_text(errors="replace")
        if len(_paragraphs(text)) >= 9 and len(text) > 4_000:
            yield text, file_type_of(path.name)


def _paragraphs(text: str) -> list[tuple[int, int]]:
    begins = [0, *(end for blank in PARAGRAPH_END.finditer(text) if (end := blank.end()) < len(text))]
    return list(zip(begins, [*begins[1:], len(text)], strict=True))


def _edits(
    documents: Sequence[tuple[str, FileType]], rng: random.Random, how_many: int
) -> Iterator[tuple[str, str, FileType]]:
    """Give (before, after, kind): a paragraph inserted, deleted or changed; at the top, middle or end."""
    for number in range(how_many):
        text, kind = rng.choice(documents)
        paragraphs = _paragraphs(text)
        third = len(paragraphs) // 3
        start, end = paragraphs[number % 3 * third + rng.randrange(third)]
        other, _ = rng.choice(documents)
        strange = other[slice(*rng.choice(_paragraphs(other)))].rstrip()
        new = (f"{strange}\n\n{text[start:end]}", "", _changed(text[start:end], rng))[number // 3 % 3]
        yield text, text[:start] + new + text[end:], kind


def _changed(paragraph: str, rng: random.Random) -> str:
    words = paragraph.split(" ")
    place = rng.randrange(len(words))
    return " ".join([*words[:place], *["another", "word"] * rng.randint(1, 5), *words[place + 1 :]])


def _cost(split: scifact.Splitter, before: str, after: str, kind: FileType, size: int) -> Cost:
    stored, wanted = split(before, kind, size), split(after, kind, size)
    rows = [Stored(uuid.UUID(int=n), n * GAP, _identity(span)) for n, span in enumerate(stored, 1)]
    found = plan(rows, [_identity(span) for span in wanted])
    known = {span.text for span in stored}
    return Cost(len({span.text for span in wanted} - known), len(found.insert) + len(found.delete))


def _identity(span: Span) -> tuple[Any, ...]:
    return span.text, span.heading_path


def _ours(text: str, kind: FileType, size: int) -> list[Span]:
    return chunk(text, kind, size=size, overlap=0)


def _greedy(text: str, kind: FileType, size: int) -> list[Span]:
    splitter = (MarkdownSplitter if kind is FileType.MARKDOWN else TextSplitter)(size)
    parts = (text[at : at + CHAPTER] for at in range(0, len(text), CHAPTER))
    return [Span(found, 0, 0, ()) for part in parts for found in splitter.chunks(part)]


def _summary(costs: Sequence[Cost]) -> tuple[Any, ...]:
    embedded = sorted(cost.embedded for cost in costs)
    rewritten = median(cost.rewritten for cost in costs)
    return len(costs), median(embedded), _p95(embedded), embedded[-1], round(fmean(embedded), 2), rewritten


def _p95(ordered: Sequence[int]) -> int:
    return ordered[int(0.95 * (len(ordered) - 1))]


def _round(stack: Stack, chunks: int) -> Round:
    """Time one document of so many chunks, as a new one and with a paragraph changed in its middle."""
    stack.empty()
    text = _long_text(chunks, stack.settings.chunk_size)
    paragraphs = _paragraphs(text)
    start, end = paragraphs[len(paragraphs) // 2]
    after = text[:start] + _changed(text[start:end], random.Random(7)) + text[end:]
    path = stack.folder / "long.md"
    with Watch() as watch:
        whole, _ = _timed(stack, path, text)
        edit, embedded = _timed(stack, path, after)
    return Round(whole, edit, embedded, watch.others)


def _long_text(chunks: int, size: int) -> str:
    text = "\n\n".join(text for documents in _corpora().values() for text, _ in documents)
    return text[: chunk(text[: 2 * chunks * size], FileType.MARKDOWN, size=size, overlap=0)[chunks - 1].end]


def _timed(stack: Stack, path: Path, text: str) -> tuple[float, int]:
    """Submit and wait; gives the seconds and how many chunks were embedded."""
    path.write_text(text)
    with Watch() as watch:
        receipt = submit([Document.path(path)])
        stack.settle()
    outcome = wait(receipt.document_ids)
    assert outcome.completed == 1
    return watch.seconds, outcome.embedded
