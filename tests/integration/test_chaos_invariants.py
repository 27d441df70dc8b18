"""Each invariant of the chaos run tells what harms it, and its comparison what differs."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import psycopg2
import pytest
from sqlalchemy import Connection, Engine, text

from benchmarks.chaos.compare import difference, holdings
from benchmarks.chaos.invariants import (
    ABANDONED,
    ATTEMPTS,
    LEASES,
    MOST_ATTEMPTS,
    OPEN,
    OWNERS,
    SETS,
    TRIGGERS,
    Invariants,
)
from benchmarks.chaos.run import goes_on, work_off
from benchmarks.chaos.script import PROJECTS, TENANT
from benchmarks.chaos.servers import Servers, connected
from worker import Document, submit
from worker.db import batches, changes, deletions, documents
from worker.db.engine import transaction
from worker.db.submissions import Scope
from worker.maintenance.run import run_chore
from worker.resources import Resources
from worker.settings import Settings
from worker.types import Lane

Drain = Callable[[], dict[str, int]]
Leases = tuple[batches.Lease, batches.Lease]


@pytest.fixture(autouse=True)
def _watched(connection: Connection) -> None:
    connection.execute(text(TRIGGERS))


def count(connection: Connection, question: str) -> int:
    return int(connection.execute(text(question)).scalar_one())


def submitted(**where: str) -> None:
    texts = {"a.txt": "calm seas", "b.txt": "a storm"}
    submit([Document.text(content, source_path=path) for path, content in texts.items()], **where)


A, B = (f"(SELECT document_id FROM documents WHERE source_path = '{path}')" for path in ("a.txt", "b.txt"))
A_HASH_FOR_ALL = (
    f"UPDATE documents SET content_hash = (SELECT content_hash FROM documents WHERE document_id = {A})"
)
SETTLED = "UPDATE documents SET status = 'completed', settled_at = now(), batch_id = NULL"
BACK_IN_A_BATCH = (
    "UPDATE documents SET status = 'processing', settled_at = NULL, batch_id = (SELECT batch_id FROM batches)"
)


@pytest.mark.parametrize(
    ("question", "harm"),
    [
        (SETS, "DELETE FROM chunks WHERE text = 'calm seas'"),
        (SETS, f"UPDATE chunks SET chunk_index = 7, document_id = {B} WHERE text = 'calm seas'"),
        (SETS, f"UPDATE documents SET deleted_at = now() WHERE document_id = {A}"),
        (OWNERS, f"DROP INDEX documents_owner_key; {A_HASH_FOR_ALL}"),
        (ATTEMPTS, "UPDATE documents SET attempts = 21; UPDATE documents SET attempts = 0"),
        (ABANDONED, "UPDATE batches SET state = 'abandoned'"),
        (LEASES, f"{BACK_IN_A_BATCH}; {SETTLED}"),
    ],
)
def test_what_harms_an_invariant_is_found(
    drain: Drain, connection: Connection, question: str, harm: str
) -> None:
    submitted()
    assert drain() == {"completed": 2}
    assert count(connection, question) == 0
    for statement in harm.split(";"):
        connection.execute(text(statement))
    assert count(connection, question) > 0


def test_attempts_are_known_though_an_outcome_sets_them_back(drain: Drain, connection: Connection) -> None:
    submitted()
    connection.execute(text("UPDATE documents SET attempts = 3"))
    drain()
    assert count(connection, "SELECT max(attempts) FROM documents") == 0
    assert count(connection, MOST_ATTEMPTS) == 4


def test_a_transaction_left_open_is_found(connection: Connection, other: Connection) -> None:
    def left_open(seconds: int) -> int:
        return int(connection.exec_driver_sql(OPEN, (seconds,)).scalar_one())

    assert left_open(0) == 0
    other.execute(text("SELECT 1"))
    assert (left_open(0), left_open(60)) == (1, 0)


def test_an_index_left_invalid_is_found(settings: Settings, connection: Connection, drain: Drain) -> None:
    submitted()
    drain()
    patient, impatient = Invariants(), Invariants(invalid_seconds=0)
    with closing(connected(settings.database_url)) as session, session.cursor() as cursor:
        impatient.look_at_indexes(session)
        assert not +impatient.violated
        with pytest.raises(psycopg2.errors.UniqueViolation):
            cursor.execute("CREATE UNIQUE INDEX CONCURRENTLY half_built ON documents (status)")
        impatient.look_at_indexes(session)
        patient.look_at_indexes(session)
        assert (+impatient.violated, +patient.violated) == ({"an index left invalid": 1}, {})


# The lease


@pytest.fixture
def leases(resources: Resources) -> Leases:
    """Two workers, each with a batch of one document: a.txt and b.txt."""
    submitted()
    return (lease(resources.engine, "a.txt"), lease(resources.engine, "b.txt"))


def lease(engine: Engine, path: str) -> batches.Lease:
    with transaction(engine) as connection:
        found = connection.execute(
            text("SELECT tenant_id, document_id FROM documents WHERE source_path = :path"), {"path": path}
        ).one()
        batch_id = batches.record(connection, Lane.BULK, found.tenant_id, [found.document_id])
    with transaction(engine) as connection:
        taken = batches.claim(connection, batch_id, f"worker of {path}", 60)
        documents.start(connection, batch_id)
    assert taken is not None
    return taken


SKIPPED = "status = 'skipped', settled_at = now(), error_code = 'empty', error_message = 'is empty'"
WRITES = {
    "skipped": SKIPPED,
    "failed": "status = 'failed', settled_at = now(), error_code = 'broken', error_message = 'is broken'",
    "lost": "status = 'failed', settled_at = now(), error_code = 'worker_lost', error_message = 'is lost'",
    "put off": "status = 'pending', next_attempt_at = now(), queued_at = now()",
    "handed back": "status = 'pending', attempts = attempts - 1",
}


@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES)
def test_a_worker_may_write_what_it_holds_and_not_what_another_holds(
    resources: Resources, connection: Connection, leases: Leases, write: str
) -> None:
    mine, anothers = leases
    for held, violations in ((mine, 0), (anothers, 1)):
        with resources.engine.connect() as session:
            batches.fence(session, held)
            session.execute(text(f"UPDATE documents SET {write}, batch_id = NULL WHERE document_id = {A}"))
            assert count(session, LEASES) == violations
            session.rollback()


def test_who_ends_a_batch_may_write_what_it_has(resources: Resources, leases: Leases) -> None:
    for number, held in enumerate(leases):
        with resources.engine.begin() as session:
            batches.finish(session, leases[0], batches.Done())
            batches.hand_back(session, held.batch_id)
            assert count(session, LEASES) == number
            session.rollback()


def test_rescue_and_those_who_take_a_document_from_its_worker_need_no_lease(
    resources: Resources, connection: Connection, leases: Leases
) -> None:
    mine, anothers = leases
    scope = Scope(mine.tenant_id, None)
    with transaction(resources.engine) as session:
        a, b = session.execute(text(f"VALUES ({A}, {B})")).one()
        assert len(changes.cancel(session, scope, [a])) == 1
        assert batches.cancel(session, anothers.batch_id, requeue=True) == (1, ())
    lease(resources.engine, "b.txt")
    with transaction(resources.engine) as session:
        deletions.delete(session, scope, [b])
        assert deletions.restore(session, scope, b)
    lease(resources.engine, "b.txt")
    connection.execute(text("UPDATE batches SET lease_expires_at = now() WHERE state = 'running'"))
    assert run_chore(resources, "rescue")["documents_retried"] == 1
    assert count(connection, LEASES) == 0


# The comparison

DIFFERENCES = (
    "UPDATE documents SET filename = 'other.txt'",
    "UPDATE documents SET size_bytes = size_bytes + 1",
    "UPDATE documents SET file_type = 'markdown'",
    "UPDATE documents SET language = 'german'",
    """UPDATE documents SET metadata = '{"of": "another"}'""",
    """UPDATE documents SET cleaned = '{"nul": 1}'""",
    "UPDATE documents SET content = 'other'",
    "UPDATE documents SET content_hash = sha256(content_hash)",
    "UPDATE documents SET total_chunks = total_chunks + 1",
    "UPDATE chunks SET text = 'rough seas'",
    "UPDATE chunks SET char_length = char_length + 1",
    "UPDATE chunks SET heading_path = '{Weather}'",
    "UPDATE chunks SET language = 'german'",
    """UPDATE chunks SET metadata = '{"of": "another"}'""",
    "UPDATE chunks SET embedding = embedding + embedding",
)


def test_the_comparison_sees_each_part_of_a_document_and_of_a_chunk(
    settings: Settings, connection: Connection, drain: Drain, tmp_path: Path
) -> None:
    submitted(tenant=TENANT, project=PROJECTS[0])
    drain()
    servers = Servers(tmp_path)  # not started: it asks the database of the settings
    found = holdings(servers)
    assert (len(found.documents), found.chunks) == (2, 2)
    for statement in DIFFERENCES:
        connection.execute(text(f"{statement} WHERE document_id = {A}"))
        before, found = found, holdings(servers)
        assert difference(found, before).total > 0, statement


def test_dropped_content_is_still_the_same(
    settings: Settings, connection: Connection, drain: Drain, tmp_path: Path
) -> None:
    submitted(tenant=TENANT, project=PROJECTS[0])
    drain()
    before = holdings(Servers(tmp_path))
    connection.execute(text("UPDATE documents SET content = NULL, content_digest = sha256(content)"))
    assert difference(holdings(Servers(tmp_path)), before).total == 0


# The wait for the end


def test_a_backlog_is_waited_for_while_documents_are_settled(
    settings: Settings, connection: Connection, tmp_path: Path
) -> None:
    submitted()
    servers = Servers(tmp_path)
    work_off(servers, 0)  # nothing works: it gives up
    settled = text(
        f"UPDATE documents SET {SKIPPED}, batch_id = NULL, claimed_version = 1 WHERE document_id = {A}"
    )
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(goes_on, servers, 20)
        while not waiting.done():
            connection.execute(settled)
        assert waiting.result()
    assert count(connection, "SELECT count(*) FROM documents WHERE status = 'pending'") == 1
