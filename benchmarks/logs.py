"""What a document's line of the log costs who writes it, by format, and where nothing is written.

CPU time, not the clock's: other processes do not count. The lines go to /dev/null. What a document costs in
all says `pipeline`.
"""

import logging
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from uuid import uuid4

from benchmarks.report import Demand, Report
from worker import logs
from worker.db.documents import Claimed, Settled
from worker.outcomes import Outcomes
from worker.types import FileType, LogFormat, Status

NAME = "logs"
DOCUMENTS, ROUNDS = 20_000, 5


def run(scale: float) -> Report:
    report = Report(NAME)
    many = max(100, round(DOCUMENTS * scale))
    costs = {
        (log_format, level): _microseconds(log_format, level, many)
        for log_format in LogFormat
        for level in ("INFO", "WARNING")
    }
    report.table(
        "CPU of a document's line",
        ("LOG_FORMAT", "LOG_LEVEL", "µs"),
        [(log_format.value, level, round(cost, 2)) for (log_format, level), cost in costs.items()],
    )
    for (log_format, level), cost in costs.items():
        bound = 250 if level == "INFO" else 5
        report.demands.append(Demand(f"µs a line, {log_format.value}, {level}", bound, cost, at_most=True))
    return report


def _microseconds(log_format: LogFormat, level: str, many: int) -> float:
    """Give the least of some rounds: what disturbs one only adds."""
    document = Claimed(
        uuid4(), uuid4(), uuid4(), "/usr/lib/python3.11/argparse.py", "argparse.py", None, FileType.CODE,
        "english", None, None, 1, trace=uuid4().hex,
    )  # fmt: skip
    settled = [
        Settled(document.document_id, Status.COMPLETED, total_chunks=12, embedded=12, size_bytes=12_345)
    ] * many
    with _set_up(log_format, level):
        return min(_round(document, settled) for _ in range(ROUNDS)) / many * 1e6


def _round(document: Claimed, settled: list[Settled]) -> float:
    begun = time.process_time()
    Outcomes([document]).settled(settled)
    return time.process_time() - begun


@contextmanager
def _set_up(log_format: LogFormat, level: str) -> Iterator[None]:
    ours = sys.stderr
    with open(os.devnull, "w") as nowhere:  # noqa: PTH123 -- a device
        sys.stderr = nowhere
        logs.set_up(log_format, level)
        sys.stderr = ours
        context = {"task": "ingest.batch", "task_id": uuid4(), "worker": "ingest-1@host", "batch": uuid4()}
        with logs.bound_contextvars(**context, tenant=uuid4(), lane="bulk"):
            yield
        logging.getLogger().handlers.clear()
