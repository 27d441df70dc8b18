"""Three widely used vector stores over the same server, with the same ready vectors.

Rows with ready vectors: each peer into a new table that has its HNSW index from the beginning, in its best
documented batch use. Ours twice: the burst into the open segment, which is searched exactly, and the
sustained rate, until every row has been sealed once. Compaction comes after that and is stated.

Once, for comparison: the peers with their index built last, and ours with a parallel worker for index
builds, which the embedded server does without on a small machine.
"""

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from statistics import median

from benchmarks import peer_runs
from benchmarks.ours import (
    TENANT,
    UNBOUNDED,
    Batches,
    burst,
    compact,
    drawn,
    own_database,
    ready_settings,
    sealing,
    sustained,
)
from benchmarks.peer_runs import STORES, Rows
from benchmarks.ready import BATCH_ROWS, ReadyWriter
from benchmarks.report import Demand, Report
from benchmarks.rounds import SMOKE, Watch
from benchmarks.stack import Stack, running_stack
from worker.lifecycle import collect_garbage_rarely
from worker.types import EmbeddingType

DIMENSION, NAME, ROUNDS = 1536, "peers", 3
BURST_ROWS, SUSTAINED_ROWS, PEER_ROWS, PEER_SECONDS = 20_480, 20_480, 4_096, 60
COMPACT_SECONDS = 60
BURST, SUSTAINED, PARALLEL = "ours, burst", "ours, sustained", "ours, sustained, BUILD_WORKERS=1"
TIMES = {BURST: 20, SUSTAINED: 5}


@dataclass(frozen=True, slots=True)
class Measured:
    """What one side did in one round."""

    rows: int
    rate: float
    others: float


Rounds = dict[str, list[Measured]]


def run(scale: float) -> Report:
    peer_runs.require_installed()
    collect_garbage_rarely()
    batches = drawn(DIMENSION, NAME, round(SUSTAINED_ROWS * scale))
    rounds = ROUNDS if scale >= SMOKE else 1
    with running_stack() as stack:
        shown = replace(stack, settings=ready_settings(embedding_dimension=DIMENSION))
        report = Report(NAME, stack.versions() | peer_runs.versions(), shown.shown_settings())
        rows = Rows(stack.folder, NAME, batches, max(20, round(PEER_ROWS * scale)))
        most = max(1, round(BURST_ROWS * scale / BATCH_ROWS))
        for kind in EmbeddingType:
            _compare(report, kind, _Sides(stack, kind, batches, most, rows), rounds)
    report.figures["peers"] = peer_runs.shown_versions()
    return report


class _Sides:
    """Everybody who writes rows of one column type."""

    def __init__(self, stack: Stack, kind: EmbeddingType, batches: Batches, most: int, rows: Rows) -> None:
        self._stack, self._kind, self._batches, self._most, self._rows = stack, kind, batches, most, rows
        self.compacted = ""

    @property
    def all(self) -> dict[str, Callable[[], Measured]]:
        """Give each side by its name; its call is one round."""
        peers = {shown: partial(self._peer, adapter) for adapter, shown in STORES.items()}
        return {BURST: self._burst, SUSTAINED: self._sustained, **peers}

    @property
    def apart(self) -> dict[str, Callable[[], Measured]]:
        """Give what is shown for comparison and demanded of nobody."""
        last = {
            f"{shown}, index built last": partial(self._peer, adapter, index_last=True)
            for adapter, shown in STORES.items()
        }
        return {PARALLEL: partial(self._sustained, build_workers=1), **last}

    def _burst(self) -> Measured:
        batches = self._batches[: self._most]
        settings = {**self._settings, "max_unsealed_rows": UNBOUNDED}
        with own_database(self._stack, "ours", **settings) as resources, Watch() as watch:
            seconds = burst(ReadyWriter(resources, TENANT, NAME), batches)
        return _measured(batches, seconds, watch)

    def _sustained(self, build_workers: int | None = None) -> Measured:
        settings = {**self._settings, "build_workers": build_workers}
        with own_database(self._stack, "ours", **settings) as resources:
            with sealing(resources.settings) as sealer, Watch() as watch:
                seconds = sustained(ReadyWriter(resources, TENANT, NAME), self._batches, sealer)
            self.compacted = self.compacted or compact(resources, COMPACT_SECONDS)
        return _measured(self._batches, seconds, watch)

    def _peer(self, adapter: str, *, index_last: bool = False) -> Measured:
        halfvec = self._kind is EmbeddingType.HALFVEC
        found = peer_runs.load(
            self._stack, adapter, self._rows, seconds=PEER_SECONDS, halfvec=halfvec, index_last=index_last
        )
        return Measured(found.rows, found.rate, found.others)

    @property
    def _settings(self) -> dict[str, object]:
        return {"embedding_dimension": DIMENSION, "embedding_type": self._kind}


def _measured(batches: Batches, seconds: float, watch: Watch) -> Measured:
    rows = sum(map(len, batches))
    return Measured(rows, rows / seconds, watch.others)


def _compare(report: Report, kind: EmbeddingType, sides: _Sides, rounds: int) -> None:
    """Let the sides take turns, each first in another round, and report their medians."""
    done: Rounds = defaultdict(list)
    names = list(sides.all)
    for number in range(rounds):
        first = number % len(names)
        for name in names[first:] + names[:first]:
            done[name].append(sides.all[name]())
    apart: Rounds = {name: [side()] for name, side in sides.apart.items()}
    _report(report, kind, {name: done[name] for name in names}, apart)
    report.figures[f"compaction after the first round, {kind.value}"] = sides.compacted


def _report(report: Report, kind: EmbeddingType, done: Rounds, apart: Rounds) -> None:
    rates = {name: median(r.rate for r in rounds) for name, rounds in (done | apart).items()}
    rows = [
        (
            name, rounds[0].rows, " · ".join(f"{r.rate:,.0f}" for r in rounds), round(rates[name]),
            *(round(rates[ours] / rates[name], 1) for ours in TIMES), f"{max(r.others for r in rounds):.0%}",
        )
        for name, rounds in (done | apart).items()
    ]  # fmt: skip
    columns = (
        "",
        "rows",
        "rows/s by round",
        "median",
        "burst is times",
        "sustained is times",
        "others' load",
    )
    report.table(f"{DIMENSION} dimensions, {kind.value}", columns, rows)
    fastest = max(rates[shown] for shown in STORES.values())
    for ours, times in TIMES.items():
        report.demands.append(Demand(f"{ours} / fastest peer, {kind.value}", times, rates[ours] / fastest))
