"""What a worker's main process tells the database."""

from sqlalchemy import Connection, text
from tenacity import Retrying, stop_after_delay, wait_fixed

from worker import Document, submit
from worker.db import batches
from worker.db.engine import transaction
from worker.dispatch import dispatch
from worker.lease import Heartbeat
from worker.lifecycle import Heart
from worker.resources import Resources


def wait_for_note(connection: Connection, cause: str) -> None:
    for attempt in Retrying(stop=stop_after_delay(30), wait=wait_fixed(0.02), reraise=True):
        with attempt:
            assert connection.execute(text("SELECT trouble FROM batches")).scalar_one() == cause


def claimed(resources: Resources, connection: Connection) -> batches.Lease:
    """Submit a document, and claim its batch."""
    submit([Document.text("words", source_path="words")])
    dispatch(resources)
    batch_id = connection.execute(text("SELECT batch_id FROM batches")).scalar_one()
    with transaction(resources.engine) as claiming:
        lease = batches.claim(claiming, batch_id, "doomed", 90)
    assert lease is not None
    return lease


def test_a_lease_is_renewed_after_a_document_left_no_memory(
    resources: Resources, connection: Connection
) -> None:
    troubles = iter([MemoryError()])

    def trouble() -> str:
        if error := next(troubles, None):
            raise error
        return "there is some again"

    with Heartbeat(resources.engine, claimed(resources, connection), resources.settings, trouble):
        wait_for_note(connection, "there is some again")


def test_what_ended_a_process_is_noted_until_its_batch_is_over(
    resources: Resources, connection: Connection
) -> None:
    lease = claimed(resources, connection)
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
