"""Delivery, crashes and shutdown, with real worker processes and a real broker."""

import json
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from pytest_celery import CeleryTestWorker, RedisTestBroker
from sqlalchemy import Connection, event, text

from tests.disk import disk_refused
from tests.workers.conftest import StartWorker, Until
from worker import Document, broker, submit
from worker.dispatch import dispatch
from worker.errors import Exit
from worker.maintenance.run import run_chore
from worker.producer import find, search, wait
from worker.resources import Resources
from worker.resources import resources as process_resources
from worker.types import Queue

Counts = Callable[[], dict[str, int]]


def texts(count: int, start: int = 0) -> list[Document]:
    return [
        Document.text(f"Document {n} tells of ship number {n}.", source_path=f"{n}.txt")
        for n in range(start, start + count)
    ]


@contextmanager
def rows_held(resources: Resources, rows: str) -> Iterator[None]:
    """Hold rows, so that whoever writes them waits where we can find it."""
    with resources.engine.connect() as connection:
        connection.execute(text(f"SELECT 1 FROM {rows} FOR UPDATE"))
        yield
        connection.rollback()


def writes_blocked(resources: Resources) -> AbstractContextManager[None]:
    """Hold the open segment, for which every worker's write waits."""
    return rows_held(resources, "segments WHERE state = 'open'")


def waiting_writers(connection: Connection) -> int:
    found = connection.execute(
        text(
            "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE '%segments%'"
        )
    )
    return int(found.scalar_one())


def test_submitted_documents_become_searchable(start: StartWorker, tmp_path: Path) -> None:
    start("ingest")
    start("search")
    file = tmp_path / "a.md"
    file.write_text("# Harbour\n\nThe lighthouse keeper counts ships at night.\n")
    receipt = submit([Document.path(file), *texts(100)], tenant="t", project="p")
    outcome = wait(receipt.document_ids, timeout_seconds=60)
    assert (outcome.completed, outcome.chunks, outcome.embedded) == (101, 101, 101)
    hit = search("who counts the ships at night?", tenant="t", project="p", k=3).hits[0]
    assert (hit.source_path, hit.number, hit.total, hit.heading_path) == (str(file), 1, 1, ("Harbour",))
    assert hit.text == file.read_text()[hit.start : hit.end]


def test_a_killed_worker_loses_nothing_and_its_documents_go_alone(
    start: StartWorker, until: Until, resources: Resources, connection: Connection, counts: Counts
) -> None:
    worker = start("ingest")
    with writes_blocked(resources):
        submit(texts(30))
        until(lambda: waiting_writers(connection) > 0)
        worker.kill("SIGKILL")
    assert counts() == {"processing": 30}
    until(lambda: run_chore(resources, "rescue").get("leases_expired"))
    assert connection.execute(text("SELECT bool_and(isolated AND attempts = 1) FROM documents")).scalar_one()
    start("ingest")
    dispatch(resources)
    until(lambda: counts() == {"completed": 30})
    assert connection.execute(text("SELECT count(*) FROM chunks")).scalar_one() == 30
    alone = connection.execute(
        text("SELECT count(*) FROM batches WHERE documents = 1 AND state = 'finished'")
    )
    assert alone.scalar_one() == 30


POISON = """
    CREATE FUNCTION poison() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        IF NEW.text = 'poison' THEN PERFORM pg_advisory_xact_lock(42); END IF; RETURN NEW; END $$;
    CREATE TRIGGER poison BEFORE INSERT ON chunks_s000001 FOR EACH ROW EXECUTE FUNCTION poison()"""


def at_the_poison(connection: Connection) -> bool:
    """Tell whether a worker is writing the document that gets its worker killed."""
    found = connection.execute(
        text("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND objid = 42 AND NOT granted")
    )
    return bool(found.scalar_one())


