"""The price of a file that did not change, against reading and hashing it in one Python process.

Submitting walks the folder and looks at size and modification time, as `ingest add` does; with
`checksum` the workers read and hash every file. Timed from the walk until all is settled, in running
processes; all files are in the page cache for every side. The sides take turns.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from benchmarks import corpus
from benchmarks.report import Demand, Report
from benchmarks.rounds import Watch, quietest
from benchmarks.stack import Stack, running_stack
from worker.cli.walk import walk
from worker.producer import Document, submit

FILES = 50_000
PROCESSES = 2
DEMANDED = 3.0


@dataclass(frozen=True, slots=True)
class Round:
    """Microseconds a file."""

    rerun: float
    checksum: float
    hashing: float
    others: float


def run(scale: float) -> Report:
    how_many = max(20, round(FILES * scale))
    with running_stack() as stack:
        report = Report("rerun", stack.versions(), stack.shown_settings())
        folder = stack.folder / "files"
        size = corpus.write_small_files(folder, how_many)
        with stack.workers(PROCESSES):
            with Watch() as first:
                assert _add(stack, folder) == how_many
            stack.ask("VACUUM ANALYZE documents")
            rounds = quietest(lambda: _round(stack, folder, how_many), scale)
    report.figures |= {
        "corpus": corpus.name(),
        "files": how_many,
        "average bytes": round(size / how_many),
        "first ingestion s": round(first.seconds, 1),
    }
    _report(report, rounds)
    return report


def _round(stack: Stack, folder: Path, how_many: int) -> Round:
    def timed(side: Callable[[], int]) -> tuple[float, float]:
        with Watch() as watch:
            done = side()
        assert done == how_many, (done, how_many)
        return watch.seconds / how_many * 1e6, watch.others

    _hash(folder)  # into the page cache
    hashing, others = timed(lambda: _hash(folder))
    rerun, others_too = timed(lambda: how_many - _add(stack, folder))
    checksum, others_again = timed(lambda: _add(stack, folder, checksum=True))
    return Round(rerun, checksum, hashing, max(others, others_too, others_again))


def _add(stack: Stack, folder: Path, *, checksum: bool = False) -> int:
    """Submit a folder's files and wait until they are settled; gives how many were to be processed."""
    files = walk(str(folder)).files
    receipt = submit(
        (Document.found(Path(file.path), file.size, file.modified_ns) for file in files), checksum=checksum
    )
    assert not receipt.refused
    stack.settle()
    return len(receipt.document_ids)


def _hash(folder: Path) -> int:
    count = 0
    for file_found in walk(str(folder)).files:
        with open(file_found.path, "rb") as file:  # noqa: PTH123 -- the fastest that Python has is the measure
            hashlib.sha256(file.read()).digest()
        count += 1
    return count


def _report(report: Report, rounds: Sequence[Round]) -> None:
    columns = ("rerun µs/file", "read and hash µs/file", "ratio", "with checksum µs/file", "others' load")
    rows = [
        (
            round(r.rerun, 1), round(r.hashing, 1), round(r.rerun / r.hashing, 2), round(r.checksum, 1),
            f"{r.others:.0%}",
        )
        for r in rounds
    ]  # fmt: skip
    report.table(f"{report.figures['files']:,} unchanged files", columns, rows)
    ratio = median(r.rerun / r.hashing for r in rounds)
    report.demands.append(Demand("unchanged file / reading and hashing it", DEMANDED, ratio, at_most=True))
