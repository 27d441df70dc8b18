"""All hostile files at once through real processes: `ingest add`, and a worker that is not root.

What the command passes over a producer names after that, by `Document.path`, as nothing keeps it from.
What became of each is compared with the manifest.
"""

import json
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
from sqlalchemy import Row, text
from tenacity import Retrying, stop_after_delay, wait_fixed

from benchmarks.memory import Peaks
from tests.hostile import files
from tests.hostile.files import MEBIBYTE
from tests.hostile.manifest import CASES, DEVICE, NASTY, PASSED_OVER, Case, Expected, completed
from worker.cli.waiting import live_slots
from worker.embedded.account import Account, account_for, let_read, let_through
from worker.embedded.process import death_wish
from worker.producer import Document, submit, wait
from worker.resources import resources
from worker.settings import Settings, child_environment
from worker.sources import local_path

ROOT = Path(__file__).parents[2]
CORPORA = os.environ.get("CORPORA", "")
NEIGHBOURS = 50
START_SECONDS, ADD_SECONDS = 60, 1200
# Of the model's tokens: a slice of emoji has half a million; of the other documents of a batch; and of what
# the allocator keeps.
BESIDE_BYTES = 160 << 20
FOUND = """SELECT d.source_path, coalesce(o.status, d.status) AS status, d.error_code, d.cleaned,
    d.duplicate_of IS NOT NULL AS twin
    FROM documents d JOIN tenants t ON t.tenant_id = d.tenant_id
    LEFT JOIN documents o ON o.document_id = d.duplicate_of WHERE t.name = :tenant"""
NAMED = "named"


@dataclass(slots=True)
class Found:
    """What a run came to. `wrong` says where it is not as the manifest has it, a line a file."""

    outcomes: Mapping[str, Expected] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    twins: int = 0
    answer: Mapping[str, Any] = field(default_factory=dict)
    idle_mib: float = 0
    peak_mib: float = 0


def run(folder: Path, scale: float) -> Found:
    """Make the files below a folder, have them ingested beside their neighbours, and compare.

    MAX_DOCUMENT_BYTES must be 64 MiB times the scale.
    """
    below = folder / "files"
    (folder / "away.txt").write_text("not for you")
    files.neighbours(folder / "files", NEIGHBOURS)
    expected = {str(case.put(below, scale)): case.expected for case in CASES}
    expected |= {str(path): completed() for path in below.glob("*.md") if str(path) not in expected}
    named = {str(case.path(below)): case.named for case in CASES if case.named}
    roots = os.pathsep.join(map(str, (below, DEVICE, *_nasty())))
    with _worker(folder, roots) as parent:
        wait(submit([Document.text("A line to load the model with.", source_path="first")]).document_ids)
        with Peaks(parent).watching() as idle:
            pass
        with Peaks(parent).watching() as peaks:
            answer = _add(folder, roots, below, *_nasty())
            receipt = submit(map(Document.path, named), tenant=NAMED)
            wait(receipt.document_ids, timeout_seconds=START_SECONDS)
    for path in _nasty():
        expected |= {
            str(file): NASTY.get(str(file.relative_to(path)), completed()) for file in files.below(path)
        }
    found = _compared(expected, answer, idle.highest, peaks.highest)
    found.wrong += _wrong(named, _outcomes(_rows(NAMED)))
    return found


def _nasty() -> list[Path]:
    return [Path(CORPORA, "nasty")] if CORPORA else []


@contextmanager
def _worker(folder: Path, roots: str) -> Iterator[psutil.Process]:
    """Run an ingest worker; for root as an account without rights, which permissions bind."""
    mine = folder / "worker"
    mine.mkdir()
    account = account_for(folder)
    if account:
        _let_work(account, mine)
    with (folder / "worker.log").open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "worker.cli", "worker", "ingest"],
            cwd=mine,
            env=child_environment(DATA_DIR=str(mine), ALLOWED_ROOTS=roots),
            stdout=log,
            stderr=log,
            start_new_session=True,
            preexec_fn=death_wish(signal.SIGKILL),  # noqa: PLW1509 -- one system call, bound early
            **(account.popen_options if account else {}),
        )
    try:
        _await(process)
        yield psutil.Process(process.pid)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _let_work(account: Account, folder: Path) -> None:
    account.own(folder)
    let_through(folder, account)
    for installed in (ROOT / "worker", Path(sys.prefix), Path(sys.executable).resolve()):
        let_read(installed, account)


def _await(process: "subprocess.Popen[bytes]") -> None:
    for attempt in Retrying(stop=stop_after_delay(START_SECONDS), wait=wait_fixed(0.1), reraise=True):
        with attempt:
            assert process.poll() is not None or live_slots("ingest"), "the worker does not start"
    assert process.poll() is None, "the worker ended"


def _add(folder: Path, roots: str, *paths: Path) -> Any:
    done = subprocess.run(
        [sys.executable, "-m", "worker.cli", "add", *map(str, paths), "--wait", "--json"],
        cwd=folder,
        env=child_environment(ALLOWED_ROOTS=roots),
        capture_output=True,
        timeout=ADD_SECONDS,
        check=False,
    )
    assert b"Traceback" not in done.stderr, done.stderr.decode()
    assert done.returncode == 1, done.stderr.decode()  # some documents failed
    return json.loads(done.stdout)


def _compared(expected: Mapping[str, Expected], answer: Mapping[str, Any], idle: float, peak: float) -> Found:
    rows = _rows("default")
    outcomes = _outcomes(rows)
    outcomes.pop("first")
    return Found(
        outcomes=outcomes,
        wrong=_wrong(expected, outcomes),
        counts=Counter(outcome.status for outcome in outcomes.values()),
        twins=sum(row.twin for row in rows),
        answer=answer,
        idle_mib=idle,
        peak_mib=peak,
    )


def _rows(tenant: str) -> Sequence[Row[Any]]:
    return resources().transact(lambda connection: connection.execute(text(FOUND), {"tenant": tenant}).all())


def _outcomes(rows: Sequence[Row[Any]]) -> dict[str, Expected]:
    return {
        str(local_path(row.source_path)): Expected(row.status, row.error_code, row.cleaned) for row in rows
    }


def _wrong(expected: Mapping[str, Expected], outcomes: Mapping[str, Expected]) -> list[str]:
    """Say, a line a file, what is not as it is meant to be."""
    ended = {
        path: (expected.get(path), outcomes.get(path, Expected(PASSED_OVER)))
        for path in expected.keys() | outcomes.keys()
    }
    return [f"{path!r}: {is_now}, not {meant}" for path, (meant, is_now) in ended.items() if meant != is_now]


def bound_mib(settings: Settings) -> float:
    """Give what a process of the worker may have at most, above what it has when it is idle.

    One document is decoded and cut at a time, within MAX_DOCUMENT_MEMORY_BYTES; its bytes are there before,
    its rows after that, within WRITE_BUFFER_BYTES.
    """
    document = settings.max_document_memory_bytes + settings.max_document_bytes
    return (document + settings.write_buffer_bytes + BESIDE_BYTES) / MEBIBYTE


def outcome_of(found: Found, case: Case, folder: Path) -> Expected:
    """Give what became of a case's file."""
    return found.outcomes.get(str(case.path(folder / "files")), Expected(PASSED_OVER))