def test_a_document_that_kills_its_worker_is_given_up_alone(
    start: StartWorker, until: Until, resources: Resources, connection: Connection, counts: Counts
) -> None:
    connection.execute(text(POISON))
    connection.execute(text("SELECT pg_advisory_lock(42)"))
    submit([*texts(5), Document.text("poison", source_path="poison")])

    def strike(others: dict[str, int]) -> None:
        worker = start("ingest")
        until(lambda: at_the_poison(connection) and counts() == others)
        worker.kill("SIGKILL")
        until(lambda: run_chore(resources, "rescue").get("leases_expired"))

    strike({"processing": 6})
    until(lambda: run_chore(resources, "dispatch").get("outcome") == "done")
    # no neighbour is under way when it strikes again: that would be charged for its own loss
    strike({"completed": 5, "processing": 1})
    assert counts() == {"completed": 5, "failed": 1}
    poison = find(["poison"])[0]
    assert (poison.error_code, poison.attempts) == ("worker_lost", 2)


def test_flushing_the_broker_in_the_middle_loses_nothing_and_needs_no_hand(
    start: StartWorker, until: Until, resources: Resources, connection: Connection, counts: Counts
) -> None:
    start("ingest")
    start("maintenance")
    start("beat")
    with writes_blocked(resources):
        submit(texts(1000))
        until(lambda: waiting_writers(connection) > 0)
        broker.connect(resources.settings).flushall()
    until(lambda: counts() == {"completed": 1000})


def test_a_broker_that_is_away_delays_documents_and_loses_none(
    start: StartWorker, until: Until, broker_node: RedisTestBroker, counts: Counts
) -> None:
    start("ingest")
    start("maintenance")
    start("beat")
    submit(texts(50))
    until(lambda: counts() == {"completed": 50})
    broker_node.kill("SIGKILL")
    submit(texts(50, start=50))
    assert counts() == {"completed": 50, "pending": 50}
    broker_node.restart()
    until(lambda: counts() == {"completed": 100})


def test_a_broker_that_is_full_ends_no_worker(
    start: StartWorker, until: Until, resources: Resources, counts: Counts
) -> None:
    workers = [start("ingest"), start("maintenance")]
    start("beat")
    client = broker.connect(resources.settings)
    client.config_set("maxmemory", 1)
    submit(texts(50))
    # connecting anew, a worker writes: which queue it means, and that it looks for what others left
    client.client_kill_filter(_type="normal", skipme=True)
    until(lambda: all(worker.logs().count("takes no writes") > 1 for worker in workers))
    client.config_set("maxmemory", 0)
    until(lambda: counts() == {"completed": 50})
    assert [worker.container.process.poll() for worker in workers] == [None, None]


def test_a_broker_whose_disk_is_full_ends_no_worker(
    start: StartWorker, until: Until, resources: Resources, counts: Counts
) -> None:
    nodes = [start(kind) for kind in ("ingest", "maintenance", "search", "beat")]
    workers = nodes[:-1]
    client = broker.connect(resources.settings)
    with disk_refused(client):
        submit(texts(50))
        client.client_kill_filter(_type="normal", skipme=True)
        client.client_kill_filter(_type="pubsub", skipme=True)
        until(lambda: all(worker.logs().count("takes no writes") > 1 for worker in workers))
    until(lambda: counts() == {"completed": 50})
    assert search("text") is not None
    assert [node.container.process.poll() for node in nodes] == [None] * len(nodes)


def test_a_process_that_is_killed_as_its_worker_begins_does_not_end_it(
    start: StartWorker, until: Until, resources: Resources, counts: Counts
) -> None:
    worker = start("ingest", module="tests.workers.struck")
    submit(texts(50))
    until(lambda: run_chore(resources, "dispatch").get("outcome") == "done")
    until(lambda: counts() == {"completed": 50})
    assert "(SIGKILL)" in worker.logs()
    assert worker.container.process.poll() is None


def message(**headers: Any) -> str:
    """Write what Celery sends, with these headers."""
    return json.dumps(
        {
            "body": "W1tdLCB7fSwge31d",  # [[], {}, {}]
            "content-type": "application/json",
            "content-encoding": "utf-8",
            "headers": {"id": "x", "task": "ingest.batch", **headers},
            "properties": {
                "delivery_tag": str(uuid4()),
                "body_encoding": "base64",
                "delivery_info": {"exchange": "", "routing_key": "ingest"},
            },
        }
    )


