"""Who comes when, with real workers: a person before bulk, a small tenant beside a large one; who does not.

One slot, ten documents a batch. What counts is which batch ended before which, never how long it took.
"""

from collections.abc import Callable

import pytest
from sqlalchemy import Connection, text

from tests.workers.conftest import StartWorker, Until
from worker import Document, cancel_batch, pause, resume, submit, wait
from worker.dispatch import dispatch
from worker.resources import Resources
from worker.types import Lane

Begin = Callable[[int], None]
Counts = Callable[[], dict[str, int]]

# Who writes a chunk that says so waits until the test lets go.
HOLD = """
    CREATE FUNCTION hold() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        IF NEW.text LIKE 'bulk%' THEN PERFORM pg_advisory_xact_lock_shared(77); END IF; RETURN NEW; END $$;
    CREATE TRIGGER hold BEFORE INSERT ON chunks_s000001 FOR EACH ROW EXECUTE FUNCTION hold();
    SELECT pg_advisory_lock(77)"""
LET_GO = "SELECT pg_advisory_unlock(77)"
HELD = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND objid = 77 AND NOT granted"
UNFINISHED = "SELECT count(*) FROM batches WHERE finished_at IS NULL"


@pytest.fixture
def environment(environment: dict[str, str]) -> dict[str, str]:
    return environment | {"INGEST_CONCURRENCY": "1", "BATCH_DOCUMENTS": "10"}


def texts(words: str, count: int) -> list[Document]:
    return [Document.text(f"{words} {n} tells of a ship.", source_path=f"{words} {n}") for n in range(count)]


def number(connection: Connection, statement: str) -> int:
    return int(connection.execute(text(statement)).scalar_one())


def bulk_before(connection: Connection, tenant: str) -> int:
    """Count the batches of the tenant `bulk` that ended before this tenant's last one."""
    found = connection.execute(
        text("""
            SELECT count(*) FROM batches b JOIN tenants t USING (tenant_id)
            WHERE t.name = 'bulk' AND b.finished_at < (
                SELECT max(m.finished_at) FROM batches m JOIN tenants n USING (tenant_id)
                WHERE n.name = :tenant)"""),
        {"tenant": tenant},
    )
    return int(found.scalar_one())


@pytest.fixture
def begin(start: StartWorker, until: Until, resources: Resources, connection: Connection) -> Begin:
    """Give a bulk tenant documents, and hold a worker at the first batch of them; two more are published."""

    def run(count: int) -> None:
        connection.execute(text(HOLD))
        submit(texts("bulk", count), tenant="bulk")
        start("ingest")
        until(lambda: number(connection, HELD) == 1)
        assert dispatch(resources) == 1

    return run


def test_a_person_comes_after_the_batch_that_was_begun_and_a_small_tenant_after_two_more(
    begin: Begin, connection: Connection
) -> None:
    begin(10_000)
    small = submit(texts("small", 10), tenant="small")
    person = submit(texts("person", 1), tenant="person", lane=Lane.INTERACTIVE)
    connection.execute(text(LET_GO))
    wait([*small.document_ids, *person.document_ids], timeout_seconds=60)
    assert bulk_before(connection, "person") == 1, "the one that was begun"
    assert bulk_before(connection, "small") == 3, "the one that was begun, the two that were published"
    assert number(connection, "SELECT count(*) FROM documents WHERE status = 'pending'") > 9_000


def test_with_a_worker_of_its_own_a_person_waits_for_no_bulk_batch(
    begin: Begin, start: StartWorker, connection: Connection
) -> None:
    begin(30)
    start("interactive")
    wait(submit(texts("person", 3), tenant="person", lane=Lane.INTERACTIVE).document_ids, timeout_seconds=60)
    assert number(connection, HELD) == 1, "bulk is where it was"
    assert bulk_before(connection, "person") == 0
    connection.execute(text(LET_GO))


def test_what_is_paused_under_way_finishes_and_what_is_published_comes_back(
    begin: Begin, until: Until, connection: Connection, counts: Counts
) -> None:
    begin(50)
    pause(tenant="bulk")
    connection.execute(text(LET_GO))
    until(lambda: number(connection, UNFINISHED) == 0)
    assert counts() == {"completed": 10, "pending": 40}
    assert number(connection, "SELECT count(*) FROM batches") == 3
    assert number(connection, "SELECT max(attempts) FROM documents") == 0
    resume(tenant="bulk")
    until(lambda: counts() == {"completed": 50})


def test_the_worker_of_a_cancelled_batch_writes_nothing_and_goes_on(
    start: StartWorker, until: Until, connection: Connection, other: Connection, counts: Counts
) -> None:
    other.execute(text("LOCK TABLE chunks"))  # which it reads before it embeds
    worker = start("ingest")
    submit(texts("first", 10), tenant="a")
    running = "SELECT batch_id FROM batches WHERE state = 'running'"
    [batch_id] = until(lambda: connection.execute(text(running)).scalars().all())
    submit(texts("second", 10), tenant="b")
    assert cancel_batch(batch_id) == 10
    other.rollback()
    until(lambda: counts() == {"cancelled": 10, "completed": 10})
    [lost] = [line for line in worker.logs().splitlines() if "batch.lost" in line]
    assert str(batch_id) in lost
    assert number(connection, "SELECT count(*) FROM chunks") == 10
