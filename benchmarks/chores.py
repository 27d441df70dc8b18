"""What each chore costs among 300,000 chunks of 1,536 numbers, and what searches and ingestion feel of it.

The rows are written into four segments and sealed. Then, three times: 30 % of the documents of one segment
are deleted and old records left, and the chores run one after the other,

    alone
    beside searches    for ten, as the search role, one after the other
    beside ingestion   by one process that writes ready vectors as fast as it can

beside others again and again until it can be told what these felt, which is compared with what they felt
right before, at rest. `vacuum` builds the worn segment's graph anew, which is what `reindex` and a repair by
`recall` do as well; what sealing and merging cost is in `sealing`. Before the ingestion, 30 % of all that is
left are deleted: what is found before, after, and once the chores have mended it, against all vectors that
are left, compared by numpy; and it is taken how long a run takes to name what somebody broke by hand.
"""

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import islice, pairwise
from typing import Any, NamedTuple

from sqlalchemy import text

from benchmarks import company, wear
from benchmarks.asking import ask, nearest_to, quantiles, warm_up
from benchmarks.company import Work
from benchmarks.ours import READY, TENANT, UNBOUNDED, batches_of, seal_everything, sealed_leaves
from benchmarks.ready import BATCH_ROWS, Clustered, ReadyWriter, batch_vectors
from benchmarks.report import Demand, Report, say
from benchmarks.rounds import SMOKE, dimension_at
from benchmarks.stack import running_stack, with_search_role
from benchmarks.stored import settle_down
from benchmarks.truth import Truth
from worker.db.engine import transaction
from worker.lifecycle import collect_garbage_rarely
from worker.maintenance.run import run_chore
from worker.queries import Query
from worker.resources import Resources
from worker.scheduling import gaps

NAME, DIMENSION, ROWS, SEGMENTS, K = "chores", 1536, 300_000, 4, 10
ROWS_A_CENTRE, FEWEST_CENTRES, NODE_BYTES, LARGE_BYTES = 1_000, 10, 8_200, 1 << 40
QUERIES, FEWEST_QUERIES, LOOK_QUERIES, WARM_UP = 300, 5, 10, 128
BESIDE_SECONDS = 10
LOOK_SECONDS, MOST_WAITS, FEW_PROBES = 0.2, 3, 5
SMOKE_SECONDS = 0.5
MOST_TIMES, LEAST_RATE, RECALL, DELETED = 3, 0.7, 0.95, 0.3
# In this order: what one leaves the next has to see.
CHORES = ("vacuum", "reindex", "indexes", "recall", "reconcile", "backfill", "purge")
SMOKE_CHORES = ("purge",)  # beside others, where no figure is worth the time
REPAIRS = ("vacuum", "reindex", "recall")
INGESTION: Work = partial(company.ingest, tenant=TENANT)


class Beside(NamedTuple):
    """What others felt of a chore: how often it ran, their figure meanwhile, and right before, at rest."""

    runs: int = 0
    figure: float = 0.0
    rest: float = 1.0

    @property
    def ratio(self) -> float:
        """Give how many times that at rest it is."""
        return self.figure / self.rest


@dataclass(slots=True)
class Line:
    """All that is known of a chore. `searches`: their p95, ms; `ingestion`: rows/s."""

    seconds: float = 0.0
    did: str = ""
    searches: Beside = field(default_factory=Beside)
    ingestion: Beside = field(default_factory=Beside)


@dataclass(slots=True)
class Found:
    """What was measured."""

    lines: dict[str, Line] = field(default_factory=lambda: {chore: Line() for chore in CHORES})
    recalls: list[tuple[str, float]] = field(default_factory=list)
    noticed: list[tuple[Any, ...]] = field(default_factory=list)


class Runs(NamedTuple):
    """The times, from and to, in which a chore ran."""

    times: Sequence[tuple[float, float]]

    @property
    def seconds(self) -> float:
        """Sum them up."""
        return sum(end - begin for begin, end in self.times)

    def overlap(self, begin: float, end: float) -> bool:
        """Tell whether the chore ran at any moment from `begin` to `end`."""
        return any(start < end and begin < stop for start, stop in self.times)


