"""A million vectors of 1,536 numbers, as vector and as halfvec: what building takes, what searching gives.

For each type in turn, in a database of its own, which is dropped before the next: rows are loaded into one
segment of that size, whose graph fits into memory, sealed by one build of two processes, compacted, where
nothing is left to merge, and vacuumed. Then searches for ten, as the search role, each by a vector that is
stored nowhere:

    sealed and compacted   by one client, by eight, and by each of a number of HNSW_EF_SEARCH
    with a full open segment   as many rows without an index as fill one with the default settings
    while ingesting        at what backpressure lets through, with a process that seals

Recall is against the ten nearest of all vectors as they were given, in full precision, compared by numpy.
So many rows are around one centre at every SCALE: how hard the nearest are to find depends on that. It says
on the way what it does, and takes an hour.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import islice
from typing import Any

import psutil

from benchmarks import asking, company
from benchmarks.asking import Asked, ask, ask_together, nearest_to, quantiles, until, warm_up
from benchmarks.charts import EF_CURVE
from benchmarks.company import rows_written, times_sealed, visible_segments
from benchmarks.ours import READY, TENANT, UNBOUNDED, batches_of, own_database
from benchmarks.ready import BATCH_ROWS, CHUNKS, Clustered, ReadyWriter, batch_vectors
from benchmarks.report import Demand, Report, say
from benchmarks.rounds import SMOKE, dimension_at
from benchmarks.stack import Stack, running_stack, with_search_role
from benchmarks.stored import settle_down, sizes
from benchmarks.truth import Truth
from worker.lifecycle import collect_garbage_rarely
from worker.maintenance.run import run_chore
from worker.queries import Query
from worker.resources import Resources
from worker.types import EmbeddingType

NAME, DIMENSION, ROWS, K = "million", 1536, 1_000_000, 10
ROWS_A_CENTRE = 1_000
QUERIES, CURVE_QUERIES, WARM_UP, CLIENTS, CLIENT_QUERIES = 1_000, 200, 512, 8, 200
FEWEST_QUERIES = 10
EF_SEARCH = (10, 20, 40, 60, 80, 100, 150, 200, 300, 400)
SEALED_MEANWHILE = 3
FEW_CLIENTS, FEW_SEALED = 2, 1  # of a smoke test
NODE_BYTES = {EmbeddingType.VECTOR: 4 * DIMENSION + 2_000, EmbeddingType.HALFVEC: 2 * DIMENSION + 2_000}
BUILDING = ("max_unsealed_rows", "build_memory_bytes", "build_workers")  # settings
RECALL = 0.97
SEALED, OPEN, INGESTING = "sealed and compacted", "with a full open segment", "while ingesting"
MOST_MS = {SEALED: 20, OPEN: 60, INGESTING: 100}
GIB = 1 << 30
SAID_ROWS = 40 * BATCH_ROWS

Line = tuple[Any, ...]


@dataclass(slots=True)
class Lines:
    """What was measured, as the lines of the tables; `demands` of them."""

    built: list[Line] = field(default_factory=list)
    searched: list[Line] = field(default_factory=list)
    together: list[Line] = field(default_factory=list)
    curve: dict[int, Line] = field(default_factory=lambda: dict.fromkeys(EF_SEARCH, ()))
    demands: list[Demand] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Data:
    """What is loaded and asked for, the same for both types. `parts`: how many queries of a number."""

    rows: int
    centres: int
    vectors: Clustered
    queries: list[Query]
    truth: Truth
    parts: Callable[[int], int]
    smoke: bool

    def batches(self) -> Iterator[Any]:
        """Draw the vectors, batch by batch."""
        return (batch_vectors(self.vectors, NAME, number) for number in range(1, 1 + self.rows // BATCH_ROWS))

    def strangers(self, number: int) -> Iterator[Query]:
        """Yield queries that are none of the others."""
        return nearest_to(self.vectors, first=1_000 * (1 + number), tenant=TENANT, k=K)


def run(scale: float) -> Report:
    collect_garbage_rarely()
    data, lines = _data(scale), Lines()
    memory = min(2 * psutil.virtual_memory().total // 5, 2 * data.rows * NODE_BYTES[EmbeddingType.VECTOR])
    with running_stack(max(memory, 1 << 27), **READY) as stack:
        report = Report(NAME, stack.versions(), stack.shown_settings())
        kinds = (EmbeddingType.HALFVEC,) if data.smoke else tuple(EmbeddingType)
        for kind in kinds:
            _Type(stack, kind, data, lines).measure()
    _report(report, lines, kinds)
    report.figures |= {"rows": data.rows, "centres": data.centres, "queries": len(data.queries)}
    return report


def _data(scale: float) -> Data:
    """Draw the queries, and compare them with everything."""
    rows = BATCH_ROWS * batches_of(round(ROWS * scale))
    centres = max(1, rows // ROWS_A_CENTRE)
    vectors = Clustered(dimension_at(scale, DIMENSION), centres)
    parts = partial(_part, scale=scale)
    queries = list(islice(nearest_to(vectors, tenant=TENANT, k=K), parts(QUERIES)))
    truth = Truth.of([query.vector or () for query in queries], K)
    data = Data(rows, centres, vectors, queries, truth, parts, smoke=scale < SMOKE / 10)
    say(f"comparing {rows:,} vectors with {len(queries):,} queries")
    for number, batch in enumerate(data.batches()):
        truth = truth.having_seen(number * BATCH_ROWS, batch)
    return replace(data, truth=truth)


def _part(whole: int, scale: float) -> int:
    return max(FEWEST_QUERIES, round(whole * min(1, 5 * scale)))


class _Type:
    """All that is measured of one column type."""

    def __init__(self, stack: Stack, kind: EmbeddingType, data: Data, lines: Lines) -> None:
        self._stack, self._kind, self._data, self._lines = stack, kind, data, lines

    def measure(self) -> None:
        """Build, search, and drop it all."""
        building = {
            "embedding_dimension": self._data.vectors.dimension,
            "embedding_type": self._kind,
            "segment_rows": self._data.rows,
            "max_unsealed_rows": UNBOUNDED,
            "build_memory_bytes": max(1 << 26, self._data.rows * NODE_BYTES[self._kind]),
            "build_workers": 1,
        }
        with own_database(self._stack, NAME, **building) as resources:
            self._build(resources)
            serving = _in_service(resources, self._data.rows)
            self._search(serving)
            serving.close()

    def _build(self, resources: Resources) -> None:
        rows = self._data.rows
        loading = self._load(resources)
        self._say(f"{rows:,} rows loaded; sealing")
        sealing = _timed(partial(run_chore, resources, "seal"))
        self._say(f"sealed in {sealing:,.0f} s; compacting")
        compacting = _timed(partial(run_chore, resources, "compact"))
        settling = _timed(partial(settle_down, resources))
        self._say(f"compacted in {compacting:,.0f} s, vacuumed in {settling:,.0f} s; searching")
        measured = (loading, rows / loading, sealing, compacting, rows / (sealing + compacting), settling)
        gigabytes = (round(size / GIB, 3) for size in sizes(resources))
        self._lines.built.append((self._kind.value, *(round(one, 1) for one in measured), *gigabytes))

    def _load(self, resources: Resources) -> float:
        """Load all rows; gives the seconds of it, without those of drawing them."""
        writer, seconds, rows = ReadyWriter(resources, TENANT, NAME), 0.0, 0
        for batch in self._data.batches():
            seconds += _timed(partial(writer.write, batch))
            rows += len(batch)
            if rows % SAID_ROWS == 0:
                self._say(f"{rows:,} rows, {rows / seconds:,.0f} a second")
        return seconds

    def _search(self, resources: Resources) -> None:
        warming = warm_up(resources, self._data.strangers(0), self._data.parts(WARM_UP))
        self._say(f"warm after {warming:,} searches")
        self._sealed(resources)
        self._crowd(resources)
        for ef_search in EF_SEARCH:
            self._point(resources, ef_search)
        self._with_open_segment(resources)
        self._ingesting(resources)

    def _sealed(self, resources: Resources) -> None:
        asked = ask(resources, self._data.queries)
        recall = self._data.truth.recall(asked.answers)
        self._lines.demands.append(Demand(f"recall@{K}, {self._kind}", RECALL, recall))
        self._enter(SEALED, asked, visible_segments(resources), round(recall, 4))

    def _enter(
        self, phase: str, asked: Asked, segments: int, recall: float | str = "", rate: int | str = ""
    ) -> None:
        """Put a phase into its table, and hold its latency against what is demanded."""
        p50, p95, p99 = asked.milliseconds(0.5, 0.95, 0.99)
        self._lines.searched.append(
            (self._kind.value, phase, len(asked.taken), p50, p95, p99, asked.late, segments, recall, rate)
        )
        demand = Demand(f"p95 {phase}, {self._kind}, ms", MOST_MS[phase], p95, at_most=True)
        self._lines.demands.append(demand)
        self._say(f"{phase}: p50 {p50} ms, p95 {p95} ms, recall {recall}")

    def _crowd(self, resources: Resources) -> None:
        clients = FEW_CLIENTS if self._data.smoke else CLIENTS
        each = asking.WARM_UP + self._data.parts(CLIENT_QUERIES)
        shares = [list(islice(self._data.strangers(1 + client), each)) for client in range(clients)]
        crowd = ask_together(resources.settings, shares)
        latencies = quantiles(crowd.taken, 0.5, 0.95, 0.99)
        self._lines.together.append((self._kind.value, clients, round(crowd.rate, 1), *latencies))
        self._say(f"{clients} clients: {crowd.rate:,.0f} searches a second")

    def _point(self, resources: Resources, ef_search: int) -> None:
        looking = _with(resources, hnsw_ef_search=ef_search)
        asked = ask(looking, self._data.queries[: self._data.parts(CURVE_QUERIES)])
        looking.close()
        recall, latencies = self._data.truth.recall(asked.answers), asked.milliseconds(0.5, 0.95)
        self._lines.curve[ef_search] += (round(recall, 4), *latencies)
        self._say(f"HNSW_EF_SEARCH {ef_search}: {recall:.3f}, {latencies[0]} ms")

    def _with_open_segment(self, resources: Resources) -> None:
        """Fill the open segment, which nobody seals here, and search what is there then."""
        truth, rows = self._data.truth, self._data.rows
        writer = ReadyWriter(resources, TENANT, NAME, batches=rows // BATCH_ROWS)
        end = rows + resources.settings.rows_of_segment // CHUNKS * CHUNKS
        while rows < end:
            batch = batch_vectors(self._data.vectors, NAME, 1 + rows // BATCH_ROWS)[: end - rows]
            truth = truth.having_seen(rows, batch)
            rows += writer.write(batch)
        asked = ask(resources, self._data.queries)
        self._enter(OPEN, asked, visible_segments(resources), round(truth.recall(asked.answers), 4))

    def _ingesting(self, resources: Resources) -> None:
        sealed, written = times_sealed(resources), rows_written(resources)
        more = FEW_SEALED if self._data.smoke else SEALED_MEANWHILE
        ingest = partial(company.ingest, tenant=TENANT, centres=self._data.centres)
        with company.company(resources.settings, (ingest, company.seal)):
            queries = until(
                self._data.strangers(1 + CLIENTS),
                self._data.parts(QUERIES),
                lambda: times_sealed(resources) >= sealed + more,
            )
            asked = ask(resources, queries)
            rate = round((rows_written(resources) - written) / sum(asked.taken))
            segments = visible_segments(resources)
        self._enter(INGESTING, asked, segments, rate=rate)

    def _say(self, what: str) -> None:
        say(f"{self._kind}: {what}")


def _in_service(resources: Resources, rows: int) -> Resources:
    """Go on with the default settings, searching as the search role.

    With smaller segments where one of them would be all there is.
    """
    settings = with_search_role(resources.settings)
    usual = _with(Resources(settings), **dict.fromkeys(("segment_rows", *BUILDING)))
    if usual.settings.rows_of_segment <= rows // 4:
        return usual
    return _with(usual, segment_rows=rows // 4)


def _with(resources: Resources, **settings: Any) -> Resources:
    """Give resources of the same database with other settings."""
    return Resources(resources.settings.model_copy(update=settings))


def _timed(work: Callable[[], object]) -> float:
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


def _report(report: Report, lines: Lines, kinds: Sequence[EmbeddingType]) -> None:
    built = (
        "type", "loading s", "rows/s", "sealing s", "compacting s", "sealed and compacted rows/s", "vacuum s",
        "table GiB", "vector index GiB", "postings GiB",
    )  # fmt: skip
    searched = (
        "type", "", "searches", "p50 ms", "p95 ms", "p99 ms", "late", "segments", f"recall@{K}",
        "rows/s written",
    )  # fmt: skip
    together = ("type", "clients", "searches/s", "p50 ms", "p95 ms", "p99 ms")
    each = [f"{kind} {what}" for kind in kinds for what in (f"recall@{K}", "p50 ms", "p95 ms")]
    report.table("building", built, lines.built)
    report.table("one search after the other", searched, lines.searched)
    report.table("clients at once, sealed and compacted", together, lines.together)
    points = [(ef_search, *figures) for ef_search, figures in lines.curve.items()]
    report.table(EF_CURVE, ("HNSW_EF_SEARCH", *each), points)
    report.demands += lines.demands
