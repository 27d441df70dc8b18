"""Three widely used vector stores over the same server, and LlamaIndex's pipeline over the same files.

Rows with ready vectors: each peer into a new table that has its HNSW index from the beginning, in its best
documented batch use. Ours twice: the burst into the open segment, which is searched exactly, and the
sustained rate, until every row has been sealed once. Compaction comes after that and is stated. The peers'
tables are small, which favours them: an HNSW index takes rows the slower the larger it is.

Files (peer_files.py): the corpus to searchable rows by two processes on both sides.
"""

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from statistics import median

from benchmarks import peer_files, peer_runs
from benchmarks.ours import READY, TENANT, Batches, burst, compact, drawn, own_database, sealing, sustained
from benchmarks.peer_runs import STORES, Rows
from benchmarks.ready import ReadyWriter
from benchmarks.report import Demand, Report
from benchmarks.rounds import SMOKE, Watch
from benchmarks.stack import Stack, running_stack
from worker.lifecycle import collect_garbage_rarely
from worker.types import EmbeddingType

DIMENSION, NAME, ROUNDS = 1536, "peers", 3
OUR_ROWS, PEER_ROWS, PEER_SECONDS = 20_480, 4_000, 60
BURST, SUSTAINED = "ours, burst", "ours, sustained"
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
    batches = drawn(DIMENSION, NAME, round(OUR_ROWS * scale))
    rounds = ROUNDS if scale >= SMOKE else 1
    with running_stack() as stack:
        report = Report(NAME, stack.versions() | peer_runs.versions(), stack.shown_settings() | READY)
        rows = Rows(stack.folder, NAME, batches, max(20, round(PEER_ROWS * scale)))
        for kind in EmbeddingType:
            _compare(report, kind, _Sides(stack, kind, batches, rows), rounds)
        peer_files.compare(stack, report, scale, rounds)
    report.figures["peers"] = peer_runs.shown_versions()
    return report


class _Sides:
    """Everybody who writes rows of one column type."""

    def __init__(self, stack: Stack, kind: EmbeddingType, batches: Batches, rows: Rows) -> None:
        self._stack, self._kind, self._batches, self._rows = stack, kind, batches, rows
        self.compacted = ""

    @property
    def all(self) -> dict[str, Callable[[], Measured]]:
        """Give each side by its name; its call is one round."""
        peers = {shown: partial(self._peer, adapter) for adapter, shown in STORES.items()}
        return {BURST: self._burst, SUSTAINED: self._sustained, **peers}

    @property
    def with_index_last(self) -> dict[str, Callable[[], Measured]]:
        """Give the peers once more: rows first, then the index."""
        return {
            f"{shown}, index built last": partial(self._peer, adapter, index_last=True)
            for adapter, shown in STORES.items()
        }

    def _burst(self) -> Measured:
        with own_database(self._stack, "ours", **self._settings) as resources, Watch() as watch:
            seconds = burst(ReadyWriter(resources, TENANT, NAME), self._batches)
        return _measured(self._batches, seconds, watch)

    def _sustained(self) -> Measured:
        with own_database(self._stack, "ours", **self._settings) as resources:
            with sealing(resources.settings) as sealer, Watch() as watch:
                seconds = sustained(resources, ReadyWriter(resources, TENANT, NAME), self._batches, sealer)
            if not self.compacted:  # once is enough to state it
                self.compacted = compact(resources)
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
    apart: Rounds = {name: [side()] for name, side in sides.with_index_last.items()}
    _report(report, kind, {name: done[name] for name in names}, apart)
    report.figures[f"compaction after that, {kind.value}"] = sides.compacted


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
