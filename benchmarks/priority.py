"""What a person waits for while somebody loads 50,000 documents, and what that costs the load.

The same load by three tenants, one after the other, on a stack that runs what `ingest up` does, sealing
included: alone; while a person submits a document every half second and a small tenant ten bulk documents
every few seconds; and alone again, since there is more to seal and merge by then. A person's document counts
as searchable when a search of its tenant, by the search worker, finds it.
"""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import count
from statistics import fmean

import numpy as np

from benchmarks import corpus
from benchmarks.ours import seal_everything
from benchmarks.report import Demand, Report, say
from benchmarks.rounds import SMOKE, Watch
from benchmarks.stack import Stack, running_stack
from worker.producer import Document, search, submit, wait
from worker.resources import resources
from worker.types import Lane

FILES, WARM_UP, CALM, AT_ONCE = 50_000, 4, 40, 32
LINES = 40 * int(os.environ.get("LONGER") or 1)
EVERY_SECONDS, SMALL_EVERY_SECONDS, SMALL_DOCUMENTS = 0.5, 5.0, 10
# What `ingest up` runs but Flower, with how many processes each; beat has none.
KINDS = {"ingest": 2, "interactive": 1, "search": 1, "maintenance": 4, "beat": 0}
P95_SECONDS, P95_TIMES, SMALL_SECONDS, KEPT = 5.0, 10.0, 30.0, 0.6
POLL_SECONDS, LOAD_SECONDS = 0.05, 3_600
# The bound on what waits for an index as users have it, and connections for all that is waited for at once.
SETTINGS = {"MAX_UNSEALED_ROWS": "", "DATABASE_MAX_OVERFLOW": str(AT_ONCE)}
OF_TENANT = "FROM documents JOIN tenants USING (tenant_id) WHERE name = '{tenant}'"
SETTLED = f"SELECT NOT EXISTS (SELECT {OF_TENANT} AND status IN ('pending', 'processing'))"
TAKEN = f"SELECT extract(epoch FROM max(settled_at) - min(documents.created_at)) {OF_TENANT}"
SEALED = "SELECT NOT EXISTS (SELECT FROM segments WHERE state IN ('sealing', 'merging'))"

_numbers = count(1)
_asking = threading.Lock()  # a process has one client of results


@dataclass(slots=True)
class Round:
    """Seconds: of the load, and of what others waited for meanwhile."""

    load: float = 0.0
    person: Sequence[float] = ()
    small: Sequence[float] = ()
    others: float = 0.0


def run(scale: float) -> Report:
    files = max(20, round(FILES * scale))
    with running_stack(**SETTINGS) as stack, ExitStack() as running:
        report = Report("priority", stack.versions(), stack.shown_settings())
        corpus.write_small_files(stack.folder / "files", files, LINES)
        for kind, processes in _kinds().items():
            running.enter_context(stack.workers(processes, kind=kind))
        _calm(WARM_UP)
        calm = _calm(2 if scale < SMOKE else CALM)
        before = _load(stack, "first")
        beside = _load(stack, "second", person=EVERY_SECONDS, small=SMALL_EVERY_SECONDS)
        after = _load(stack, "third")
    _report(report, files, calm, beside, (before, after))
    return report


def _kinds() -> dict[str, int]:
    """Give what runs, without the worker that WITHOUT names."""
    return {kind: processes for kind, processes in KINDS.items() if kind != os.environ.get("WITHOUT")}


def _calm(documents: int) -> Round:
    """Take the times of a person who is alone."""
    say("nobody else")
    with Watch() as watch:
        times = [_person() for _ in range(documents)]
    return Round(person=times, others=watch.others)


