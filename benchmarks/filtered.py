"""Filtered searches: recall and latency from where half of all rows pass down to one in ten thousand.

300,000 vectors of 1,536 numbers around 300 centres, sealed and merged into one segment. Each selectivity by
three kinds of filter: the project, metadata of documents, metadata of chunks, all drawn with dice. And by a
fourth, of which nothing is demanded but whole answers: metadata of chunks that lie together, far from what is
asked for, so that the index leads nowhere near them, and all are about equally far. The queries are stored
nowhere and come as the search role. Recall is against the ten nearest that pass, in full precision, compared
by numpy. An answer is short where it has fewer than ten hits, and fewer than rows that pass.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from benchmarks.asking import ask
from benchmarks.charts import SELECTIVITIES
from benchmarks.ours import READY, TENANT, UNBOUNDED
from benchmarks.ready import WORDS, Clustered
from benchmarks.report import Demand, Report, say
from benchmarks.rounds import dimension_at
from benchmarks.stack import running_stack, with_search_role
from benchmarks.stored import settle_down
from worker.db.submissions import ensure_scope
from worker.lifecycle import collect_garbage_rarely
from worker.load_slice import SliceLoader
from worker.maintenance.run import run_chore
from worker.queries import read_query
from worker.resources import Resources
from worker.types import GivenChunk, GivenDocument

NAME, DIMENSION, ROWS, K = "filtered", 1536, 300_000, 10
ROWS_A_CENTRE, FEWEST_CENTRES, CHUNKS, SLICE = 1_000, 10, 20, 128
QUERIES, WARM_UP, FEWEST = 100, 20, 5
ASKED_FROM = 0.6  # the centres after so many: half of all rows are around others
PERCENT = (50.0, 10.0, 1.0, 0.1, 0.01)
SIDES = 1_000_000  # of the dice
REST = "the rest"
FAR_OFF = "chunk metadata, far off"
SAID_SLICES = 20
RECALL = 0.95

Numbers = NDArray[np.int64]
Vectors = NDArray[np.float32]


class Way(NamedTuple):
    """A filter: what it is called, how a request says it, and which rows pass."""

    kind: str
    percent: float
    fields: Mapping[str, Any]
    passes: NDArray[np.bool_]


class Measured(NamedTuple):
    """What the searches with one filter came to."""

    way: Way
    recall: float
    short: int
    latencies: Sequence[float]


@dataclass(frozen=True, slots=True)
class Rows:
    """All of the rows but their vectors: how near each is to each query, and what filters look at."""

    nearness: Vectors
    projects: Sequence[str]
    document_dice: Numbers
    dice: Numbers
    places: Numbers

    def ways(self) -> Iterator[Way]:
        """Give each kind of filter by each selectivity."""
        projects = np.repeat(np.array(self.projects), CHUNKS)
        for percent in PERCENT:
            name = _project(percent)
            yield Way("project", percent, {"project": name}, projects == name)
            below = _bound(self.document_dice, percent)
            passes = np.repeat(self.document_dice < below, CHUNKS)
            yield Way("metadata", percent, {"filter": {"metadata": {"dice": {"lt": below}}}}, passes)
            below = _bound(self.dice, percent)
            wanted = {"filter": {"chunk_metadata": {"dice": {"lt": below}}}}
            yield Way("chunk metadata", percent, wanted, self.dice < below)
            below = _bound(self.places, percent)
            wanted = {"filter": {"chunk_metadata": {"place": {"lt": below}}}}
            yield Way(FAR_OFF, percent, wanted, self.places < below)

    def nearest(self, query: int, way: Way) -> set[int]:
        """Give the nearest rows that pass."""
        passing = np.flatnonzero(way.passes)
        order = np.argsort(-self.nearness[query, passing], kind="stable")[:K]
        return set(passing[order].tolist())


def run(scale: float) -> Report:
    collect_garbage_rarely()
    rows = max(CHUNKS * len(PERCENT) * 2, round(ROWS * scale) // CHUNKS * CHUNKS)
    dimension = dimension_at(scale, DIMENSION)
    vectors = Clustered(dimension, max(FEWEST_CENTRES, rows // ROWS_A_CENTRE))
    asked = _queries(vectors, max(FEWEST, round(QUERIES * min(1, 10 * scale))) + WARM_UP)
    space = {"EMBEDDING_DIMENSION": str(dimension)}
    built = {"SEGMENT_ROWS": str(rows), "MAX_UNSEALED_ROWS": str(UNBOUNDED), "BUILD_WORKERS": "1"}
    memory = {"BUILD_MEMORY_BYTES": str(max(1 << 26, rows * 8_200))}
    with running_stack(**(READY | space | built | memory)) as stack:
        report = Report(NAME, stack.versions(), stack.shown_settings())
        owner = Resources(stack.settings)
        loaded = _load(owner, vectors, rows, asked)
        _seal(owner)
        resources = Resources(with_search_role(stack.settings))
        measured = [_measure(resources, way, asked, loaded) for way in loaded.ways()]
        resources.close()
        owner.close()
    _report(report, measured)
    report.figures |= {"rows": rows, "queries, of each filter": len(asked) - WARM_UP}
    return report


def _queries(vectors: Clustered, many: int) -> Vectors:
    """Draw queries around the last of the centres."""
    found, labels = vectors.labelled(4 * many, seed=0)
    asked: Vectors = found[labels >= ASKED_FROM * (labels.max() + 1)][:many]
    return asked


def _project(percent: float) -> str:
    return f"{percent:g} %"


def _bound(values: Numbers, percent: float) -> int:
    """Give the bound below which so many values are."""
    many = max(1, round(len(values) * percent / 100))
    return int(np.partition(values, many)[many])


def _load(resources: Resources, vectors: Clustered, rows: int, asked: Vectors) -> Rows:
    """Load all rows, project by project; of their vectors only the comparisons are kept."""
    projects, dice = _projects(rows // CHUNKS), np.random.default_rng(7)
    loaded = Rows(
        np.empty((len(asked), rows), np.float32),
        projects,
        *(dice.integers(SIDES, size=count) for count in (len(projects), rows, rows)),
    )
    for number, (project, documents) in enumerate(_slices(projects), 1):
        part = slice(documents[0] * CHUNKS, (documents[-1] + 1) * CHUNKS)
        mine, labels = vectors.labelled(part.stop - part.start, seed=number)
        loaded.places[part] += labels * SIDES
        loaded.nearness[:, part] = asked @ (mine.T / np.linalg.norm(mine, axis=1))
        scope = resources.transact(partial(ensure_scope, tenant=TENANT, project=project))
        done = SliceLoader(resources, scope).load([_document(loaded, one, part, mine) for one in documents])
        assert done.completed == len(documents), done
        if number % SAID_SLICES == 0:
            say(f"{part.stop:,} rows")
    return loaded


def _projects(documents: int) -> list[str]:
    """Name the project of each document."""
    named = [
        _project(percent) for percent in PERCENT for _ in range(max(1, round(documents * percent / 100)))
    ]
    return [*named, *[REST] * documents][:documents]


def _slices(projects: Sequence[str]) -> Iterator[tuple[str, Sequence[int]]]:
    """Yield (project, documents) of each slice to load."""
    for project, mine in groupby(range(len(projects)), key=projects.__getitem__):
        documents = list(mine)
        for start in range(0, len(documents), SLICE):
            yield project, documents[start : start + SLICE]


def _document(loaded: Rows, number: int, part: slice, vectors: Vectors) -> GivenDocument:
    rows = range(number * CHUNKS, (number + 1) * CHUNKS)
    chunks = [
        GivenChunk(
            f"{row} {WORDS}",
            vectors[row - part.start],
            metadata={"dice": int(loaded.dice[row]), "place": int(loaded.places[row])},
        )
        for row in rows
    ]
    return GivenDocument(str(number), chunks, {"dice": int(loaded.document_dice[number])})


def _seal(resources: Resources) -> None:
    say("sealing")
    for chore in ("seal", "compact"):
        run_chore(resources, chore)
    settle_down(resources)


def _measure(resources: Resources, way: Way, asked: Vectors, rows: Rows) -> Measured:
    queries = [read_query(vector=vector, tenant=TENANT, k=K, **way.fields) for vector in asked]
    ask(resources, queries[:WARM_UP])
    found = ask(resources, queries[WARM_UP:])
    true = [rows.nearest(number, way) for number in range(WARM_UP, len(asked))]
    hits = [{int(hit.text.split(" ", 1)[0]) for hit in answer.hits} for answer in found.answers]
    recall = sum(map(len, map(set.intersection, true, hits))) / sum(map(len, true))
    short = sum(len(mine) < len(wanted) for mine, wanted in zip(hits, true, strict=True))
    measured = Measured(way, recall, short, found.milliseconds(0.5, 0.95, 1))
    say(f"{way.kind}, {way.percent:g} %: recall {recall:.3f}, p95 {measured.latencies[1]} ms")
    return measured


def _report(report: Report, measured: Sequence[Measured]) -> None:
    columns = (
        "filter",
        "percent",
        "rows that pass",
        f"recall@{K}",
        "short",
        "p50 ms",
        "p95 ms",
        "slowest ms",
    )
    lines = [
        (
            one.way.kind, one.way.percent, int(one.way.passes.sum()), round(one.recall, 4), one.short,
            *one.latencies,
        )
        for one in sorted(measured, key=lambda one: one.way.kind)
    ]  # fmt: skip
    report.table(SELECTIVITIES, columns, lines)
    usual = [one for one in measured if one.way.kind != FAR_OFF]
    for percent in PERCENT:
        worst = min(one.recall for one in usual if one.way.percent == percent)
        report.demands.append(Demand(f"recall@{K} at {percent:g} %, the worst filter", RECALL, worst))
    short = sum(one.short for one in measured)
    report.demands.append(Demand("short answers", 0, short, at_most=True))