def run(scale: float) -> Report:
    collect_garbage_rarely()
    rows = BATCH_ROWS * max(SEGMENTS, batches_of(round(ROWS * scale)))
    segment = -(-rows // SEGMENTS // BATCH_ROWS) * BATCH_ROWS
    built = {
        "SEGMENT_ROWS": str(segment),
        "SEGMENT_BYTES": str(LARGE_BYTES),
        "MAX_UNSEALED_ROWS": str(UNBOUNDED),
    }
    memory = {"BUILD_MEMORY_BYTES": str(max(1 << 26, segment * NODE_BYTES))}
    space = {"EMBEDDING_DIMENSION": str(dimension_at(scale, DIMENSION))}
    with running_stack(**(READY | space | built | memory)) as stack:
        report = Report(NAME, stack.versions(), stack.shown_settings())
        resources = Resources(with_search_role(stack.settings))
        found = _Bench(resources, rows, scale).measure()
        resources.close()
    _report(report, found)
    report.figures["rows"] = rows
    return report


class _Bench:
    """One database, and what is asked of it."""

    def __init__(self, resources: Resources, rows: int, scale: float) -> None:
        self._resources, self._batches = resources, rows // BATCH_ROWS
        self._vectors = Clustered(
            resources.settings.embedding_dimension, max(FEWEST_CENTRES, rows // ROWS_A_CENTRE)
        )
        self._smoke = scale < SMOKE
        self._beside = SMOKE_CHORES if self._smoke else CHORES
        self._seconds = SMOKE_SECONDS if self._smoke else BESIDE_SECONDS
        queries = FEWEST_QUERIES if self._smoke else QUERIES
        self._queries = list(islice(self._strangers(), queries))
        self._found = Found()

    def _strangers(self) -> Iterator[Query]:
        return nearest_to(self._vectors, tenant=TENANT, k=K)

    def measure(self) -> Found:
        """Build it, and look at everything in turn."""
        self._build()
        leaves = sealed_leaves(self._resources)
        self._note_recall("before")
        self._alone(leaves[:1])
        self._beside_searches(leaves[1:2])
        self._delete_from(leaves)
        self._damage(leaves[0])
        self._beside_ingestion(leaves[2:3])
        return self._found

    def _build(self) -> None:
        say(f"{self._batches * BATCH_ROWS:,} rows")
        writer = ReadyWriter(self._resources, TENANT, NAME)
        for number in range(1, 1 + self._batches):
            writer.write(batch_vectors(self._vectors, NAME, number))
            run_chore(self._resources, "seal")
        seal_everything(self._resources)
        settle_down(self._resources)
        warm_up(self._resources, self._strangers(), FEWEST_QUERIES if self._smoke else WARM_UP)

    def _wear(self, leaves: Sequence[str]) -> None:
        gone = wear.delete_share(self._resources, DELETED, leaves)
        wear.age_records(self._resources)
        say(f"{gone:,} rows deleted of {', '.join(leaves)}")

    def _alone(self, leaves: Sequence[str]) -> None:
        self._wear(leaves)
        for chore in CHORES:
            begun = time.perf_counter()
            did = run_chore(self._resources, chore)
            line = self._found.lines[chore]
            line.seconds, line.did = time.perf_counter() - begun, _summed_up(did)
            say(f"{chore}: {line.seconds:.1f} s, {line.did}")

    def _beside_searches(self, leaves: Sequence[str]) -> None:
        self._wear(leaves)
        for chore in self._beside:
            [rest] = ask(self._resources, self._queries).milliseconds(0.95)
            since = time.time()
            with company.company(self._resources.settings, [partial(company.repeat, chore=chore)]):
                asked = list(self._asked_while(chore, since))
            runs = self._runs(chore, since)
            felt = [seconds for begun, seconds in asked if runs.overlap(begun, begun + seconds)]
            [p95] = quantiles(felt, 0.95)
            self._found.lines[chore].searches = Beside(len(runs.times), p95, rest)
            say(f"{chore}: p95 {p95} ms of {len(felt)} searches, {rest} at rest, {len(runs.times)} runs")

    def _asked_while(self, chore: str, since: float) -> Iterator[tuple[float, float]]:
        """Ask until the chore has run long enough; yields when each began, and what it took."""
        for number, query in enumerate(self._strangers()):
            if number % LOOK_QUERIES == 0 and self._has_run(chore, since):
                return
            begun = time.time()
            yield begun, ask(self._resources, [query]).taken[0]

    def _beside_ingestion(self, leaves: Sequence[str]) -> None:
        self._wear(leaves)
        with company.company(self._resources.settings, [INGESTION]):
            self._await_batches(time.time())  # it takes a moment to start
            # recall first: it compares with what was written beside those before it
            for chore in sorted(self._beside, key="recall".__ne__):
                self._found.lines[chore].ingestion = self._ingestion_beside(chore)

    def _ingestion_beside(self, chore: str) -> Beside:
        begun = time.time()
        self._await_batches(begun + self._seconds)
        since = time.time()
        # with all of its sample recall would compare, most of all, what is written meanwhile
        brief = self._resources.settings.model_copy(update={"recall_sample": FEW_PROBES})
        with company.company(brief, [partial(company.repeat, chore=chore)]):
            while not self._has_run(chore, since):
                time.sleep(LOOK_SECONDS)
        self._await_batches(time.time())
        runs, spans = self._runs(chore, since), self._batch_spans(begun)
        rest = _rate(span for span in spans if span[1] < since)
        rate = _rate(span for span in spans if runs.overlap(*span))
        say(f"{chore}: {rate:,.0f} rows/s written, {rest:,.0f} at rest, {len(runs.times)} runs beside it")
        return Beside(len(runs.times), rate, rest)

    def _await_batches(self, until: float) -> None:
        """Wait until this time, and for the batch that is being written then."""
        time.sleep(max(0.0, until - time.time()))
        while not self._batch_spans(until):
            time.sleep(LOOK_SECONDS)

    def _batch_spans(self, since: float) -> list[tuple[float, float]]:
        """Give when each batch began, and the next: one process writes them, in a transaction each."""
        with transaction(self._resources.engine) as connection:
            found = connection.execute(
                text("""
                    SELECT DISTINCT extract(epoch FROM created_at)::float FROM documents
                    WHERE created_at > to_timestamp(:since) ORDER BY 1"""),
                {"since": since},
            )
            return list(pairwise(found.scalars()))

    def _has_run(self, chore: str, since: float) -> bool:
        """Tell whether it has run for long enough, or, where that takes too long, at all."""
        runs = self._runs(chore, since)
        late = time.time() - since > MOST_WAITS * self._seconds
        return bool(runs.times) and (runs.seconds >= self._seconds or late)

    def _runs(self, chore: str, since: float) -> Runs:
        with transaction(self._resources.engine) as connection:
            found = connection.execute(
                text("""
                    SELECT extract(epoch FROM started_at)::float, extract(epoch FROM finished_at)::float
                    FROM maintenance_runs
                    WHERE chore = :chore AND outcome = 'done' AND started_at > to_timestamp(:since)"""),
                {"chore": chore, "since": since},
            )
            return Runs([(row[0], row[1]) for row in found])

    def _delete_from(self, leaves: Sequence[str]) -> None:
        self._note_recall("a little deleted, and mended")
        self._wear(leaves)
        self._note_recall(f"{DELETED:.0%} deleted")
        for chore in REPAIRS:
            say(f"{chore}: {_summed_up(run_chore(self._resources, chore))}")
        self._note_recall("mended by the chores")

    def _note_recall(self, when: str) -> None:
        """Compare what is found of the vectors that are left with all of these."""
        living = set(wear.live_rows(self._resources, self._batches, NAME))
        truth = Truth.of([query.vector or () for query in self._queries], K)
        for number in range(self._batches):
            first = number * BATCH_ROWS
            vectors = batch_vectors(self._vectors, NAME, number + 1)
            truth = truth.having_seen(first, vectors, [first + row in living for row in range(BATCH_ROWS)])
        recall = truth.recall(ask(self._resources, self._queries).answers)
        self._found.recalls.append((when, round(recall, 4)))
        say(f"recall {when}: {recall:.4f}")

    def _damage(self, leaf: str) -> None:
        for what, statements, chore in wear.DAMAGE:
            wear.do_damage(self._resources, statements, leaf)
            begun = time.perf_counter()
            did = run_chore(self._resources, chore)
            seconds = time.perf_counter() - begun
            timing = self._resources.settings.timing(chore)
            worst = seconds + gaps(timing).longest
            self._found.noticed.append((what, chore, timing, round(seconds, 1), round(worst)))
            say(f"{what}: {chore} took {seconds:.1f} s, {_summed_up(did)}")


def _rate(spans: Iterable[tuple[float, float]]) -> float:
    """Give the rows a second of batches with these spans."""
    seconds = [end - begin for begin, end in spans]
    return BATCH_ROWS * len(seconds) / sum(seconds)


def _summed_up(did: Mapping[str, Any]) -> str:
    """Say in a few words what a run did."""
    counts = {name: len(value) if isinstance(value, list | dict) else value for name, value in did.items()}
    done = [f"{name} {value}" for name, value in counts.items() if value and name != "outcome"]
    return ", ".join(done) or "nothing to do"


def _report(report: Report, found: Found) -> None:
    columns = (
        "chore", "alone s", "searches beside: p95 ms", "times that at rest", "ingestion beside: rows/s",
        "of that at rest", "runs beside searches", "runs beside ingestion", "what it did alone",
    )  # fmt: skip
    rows = [
        (
            chore, round(line.seconds, 1), line.searches.figure, round(line.searches.ratio, 2),
            round(line.ingestion.figure), round(line.ingestion.ratio, 2), line.searches.runs,
            line.ingestion.runs, line.did,
        )
        for chore, line in found.lines.items()
    ]  # fmt: skip
    report.table("each chore", columns, rows)
    report.table(f"recall@{K}, {DELETED:.0%} of the rows deleted", ("when", f"recall@{K}"), found.recalls)
    noticed = ("damage", "named by", "its schedule", "its run s", "named at the latest after s")
    report.table("from damage to alert", noticed, found.noticed)
    times = max(line.searches.ratio for line in found.lines.values())
    share = min(line.ingestion.ratio for line in found.lines.values() if line.ingestion.runs)
    report.demands += [
        Demand("p95 of searches beside the worst chore / at rest", MOST_TIMES, times, at_most=True),
        Demand("ingestion beside the worst chore / at rest", LEAST_RATE, share),
        Demand(f"recall@{K} once mended", RECALL, found.recalls[-1][1]),
    ]
