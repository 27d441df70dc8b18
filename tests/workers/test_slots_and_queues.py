"""What stays bounded: 24 slots on one database, and everybody beside 100,000 messages that nobody needs."""

import json
from base64 import b64encode
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from uuid import uuid4

import psutil
import pytest
from redis import Redis
from sqlalchemy import Connection, event, text

from tests.conftest import Run
from tests.workers.conftest import StartWorker, Until
from tests.workers.test_counting import shown
from tests.workers.test_delivery import texts, waiting_writers, writes_blocked
from worker import broker, submit
from worker.cli.watching import Watcher
from worker.dispatch import dispatch, republish
from worker.metricfiles import folder_of
from worker.monitoring.exposition import StateCollector
from worker.producer import wait
from worker.resources import Resources
from worker.resources import resources as process_resources
from worker.settings import Settings, read_settings
from worker.tasks import ingest_batch_task
from worker.types import Queue

NODES, SLOTS_OF_A_NODE, DOCUMENTS = 4, 6, 480
SLOTS = NODES * SLOTS_OF_A_NODE
# the fewest connections that a slot can work with: one writes, one renews the lease
POOL = 2
NODE = {
    "INGEST_CONCURRENCY": str(SLOTS_OF_A_NODE),
    "DATABASE_POOL_SIZE": str(POOL),
    "DATABASE_MAX_OVERFLOW": "0",
}
STALE, AT_ONCE, A_PART = 100_000, 1_000, 200
DISTINCT = 2_000  # of those: each of a batch of its own, and taken first
# Of 100,000 messages of more than a kilobyte each: what one look may take.
LOOK_COMMANDS, LOOK_BYTES = 40, 100_000
# A message: taken, noted as taken, acknowledged; and events of it, which Flower hears.
MESSAGE_COMMANDS, MESSAGES_HELD, GROWTH_BYTES = 15, 12, 32 << 20
MESSAGE_BYTES, KEYS = 1_500, 15  # in Redis: of a message that waits; of all that may stay beside the queue

Counts = Callable[[], dict[str, int]]


def number(connection: Connection, statement: str) -> int:
    return int(connection.execute(text(statement)).scalar_one())


def completed(data_dir: Path) -> float:
    """The documents that the processes of a folder have counted as completed."""
    folder = folder_of(read_settings(data_dir=data_dir))
    return shown(folder)["ingest_documents_processed_total"]["completed",]


# -- 24 slots -------------------------------------------------------------------------------------


@pytest.fixture
def environment(environment: dict[str, str]) -> dict[str, str]:
    return environment | {"BATCH_DOCUMENTS": "10", "EMBEDDING_PROVIDER": "none"}


def test_24_slots_of_4_nodes_stay_within_their_connections_and_do_each_document_once(
    start: StartWorker,
    until: Until,
    resources: Resources,
    connection: Connection,
    counts: Counts,
    tmp_path: Path,
) -> None:
    ours = "datname = current_database() AND application_name LIKE 'ingest%'"
    connections = f"SELECT count(*) FROM pg_stat_activity WHERE {ours}"
    producer = resources.settings.database_pool_size + resources.settings.database_max_overflow
    most = []

    def all_done() -> bool:
        most.append(number(connection, connections))
        return counts() == {"completed": DOCUMENTS}

    folders = [tmp_path / f"machine-{n}" for n in range(NODES)]
    with ThreadPoolExecutor() as together:
        list(together.map(lambda folder: start(DATA_DIR=str(folder), **NODE), folders))
    until(lambda: number(connection, "SELECT coalesce(sum(slots), 0) FROM heartbeats") == SLOTS)
    assert number(connection, "SELECT count(*) FROM heartbeats") == NODES
    with writes_blocked(resources):
        submit(texts(DOCUMENTS))
        until(lambda: waiting_writers(connection) == SLOTS)
        most.append(number(connection, connections))
    until(all_done)
    # as docs/operations/growing.md counts them; the two pools of this process are a producer's each
    assert SLOTS < max(most) <= NODES + SLOTS * POOL + 2 * producer
    assert number(connection, "SELECT sum(settled) FROM batches WHERE state = 'finished'") == DOCUMENTS
    assert number(connection, "SELECT count(*) FROM batches WHERE state <> 'finished'") == 0
    assert number(connection, "SELECT sum(documents) FROM batches") == DOCUMENTS
    assert number(connection, "SELECT count(*) FROM chunks") == DOCUMENTS
    assert number(connection, "SELECT count(DISTINCT worker) FROM batches") == NODES
    assert sum(map(completed, folders)) == DOCUMENTS


