"""What the threads of a worker tell the database beside its work."""

from itertools import count

import pytest
from sqlalchemy import Connection, text
from tenacity import Retrying, stop_after_delay, wait_fixed

from worker import Document, submit
from worker.db import batches
from worker.db.batches import Lease
from worker.db.engine import transaction
from worker.dispatch import dispatch
from worker.lease import Heartbeat
from worker.lifecycle import Heart
from worker.resources import Resources


def wait_for_note(connection: Connection, cause: str) -> None:
    for attempt in Retrying(stop=stop_after_delay(30), wait=wait_fixed(0.02), reraise=True):
        with attempt:
            assert connection.execute(text("SELECT trouble FROM batches")).scalar_one() == cause


@pytest.fixture
def lease(resources: Resources, connection: Connection) -> Lease:
    """That of a batch of one document, held by the worker `doomed`."""
    submit([Document.text("poison", source_path="poison")])
    dispatch(resources)
    batch_id = connection.execute(text("SELECT batch_id FROM batches")).scalar_one()
    with transaction(resources.engine) as claiming:
        lease = batches.claim(claiming, batch_id, "doomed", 90)
    assert lease is not None
    return lease


def test_a_renewal_that_finds_no_memory_is_not_the_last(
    resources: Resources, connection: Connection, lease: Lease
) -> None:
    tries = count()

    def trouble() -> str:
        if next(tries) == 0:
            raise MemoryError
        return "no answer"

    with Heartbeat(resources.engine, lease, resources.settings, trouble):
        wait_for_note(connection, "no answer")


def test_what_ended_a_process_is_noted_until_its_batch_is_over(
    resources: Resources, connection: Connection, lease: Lease
) -> None:
    heart = Heart("doomed", "ingest", 1)
    heart.start()
    try:
        heart.tell(lease.batch_id, "killed after TASK_TIME_LIMIT")
        wait_for_note(connection, "killed after TASK_TIME_LIMIT")
        with transaction(resources.engine) as renewing:
            batches.renew(renewing, lease, 0, None, 90)
        wait_for_note(connection, "killed after TASK_TIME_LIMIT")
    finally:
        heart.stop()