NO_MESSAGES = [
    "words", "\xff", "[]", "{}", '{"properties": {}}', "[" * 100_000,
    message(task=[]), message(timelimit=["a", "b"]),
    message().replace('"body_encoding": "base64"', '"body_encoding": "klingon"'),
]  # fmt: skip


def test_what_is_no_message_of_ours_is_dropped_and_ends_no_worker(
    start: StartWorker, until: Until, resources: Resources, counts: Counts
) -> None:
    worker = start("ingest")
    client = broker.connect(resources.settings)
    client.lpush(Queue.INGEST.value, *NO_MESSAGES)
    submit(texts(5))
    until(lambda: counts() == {"completed": 5})
    assert worker.container.process.poll() is None
    assert worker.logs().count("message.dropped") == len(NO_MESSAGES)
    until(lambda: client.hlen("unacked") == 0)


def to_the_worker(node: CeleryTestWorker) -> None:
    node.kill(signal.SIGTERM)


def to_its_group(node: CeleryTestWorker) -> None:
    os.killpg(node.container.process.pid, signal.SIGTERM)


def as_ctrl_c(node: CeleryTestWorker) -> None:
    os.killpg(node.container.process.pid, signal.SIGINT)


@pytest.mark.parametrize("stop", [to_the_worker, to_its_group, as_ctrl_c])
def test_a_stopping_worker_hands_back_what_it_has_not_done(
    start: StartWorker,
    until: Until,
    resources: Resources,
    connection: Connection,
    counts: Counts,
    stop: Callable[[CeleryTestWorker], None],
) -> None:
    worker = start("ingest")
    with writes_blocked(resources):
        submit(texts(200))
        until(lambda: waiting_writers(connection) > 0)
        stop(worker)
    until(lambda: worker.container.process.poll() is not None)
    assert worker.container.process.returncode == 0
    until(lambda: "processing" not in counts())
    assert (
        connection.execute(
            text("SELECT count(*) FROM documents WHERE status = 'pending' AND attempts > 0")
        ).scalar_one()
        == 0
    )
    assert connection.execute(text("SELECT count(*) FROM heartbeats")).scalar_one() == 0


def test_a_cold_shutdown_in_the_middle_ends_the_worker_and_loses_nothing(
    start: StartWorker, until: Until, resources: Resources, connection: Connection, counts: Counts
) -> None:
    worker = start("ingest")
    with writes_blocked(resources):
        submit(texts(30))
        until(lambda: waiting_writers(connection) > 0)
        worker.kill(signal.SIGQUIT)
        until(lambda: worker.container.process.poll() is not None)
    until(lambda: run_chore(resources, "rescue")["outcome"] == "done" and counts() == {"pending": 30})
    start("ingest")
    dispatch(resources)
    until(lambda: counts() == {"completed": 30})


def test_many_documents_put_few_messages_into_the_broker(resources: Resources, counts: Counts) -> None:
    statements: list[str] = []
    engine = process_resources().engine
    event.listen(engine, "before_cursor_execute", lambda *args: statements.append(args[2]))
    receipt = submit(texts(50_000))
    assert len(receipt.new) == 50_000
    assert len(statements) < 300
    assert counts() == {"pending": 50_000}
    client = broker.connect(resources.settings)
    assert 1 <= broker.queue_length(client, Queue.INGEST) <= 2
    assert broker.queue_length(client, Queue.INTERACTIVE) == 0


def test_a_worker_that_cannot_go_on_ends_with_a_code_of_its_own(
    start: StartWorker, until: Until, resources: Resources
) -> None:
    client = broker.connect(resources.settings)
    client.acl_setuser(
        "half", enabled=True, passwords=["+half"], keys=["*"], channels=["*"], commands=["+@all", "-brpop"]
    )
    host = resources.settings.broker_url.get_secret_value().rpartition("@")[2]
    worker = start("ingest", BROKER_URL=f"redis://half:half@{host}")
    until(lambda: worker.container.process.poll() is not None)
    assert worker.container.process.returncode == Exit.STACK
    assert worker.logs().splitlines()[-1].startswith("error: the worker could not go on → ")