def _load(stack: Stack, tenant: str, *, person: float = 0, small: float = 0) -> Round:
    """Have a producer of its own load the files, and others beside it, each so many seconds."""
    say("a load, and others beside it" if person else "a load alone")
    command = [sys.executable, "-m", "worker.cli", "add", str(stack.folder / "files"), "--tenant", tenant]
    seal_everything(resources())  # each begins with an empty open segment, or one would wait for a seal more
    _until(stack, SEALED)
    over = threading.Event()
    with Watch() as watch, ThreadPoolExecutor(AT_ONCE) as pool:
        persons = pool.submit(_each, person, _person, pool, over)
        smalls = pool.submit(_each, small, _small, pool, over)
        try:
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
            _until(stack, SETTLED.format(tenant=tenant))
        finally:
            over.set()
        waited = [[future.result() for future in futures.result()] for futures in (persons, smalls)]
    return Round(float(stack.ask(TAKEN.format(tenant=tenant))), waited[0], waited[1], watch.others)


def _until(stack: Stack, condition: str) -> None:
    limit = time.monotonic() + LOAD_SECONDS
    while not stack.ask(condition):
        if time.monotonic() > limit:
            raise RuntimeError(f"within {LOAD_SECONDS} s this did not come true: {condition}")
        time.sleep(10 * POLL_SECONDS)


def _each(
    seconds: float, errand: Callable[[], float], pool: ThreadPoolExecutor, over: threading.Event
) -> list["Future[float]"]:
    """Begin an errand each so many seconds, however long the ones before take; none for 0."""
    begun = [pool.submit(errand)] if seconds else []
    while seconds and not over.wait(seconds):
        begun.append(pool.submit(errand))
    return begun


def _person() -> float:
    """Submit what a person waits for, until a search finds it; gives the seconds."""
    path = f"note {next(_numbers)}"
    note = Document.text(f"This is {path}. The ferry leaves at nine.", source_path=path)
    begun = time.perf_counter()
    receipt = submit([note], tenant="person", lane=Lane.INTERACTIVE)
    wait(receipt.document_ids, poll_seconds=POLL_SECONDS)
    while not _finds(path):
        time.sleep(POLL_SECONDS)
    return time.perf_counter() - begun


def _finds(path: str) -> bool:
    with _asking:
        return path in {hit.source_path for hit in search(f'"{path}" ferry', tenant="person").hits}


def _small() -> float:
    """Submit a few bulk documents, until all are settled; gives the seconds."""
    texts = [f"Leaflet {next(_numbers)} is about the harbour." for _ in range(SMALL_DOCUMENTS)]
    begun = time.perf_counter()
    receipt = submit([Document.text(text, source_path=text) for text in texts], tenant="small")
    wait(receipt.document_ids, poll_seconds=POLL_SECONDS)
    return time.perf_counter() - begun


def _report(report: Report, files: int, calm: Round, beside: Round, alone: Sequence[Round]) -> None:
    rows = [
        _row("a person, alone", calm.person, calm),
        _row("a person, beside the load", beside.person, beside),
        _row(f"a small tenant's {SMALL_DOCUMENTS} documents, beside the load", beside.small, beside),
    ]
    columns = ("who waits", "times", "p50 s", "p95 s", "max s", "others' load")
    report.table("from submit to searchable", columns, rows)
    loads = [
        (name, round(one.load, 1), round(files / one.load), f"{one.others:.0%}")
        for name, one in (("alone, before", alone[0]), ("beside others", beside), ("alone, after", alone[1]))
    ]
    report.table(f"a load of {files:,} documents", ("", "s", "documents/s", "others' load"), loads)
    p95, p95_alone = (float(np.quantile(one.person, 0.95)) for one in (beside, calm))
    report.demands += [
        Demand("a person's p95 beside the load, s", P95_SECONDS, p95, at_most=True),
        Demand("the same / alone", P95_TIMES, p95 / p95_alone, at_most=True),
        Demand("a small tenant's longest wait, s", SMALL_SECONDS, max(beside.small), at_most=True),
        Demand("the load's rate beside others / alone", KEPT, fmean(one.load for one in alone) / beside.load),
    ]


def _row(who: str, times: Sequence[float], one: Round) -> tuple[object, ...]:
    shown = (round(float(value), 2) for value in np.quantile(times, (0.5, 0.95, 1)))
    return (who, len(times), *shown, f"{one.others:.0%}")
