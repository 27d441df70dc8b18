"""A message that its worker took and never acknowledged: the broker's side gives it to another worker."""

import json
from collections.abc import Callable
from typing import Any

from sqlalchemy import Connection

from tests.workers.conftest import StartWorker, Until
from tests.workers.test_delivery import rows_held, texts
from tests.workers.test_poison import MODEL, number
from worker import broker, submit
from worker.resources import Resources
from worker.types import Queue

Counts = Callable[[], dict[str, int]]
DOCUMENTS = 5
VISIBILITY_SECONDS = 8
LIMITS = {
    "TASK_SOFT_TIME_LIMIT": "3",
    "TASK_TIME_LIMIT": "4",
    "VISIBILITY_TIMEOUT": str(VISIBILITY_SECONDS),
}


def waiting_claims(connection: Connection) -> int:
    waiting = "wait_event_type = 'Lock' AND query LIKE '%UPDATE batches%'"
    return number(connection, f"SELECT count(*) FROM pg_stat_activity WHERE {waiting}")


def test_a_message_whose_worker_is_killed_comes_to_another_and_is_done_once(
    start: StartWorker,
    until: Until,
    resources: Resources,
    connection: Connection,
    counts: Counts,
    embedded: Callable[..., int],
) -> None:
    client: Any = broker.connect(resources.settings)
    submit(texts(DOCUMENTS))
    assert broker.queue_length(client, Queue.INGEST) == 1
    with rows_held(resources, "batches"):  # who took a message waits before it has claimed anything
        holder = start("ingest", module=MODEL, **LIMITS)
        until(lambda: waiting_claims(connection) == 1)
        holder.kill("SIGKILL")
    # nobody but the broker knows of it now: no lease that could run out, no beat that would publish it again
    assert counts() == {"pending": DOCUMENTS}
    assert broker.queue_length(client, Queue.INGEST) == 0
    [(tag, taken)] = client.zrange("unacked_index", 0, -1, withscores=True)
    [message, *_] = json.loads(client.hget("unacked", tag))
    until(lambda: client.time()[0] > taken + VISIBILITY_SECONDS)
    assert client.hkeys("unacked") == [tag]

    other = start("ingest", module=MODEL, **LIMITS)
    until(lambda: counts() == {"completed": DOCUMENTS})
    until(lambda: client.hlen("unacked") == client.zcard("unacked_index") == 0)
    assert broker.queue_length(client, Queue.INGEST) == 0
    assert message["headers"]["id"] in other.logs()
    assert number(connection, "SELECT count(*) FROM batches") == 1
    assert number(connection, "SELECT publications FROM batches WHERE state = 'finished'") == 1
    assert number(connection, "SELECT sum(settled) FROM batches") == DOCUMENTS
    assert number(connection, "SELECT count(*) FROM chunks") == embedded() == DOCUMENTS
