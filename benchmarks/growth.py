"""Whether the sustained rate holds as the table grows: 300,000 rows of 1,536 numbers, block by block.

A block is eight batches, written while another process seals; it ends when all its rows have been sealed,
also those that do not fill a segment. Nothing is merged meanwhile: compaction runs after the last block and
is stated. Where the peers are installed, each loads rows into one table with its HNSW index, for as long as
it is given.
"""

from collections.abc import Sequence

from benchmarks import peer_runs
from benchmarks.charts import GROWTH_OURS, GROWTH_PEERS
from benchmarks.ours import READY, TENANT, compact, drawn, sealing, sustained
from benchmarks.peer_runs import STORES, Load, Rows
from benchmarks.ready import BATCH_ROWS, ReadyWriter
from benchmarks.report import Demand, Report
from benchmarks.rounds import Watch, dimension_at
from benchmarks.stack import Stack, running_stack
from worker.lifecycle import collect_garbage_rarely
from worker.resources import Resources

DIMENSION, NAME = 1536, "growth"
BLOCKS, BLOCK_BATCHES = 15, 8
PEER_ROWS, PEER_SECONDS, POINT_ROWS = 30_720, 120, 2_048
COMPACT_SECONDS = 150
KEPT = 0.9


def run(scale: float) -> Report:
    collect_garbage_rarely()
    blocks, rows = (
        max(2, round(BLOCKS * min(1, 10 * scale))),
        BATCH_ROWS * max(1, round(BLOCK_BATCHES * scale)),
    )
    space = {"EMBEDDING_DIMENSION": str(dimension_at(scale, DIMENSION))}
    with running_stack(**(READY | space)) as stack:
        report = Report(NAME, stack.versions(), stack.shown_settings())
        _ours(report, stack, blocks, rows)
        if peer_runs.installed():
            _peers(report, stack, scale)
        else:
            report.figures["the peers"] = "not installed, left out; `make bench NAME=growth` installs them"
    return report


def _ours(report: Report, stack: Stack, blocks: int, rows: int) -> None:
    resources = Resources(stack.settings)
    with sealing(stack.settings) as sealer:
        ReadyWriter(resources, TENANT, "warm-up").write()
        sealer.seal_the_rest()
        writer = ReadyWriter(resources, TENANT, NAME)
        measured = []
        for number in range(blocks):
            batches = drawn(stack.settings.embedding_dimension, NAME, rows, number * rows)
            with Watch() as watch:
                seconds = sustained(writer, batches, sealer)
            measured.append(((number + 1) * rows, round(rows / seconds), f"{watch.others:.0%}"))
    report.table(GROWTH_OURS, ("rows in the end", "rows/s", "others' load"), measured)
    rates = [rate for _, rate, _ in measured]
    report.demands.append(Demand("last block / first block", KEPT, rates[-1] / rates[0]))
    report.figures |= {
        "slowest block / fastest block": round(min(rates) / max(rates), 3),
        "compaction after the last block": compact(resources, COMPACT_SECONDS),
    }
    resources.close()


def _peers(report: Report, stack: Stack, scale: float) -> None:
    most, seconds = max(20, round(PEER_ROWS * scale)), max(1, PEER_SECONDS * scale)
    rows = Rows(stack.folder, NAME, drawn(DIMENSION, NAME, most), most)
    loads = {shown: peer_runs.load(stack, name, rows, seconds=seconds) for name, shown in STORES.items()}
    curves = {shown: _curve(load) for shown, load in loads.items()}
    longest = max(curves.values(), key=len)
    table = [
        (so_far, *(curve[number][1] if number < len(curve) else "" for curve in curves.values()))
        for number, (so_far, _) in enumerate(longest)
    ]
    report.table(GROWTH_PEERS, ("rows in the end", *(f"{shown} rows/s" for shown in curves)), table)
    report.figures |= {
        "peers": peer_runs.shown_versions(),
        "rows the peers reached": ", ".join(f"{shown} {load.rows:,}" for shown, load in loads.items()),
        "the peers' time, s each": seconds,
        "others' load, peers": f"{max(load.others for load in loads.values()):.0%}",
    }


def _curve(load: Load) -> Sequence[tuple[int, int]]:
    """Give (rows in the end, rows/s) of every POINT_ROWS rows; what is left over at the end is left out."""
    points: list[tuple[int, int]] = []
    rows, seconds, total = 0, 0.0, 0
    for batch, taken in load.batches:
        rows, seconds, total = rows + batch, seconds + taken, total + batch
        if rows >= POINT_ROWS:
            points.append((total, round(rows / seconds)))
            rows, seconds = 0, 0.0
    return points or [(total, round(rows / seconds))]
