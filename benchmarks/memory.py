"""The most memory a worker process ever held: by number of documents, and by size of the largest one.

Peaks are VmHWM of the pool processes as Linux counts them, looked at while they run. Each run has new
processes, which are not recycled: Celery would start new ones after 200 batches and hide a leak.
"""

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import psutil

from benchmarks import corpus
from benchmarks.report import Demand, Report
from benchmarks.rounds import SMOKE
from benchmarks.stack import Stack, running_stack
from worker.producer import Document, status, submit

FEW, MANY = 5_000, 50_000
GROWTH = 1.1
BOUND = 8.0  # times MAX_DOCUMENT_BYTES, above an idle process; docs/benchmarks.md says why
EMOJI = "\N{SHIP}\N{ROCKET}\n"  # the last line: Python then holds the whole text in four bytes a character
KINDS = (("plain text", "", "txt"), ("Markdown", "", "md"), ("with an emoji", EMOJI, "txt"))
LOOK_SECONDS = 0.2


class Peaks:
    """The highest VmHWM seen of each process below a parent, in MiB."""

    def __init__(self, parent: psutil.Process) -> None:
        self._parent = parent
        self._stop = threading.Event()
        self._peaks: dict[int, float] = {}
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def _watch(self) -> None:
        while not self._stop.wait(LOOK_SECONDS):
            self._look()

    def _look(self) -> None:
        for child in self._parent.children():
            if (peak := _high_water(child.pid)) is not None:
                self._peaks[child.pid] = peak

    @contextmanager
    def watching(self) -> Iterator["Peaks"]:
        """Look until the end of the block."""
        self._thread.start()
        try:
            yield self
            self._look()
        finally:
            self._stop.set()
            self._thread.join()

    @property
    def highest(self) -> float:
        """Give the peak of the process that had the highest."""
        return max(self._peaks.values())


def _high_water(pid: int) -> float | None:
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM:")), None)


def run(scale: float) -> Report:
    with running_stack() as stack:
        report = Report("memory", stack.versions(), stack.shown_settings())
        few, many = (max(10, round(count * scale)) for count in (FEW, MANY))
        _numbers(stack, report, few, many)
        kinds = KINDS if scale >= SMOKE else KINDS[:1]
        _sizes(stack, report, round(stack.settings.max_document_bytes * min(scale, 1)), kinds)
    report.figures["corpus"] = corpus.name()
    return report


def _numbers(stack: Stack, report: Report, few: int, many: int) -> None:
    peaks = {}
    for count in (few, many):
        folder = stack.folder / f"files{count}"
        corpus.write_small_files(folder, count)
        peaks[count] = _peak(stack, sorted(folder.rglob("*.md")), processes=2)
    rows = [(count, round(peak)) for count, peak in peaks.items()]
    report.table("by number of documents", ("documents", "peak MiB"), rows)
    growth = peaks[many] / peaks[few]
    report.demands.append(Demand(f"peak of {many:,} / of {few:,} documents", GROWTH, growth, at_most=True))


def _sizes(stack: Stack, report: Report, size: int, kinds: Sequence[tuple[str, str, str]]) -> None:
    small = stack.folder / "small.txt"
    small.write_text("A line to load the model with.\n")
    idle = _peak(stack, [small], processes=1)
    rows = [("one line", 0.0, round(idle), 0.0)]
    for name, ending, suffix in kinds:
        path = stack.folder / f"{name}.{suffix}"
        corpus.write_large_file(path, size, ending)
        peak = _peak(stack, [path], processes=1)
        rows.append(
            (name, round(size / (1 << 20), 2), round(peak), round((peak - idle) * (1 << 20) / size, 2))
        )
    columns = ("document", "MiB", "peak MiB", "times its size, above idle")
    report.table("by size of the largest document", columns, rows)
    most = max(row[3] for row in rows)
    report.demands.append(Demand("peak above idle / size of the document", BOUND, most, at_most=True))


def _peak(stack: Stack, paths: list[Path], *, processes: int) -> float:
    stack.empty()
    with stack.workers(processes, recycle=False) as parent, Peaks(parent).watching() as peaks:
        submit(Document.path(path) for path in paths)
        stack.settle()
    counts = {state.value: count for state, count in status().counts.items() if count}
    if counts != {"completed": len(paths)}:
        raise RuntimeError(f"not all documents were ingested: {counts}")
    return peaks.highest