# -- 100,000 messages -----------------------------------------------------------------------------


def asked_of(client: Redis, look: Callable[[], object]) -> tuple[dict[str, int], int]:
    """The commands that a look takes, and the bytes of the answers."""
    client.config_resetstat()
    look()
    sent: Any = client.info("stats")
    calls: Any = client.info("commandstats")
    commands = {name.removeprefix("cmdstat_"): found["calls"] for name, found in calls.items()}
    return commands, sent["total_net_output_bytes"]


def of_other_batches(message: bytes, connection: Connection) -> list[str]:
    """Write what Celery sends of each of many more batches, which are done as that of a message is."""
    done = connection.execute(
        text("""
            INSERT INTO batches SELECT (jsonb_populate_record(b, fresh.part)).* FROM batches b,
                (SELECT jsonb_build_object('batch_id', gen_random_uuid()) AS part
                 FROM generate_series(1, :count)) AS fresh
            RETURNING batch_id"""),
        {"count": DISTINCT},
    )
    return [_of_batch(json.loads(message), str(batch_id)) for batch_id in done.scalars()]


def _of_batch(message: dict[str, Any], batch_id: str) -> str:
    body = b64encode(json.dumps([[batch_id], {}, {}]).encode()).decode()
    headers = message["headers"] | {"id": str(uuid4()), "argsrepr": f"({batch_id})"}
    properties = message["properties"] | {"delivery_tag": str(uuid4()), "correlation_id": headers["id"]}
    return json.dumps(message | {"body": body, "headers": headers, "properties": properties})


def test_a_message_of_a_batch_that_is_done_takes_one_statement(resources: Resources) -> None:
    statements: list[str] = []
    engine = process_resources().engine
    submit(texts(3))  # there is something that could be dispatched
    event.listen(engine, "before_cursor_execute", lambda *args: statements.append(args[2]))
    ingest_batch_task.apply([str(uuid4())]).get()
    limits, claim = statements
    assert limits.startswith("SET LOCAL")
    assert "UPDATE batches" in claim


def test_beside_a_long_queue_nobody_reads_it_and_a_worker_comes_to_its_end(
    settings: Settings,
    resources: Resources,
    connection: Connection,
    drain: Counts,
    ingest: Run,
    start: StartWorker,
    until: Until,
) -> None:
    client = broker.connect(settings)
    submit(texts(1))
    message: Any = client.lpop(Queue.INGEST.value)
    assert drain() == {"completed": 1}
    client.lpush(Queue.INGEST.value, *of_other_batches(message, connection))
    for _ in range((STALE - DISTINCT) // AT_ONCE):
        client.lpush(Queue.INGEST.value, *[message] * AT_ONCE)
    held: Any = client.memory_usage(Queue.INGEST.value, samples=0)
    assert held < STALE * MESSAGE_BYTES
    looks: dict[str, Callable[[], object]] = {
        "scrape": lambda: list(StateCollector(settings).collect()),
        "watch": Watcher(settings, 1).look,
        "dispatch": lambda: dispatch(resources),
        "republish": lambda: republish(resources),
        "status": lambda: ingest("status"),
        "doctor": lambda: ingest("doctor"),
        "health": lambda: ingest("health", "live"),
    }
    for name, look in looks.items():
        commands, size = asked_of(client, look)
        assert "lrange" not in commands, name
        assert sum(commands.values()) < LOOK_COMMANDS, (name, commands)
        assert size < LOOK_BYTES, name

    def left() -> int:
        return broker.queue_length(client, Queue.INGEST)

    assert left() == STALE
    worker = psutil.Process(start("ingest").container.process.pid)
    until(lambda: left() < STALE - A_PART)
    had, before = worker.memory_info().rss, left()
    commands, _ = asked_of(client, lambda: until(lambda: left() <= STALE - DISTINCT))
    polls = commands.pop("llen")  # ours
    assert polls
    assert sum(commands.values()) < MESSAGE_COMMANDS * (before - left())
    assert client.hlen("unacked") <= MESSAGES_HELD
    assert worker.memory_info().rss < had + GROWTH_BYTES
    until(lambda: shown(folder_of(settings))["ingest_batches_total"]["not_ours",] >= DISTINCT)
    assert client.dbsize() <= KEYS
    client.ltrim(Queue.INGEST.value, 0, A_PART)
    assert wait(submit(texts(5, start=100)).document_ids, timeout_seconds=60).completed == 5
