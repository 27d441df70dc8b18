"""The price of a file that did not change, against reading and hashing it in one Python process.

Submitting walks the folder and looks at size and modification time, as `ingest add` does; with
`checksum` the workers read and hash every file. Timed from the walk until all is settled, in running
processes; all files are in the page cache for every side. The sides take turns.
"""

import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from benchmarks import corpus
from benchmarks.report import Demand, Report
from benchmarks.rounds import Watch, quietest
from benchmarks.stack import running_stack
from worker.producer import Document, submit, wait

FILES = 50_000
PROCESSES = 2
ROUNDS = 3
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
                assert _add(folder) == how_many
            stack.ask("VACUUM ANALYZE documents")
            rounds = quietest(lambda: _round(folder, how_many), ROUNDS, 2 * ROUNDS)
    report.figures |= {
        "corpus": corpus.name(),
        "files": how_many,
        "average bytes": round(size / how_many),
        "first ingestion s": round(first.seconds, 1),
    }
    _report(report, rounds)
    return report


def _round(folder: Path, how_many: int) -> Round:
    def timed(side: Callable[[], int]) -> tuple[float, float]:
        with Watch() as watch:
            done = side()
        assert done == how_many, (done, how_many)
        return watch.seconds / how_many * 1e6, watch.others

    hashing, others = timed(lambda: _hash(folder))
    rerun, others_too = timed(lambda: how_many - _add(folder))
    checksum, others_again = timed(lambda: _add(folder, checksum=True))
    return Round(rerun, checksum, hashing, max(others, others_too, others_again))


def _walk(folder: Path) -> Iterator[os.DirEntry[str]]:
    with os.scandir(folder) as entries:
        for entry in sorted(entries, key=lambda entry: entry.name):
            if entry.is_dir(follow_symlinks=False):
                yield from _walk(Path(entry.path))
            else:
                yield entry


def _add(folder: Path, *, checksum: bool = False) -> int:
    """Submit a folder's files and wait until they are settled; gives how many were to be processed."""

    def found(entry: os.DirEntry[str]) -> Document:
        state = entry.stat()
        return Document.found(Path(entry.path), state.st_size, state.st_mtime_ns)

    receipt = submit(map(found, _walk(folder)), checksum=checksum)
    assert not receipt.refused
    wait(receipt.document_ids, poll_seconds=0.05)
    return len(receipt.document_ids)


def _hash(folder: Path) -> int:
    count = 0
    for entry in _walk(folder):
        with open(entry.path, "rb") as file:  # noqa: PTH123 -- the fastest that Python has is the measure
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
