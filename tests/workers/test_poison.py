"""Documents that end their process, a model that is away, and workers that meet at one batch."""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import psutil
from pytest_celery import CeleryTestWorker
from sqlalchemy import Connection, text

from tests.workers.conftest import StartWorker, Until
from worker import Document, submit
from worker.cli.vitals import judge
from worker.db import batches, overview
from worker.dispatch import dispatch, publish
from worker.maintenance.run import run_chore
from worker.producer import find, retry
from worker.resources import Resources
from worker.types import Lane

Counts = Callable[[], dict[str, int]]
MODEL = "tests.workers.model"


def texts(count: int, start: int = 0) -> list[Document]:
    return [
        Document.text(f"Document {n} tells of ship number {n}.", source_path=f"{n}.txt")
        for n in range(start, start + count)
    ]


def number(connection: Connection, query: str) -> int:
    return int(connection.execute(text(query)).scalar_one() or 0)


def test_documents_that_end_their_process_fail_alone_each_with_its_cause(
    start: StartWorker, until: Until, resources: Resources, connection: Connection, counts: Counts
) -> None:
    limits = {"TASK_SOFT_TIME_LIMIT": "4", "TASK_TIME_LIMIT": "5", "VISIBILITY_TIMEOUT": "10"}
    # a lease that a busy machine does not let run out before the cause is noted
    worker = start("ingest", module=MODEL, LEASE_SECONDS="8", **limits)
    bad = ("crash", "kill", "loop", "memory", "full")
    submit([*texts(5), *(Document.text(f"{name} it", source_path=name) for name in bad)])

    def over() -> bool:
        run_chore(resources, "rescue")
        dispatch(resources)
        return counts() == {"completed": 5, "failed": 5}

    until(over)
    ended = {row.source_path: row for row in find(list(bad))}
    assert {name: (row.error_code, row.attempts) for name, row in ended.items()} == {
        "crash": ("worker_lost", 2),
        "kill": ("worker_lost", 2),
        "loop": ("worker_lost", 2),
        "memory": ("out_of_memory", 2),
        "full": ("worker_lost", 2),
    }
    assert "the last time: ended by signal 11 (SIGSEGV);" in ended["crash"].error_message
    assert "ended by signal 9 (SIGKILL), as the system does where memory" in ended["kill"].error_message
    assert "the last time: killed after TASK_TIME_LIMIT, 5 s;" in ended["loop"].error_message
    assert "the last time: its process was given no more memory;" in ended["full"].error_message
    assert worker.container.process.poll() is None
    assert retry(error_code="out_of_memory", since=ended["memory"].settled_at) == 1


def held_up(resources: Resources, connection: Connection) -> str:
    """What `ingest doctor` says of batches under way."""
    found = {one.name: one for one in judge(overview.health(connection, 60), resources.settings)}
    return found["batches"].seen


def test_a_model_that_is_away_pauses_work_and_costs_no_attempt(
    start: StartWorker,
    until: Until,
    resources: Resources,
    connection: Connection,
    counts: Counts,
    embedded: Callable[[str], int],
    tmp_path: Path,
) -> None:
    away = tmp_path / "away"
    away.touch()
    pauses = {"RETRY_BASE_SECONDS": "1", "RETRY_MAX_SECONDS": "2", "TASK_SOFT_TIME_LIMIT": "2"}
    start("ingest", module=MODEL, MODEL_AWAY=str(away), INGEST_CONCURRENCY="1", **pauses)
    submit(texts(30))
    until(lambda: "ConnectionRefusedError: nobody listens" in held_up(resources, connection))
    # as often as documents may be tried, they go back to the backlog and are claimed again
    until(lambda: number(connection, "SELECT count(*) FROM batches WHERE state = 'finished'") > 1)
    assert number(connection, "SELECT count(*) FROM batches WHERE settled > 0") == 0
    away.unlink()
    until(lambda: counts() == {"completed": 30})
    assert embedded("embedded") == 30


def test_workers_are_replaced_while_documents_keep_coming(
    start: StartWorker, until: Until, connection: Connection, counts: Counts
) -> None:
    # each process is over this at its start: it is replaced after every batch
    settings = {"PROCESS_MEMORY_BYTES": str(1 << 20)}
    worker = start("ingest", **settings)
    with documents_coming() as sent:
        for _ in range(2):
            processes = pool(worker)
            until(lambda: processes - pool(worker))  # noqa: B023 -- called within the round
            newer = start("ingest", **settings)
            worker.kill(signal.SIGTERM)
            until(lambda: worker.container.process.poll() is not None)  # noqa: B023 -- asked in this round
            assert worker.container.process.returncode == 0
            worker = newer
    until(lambda: counts() == {"completed": len(sent)})
    assert number(connection, "SELECT count(*) FROM batches WHERE state = 'abandoned'") == 0
    assert number(connection, "SELECT count(*) FROM chunks") == len(sent)
    assert number(connection, "SELECT sum(chunks_embedded) FROM documents") == len(sent)


def pool(worker: CeleryTestWorker) -> set[int]:
    return {child.pid for child in psutil.Process(worker.container.process.pid).children()}


@contextmanager
def documents_coming() -> Iterator[list[Document]]:
    """Submit some documents ten times a second; gives those that were."""
    sent: list[Document] = []
    over = threading.Event()

    def run() -> None:
        while not over.wait(0.1):
            new = texts(5, start=len(sent))
            submit(new)
            sent.extend(new)

    with ThreadPoolExecutor(1) as thread:
        coming = thread.submit(run)
        try:
            yield sent
        finally:
            over.set()
    coming.result()


def test_two_workers_at_one_batch_write_once(
    start: StartWorker,
    until: Until,
    resources: Resources,
    connection: Connection,
    counts: Counts,
    embedded: Callable[[], int],
    tmp_path: Path,
) -> None:
    held = tmp_path / "held"
    held.touch()
    first = start("ingest", module=MODEL, MODEL_HELD=str(held), INGEST_CONCURRENCY="1")
    submit(texts(10))
    until(lambda: counts() == {"processing": 10})
    second = start("ingest", module=MODEL, INGEST_CONCURRENCY="1")
    batch_id = connection.execute(text("SELECT batch_id FROM batches")).scalar_one()
    publish(Lane.BULK, batches.labelled(connection, [batch_id]))
    until(lambda: " succeeded in " in second.logs())  # it left it alone
    assert counts() == {"processing": 10}

    os.killpg(first.container.process.pid, signal.SIGSTOP)
    until(lambda: run_chore(resources, "rescue").get("leases_expired"))
    dispatch(resources)
    until(lambda: counts() == {"completed": 10})
    assert embedded() == 10
    held.unlink()
    os.killpg(first.container.process.pid, signal.SIGCONT)
    until(lambda: "batch.lost" in first.logs())
    assert number(connection, "SELECT count(*) FROM chunks") == 10
    assert number(connection, "SELECT sum(chunks_embedded) FROM documents") == 10
    assert number(connection, "SELECT sum(settled) FROM batches WHERE state = 'abandoned'") == 0
