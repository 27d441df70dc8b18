"""The chores of the schedule, each by what it does to a real database and a real broker."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from pydantic import SecretStr
from sqlalchemy import Connection, text
from sqlalchemy.exc import ProgrammingError
from tenacity import Retrying, retry_if_result, stop_after_delay, wait_fixed

from tests.migration.catalogue import read
from worker import Document, broker, delete, submit
from worker.db import batches, documents, operations
from worker.db.batches import Lease
from worker.db.engine import transaction
from worker.db.operations import lock_chore
from worker.dispatch import dispatch, republish
from worker.maintenance.run import CHORES, run_chore
from worker.maintenance.turn import Turn
from worker.metrics import PROCESS_METRICS
from worker.provider import AWAY
from worker.resources import Resources
from worker.settings import child_environment
from worker.types import Lane, Queue, TaskName

ROOT = Path(__file__).parents[2]

Drain = Callable[[], dict[str, int]]


@pytest.fixture
def environment() -> dict[str, str]:
    return {
        "MAX_ATTEMPTS": "2",
        "REPUBLISH_SECONDS": "1",
        "RETENTION_DAYS": "30",
        "EVALUATION_RETENTION_DAYS": "60",
    }


def value(connection: Connection, statement: str, **parameters: Any) -> Any:
    return connection.execute(text(statement), parameters).scalar_one()


def values(connection: Connection, statement: str, **parameters: Any) -> list[Any]:
    return list(connection.execute(text(statement), parameters).scalars())


def tell(connection: Connection, statement: str, **parameters: Any) -> None:
    connection.execute(text(statement), parameters)


def wait_for(connection: Connection, condition: str) -> None:
    """Poll until a condition on the server holds."""
    poll = Retrying(
        retry=retry_if_result(lambda holds: not holds), stop=stop_after_delay(20), wait=wait_fixed(0.05)
    )
    poll(value, connection, f"SELECT {condition}")


def submit_texts(*names: str, same: bool = False) -> list[UUID]:
    texts = [Document.text("one text" if same else f"the text of {name}", source_path=name) for name in names]
    return list(submit(texts).new)


# every chore: lock and record


def test_every_chore_of_the_schedule_exists() -> None:
    named = {name.value.removeprefix("maintain.") for name in TaskName if name.value.startswith("maintain.")}
    assert named == CHORES.keys()


@pytest.mark.parametrize("chore", CHORES)
def test_a_chore_records_what_it_did(chore: str, resources: Resources, connection: Connection) -> None:
    result = run_chore(resources, chore)
    assert result.pop("outcome") == "done"
    row = connection.execute(text("SELECT * FROM maintenance_runs")).one()
    assert (row.chore, row.outcome, row.error_message) == (chore, "done", None)
    assert row.details == json.loads(json.dumps(result))
    assert row.finished_at >= row.started_at
    run_chore(resources, chore)
    assert value(connection, "SELECT count(*) FROM maintenance_runs WHERE outcome = 'done'") == 2


@pytest.mark.parametrize("chore", CHORES)
def test_a_chore_runs_once_at_a_time(chore: str, resources: Resources, connection: Connection) -> None:
    assert lock_chore(connection, chore)
    assert run_chore(resources, chore) == {"outcome": "locked"}
    another = next(name for name in CHORES if name != chore)
    assert run_chore(resources, another)["outcome"] == "done"
    assert values(connection, "SELECT chore FROM maintenance_runs") == [another]
    tell(connection, "SELECT pg_advisory_unlock_all()")
    assert run_chore(resources, chore)["outcome"] == "done"


@pytest.mark.parametrize("chore", CHORES)
def test_a_dry_run_changes_nothing(chore: str, resources: Resources, connection: Connection) -> None:
    submit_texts("a", "b")
    before = everything(connection)
    result = run_chore(resources, chore, dry_run=True)
    assert result.pop("outcome") == "dry run"
    assert result, "it says what there is to do"
    assert everything(connection) == before


def everything(connection: Connection) -> dict[str, Any]:
    """All rows of the tables that chores change, and when each table was last vacuumed."""
    tables = ("documents", "batches", "segments", "maintenance_runs", "heartbeats", "evaluation_runs")
    rows = {name: values(connection, f"SELECT t::text FROM {name} t ORDER BY 1") for name in tables}
    counts = values(connection, "SELECT vacuum_count FROM pg_stat_user_tables ORDER BY relname")
    relations = values(connection, "SELECT relname FROM pg_class ORDER BY 1")
    return rows | {"relations": relations, "vacuums": counts}


def test_what_a_second_beat_sends_is_left_out(resources: Resources, connection: Connection) -> None:
    assert run_chore(resources, "vacuum", scheduled=True)["outcome"] == "done"
    assert run_chore(resources, "vacuum", scheduled=True) == {"outcome": "just done"}
    assert run_chore(resources, "vacuum")["outcome"] == "done", "a person is obeyed"
    tell(connection, "UPDATE maintenance_runs SET started_at = started_at - interval '31 minutes'")
    assert run_chore(resources, "vacuum", scheduled=True)["outcome"] == "done"


def test_what_was_done_before_the_clock_was_set_back_keeps_nothing_from_being_done(
    resources: Resources, connection: Connection
) -> None:
    run_chore(resources, "vacuum")
    tell(connection, "UPDATE maintenance_runs SET started_at = started_at + interval '1 day'")
    assert operations.last_runs(connection) == []
    assert operations.last_details(connection, "vacuum") == {}
    assert run_chore(resources, "vacuum", scheduled=True)["outcome"] == "done"
    [last] = operations.last_runs(connection)
    assert 0 <= last.seconds_ago < 3600
    assert operations.last_details(connection, "vacuum") == last.details


def test_each_run_of_a_crontab_with_gaps_is_done(resources: Resources, connection: Connection) -> None:
    hour = value(connection, "SELECT now() AT TIME ZONE 'UTC'").hour
    timing = f"0 {hour},{(hour + 1) % 24} * * *"  # after the next one comes tomorrow's
    mine = Resources(resources.settings.model_copy(update={"vacuum_schedule": timing}))
    run_chore(mine, "vacuum")
    tell(connection, "UPDATE maintenance_runs SET started_at = started_at - interval '1 hour'")
    assert run_chore(mine, "vacuum", scheduled=True)["outcome"] == "done"


def test_what_failed_is_done_again_at_once(resources: Resources, connection: Connection) -> None:
    run_chore(resources, "purge")
    tell(connection, "UPDATE maintenance_runs SET outcome = 'failed', error_message = 'why'")
    assert run_chore(resources, "purge", scheduled=True)["outcome"] == "done"


@pytest.mark.parametrize(("window", "heavy"), [((-60, 60), True), ((60, 120), False)])
def test_heavy_work_by_schedule_waits_for_its_window(
    window: tuple[int, int], heavy: bool, resources: Resources, connection: Connection
) -> None:
    at = "SELECT to_char(now() AT TIME ZONE 'UTC' + make_interval(mins => :m), 'HH24:MI')"
    begin, end = (value(connection, at, m=minutes) for minutes in window)
    mine = Resources(resources.settings.model_copy(update={"maintenance_window": f"{begin}-{end}"}))
    assert run_chore(mine, "vacuum", scheduled=True)["outcome"] == "done"
    assert run_chore_heavily(mine, scheduled=True) is heavy
    assert run_chore_heavily(mine, scheduled=False) is True


def run_chore_heavily(resources: Resources, *, scheduled: bool) -> bool:
    """Whether a chore is told that it may do heavy work."""
    told: list[bool] = []

    def chore(turn: Turn) -> dict[str, Any]:
        told.append(turn.heavy)
        return {}

    with pytest.MonkeyPatch.context() as patched:
        patched.setitem(CHORES, "rescue", chore)
        patched.setattr(type(resources.settings), "timing", lambda *_: "off")
        run_chore(resources, "rescue", scheduled=scheduled)
    return told == [True]


def test_a_chore_that_fails_says_why(resources: Resources, connection: Connection) -> None:
    tell(connection, "DROP TABLE evaluation_runs")
    with pytest.raises(ProgrammingError, match='relation "evaluation_runs" does not exist'):
        run_chore(resources, "purge")
    row = connection.execute(text("SELECT * FROM maintenance_runs")).one()
    assert (row.outcome, row.details) == ("failed", {})
    assert row.error_message == 'relation "evaluation_runs" does not exist'


def test_a_chore_that_fails_outside_the_database_says_why(
    resources: Resources, connection: Connection
) -> None:
    wrong = resources.settings.model_copy(update={"broker_url": SecretStr("redis://localhost:99999/0")})
    with pytest.raises(ValueError, match="Port out of range"):
        run_chore(Resources(wrong), "dispatch")
    row = connection.execute(text("SELECT outcome, error_message FROM maintenance_runs")).one()
    assert row.outcome == "failed"
    assert "Port out of range" in row.error_message


def test_a_chore_that_is_interrupted_is_recorded_in_plain_words(
    resources: Resources, connection: Connection
) -> None:
    def interrupt(_turn: Turn) -> dict[str, Any]:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_chore(resources, "vacuum", work=interrupt)
    assert value(connection, "SELECT error_message FROM maintenance_runs") == "interrupted"


def test_a_run_that_was_killed_is_closed_by_the_next(
    resources: Resources, connection: Connection, other: Connection
) -> None:
    tell(other, "LOCK TABLE batches")
    program = """
from worker.maintenance.run import run_chore
from worker.resources import resources
run_chore(resources(), "purge")
"""
    killed = subprocess.Popen([sys.executable, "-c", program], cwd=ROOT, env=child_environment())
    mine = "datname = current_database() AND application_name = 'ingest purge'"
    wait_for(connection, f"EXISTS (SELECT 1 FROM pg_stat_activity WHERE {mine} AND wait_event_type = 'Lock')")
    killed.kill()
    killed.wait()
    tell(connection, f"SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity WHERE {mine}")
    assert values(connection, "SELECT outcome FROM maintenance_runs") == ["running"]
    tell(other, "ROLLBACK")
    assert run_chore(resources, "rescue")["outcome"] == "done"
    assert values(connection, "SELECT outcome FROM maintenance_runs WHERE chore = 'purge'") == ["running"]
    assert run_chore(resources, "purge")["outcome"] == "done"
    runs = connection.execute(
        text("""
            SELECT outcome, error_message, finished_at IS NOT NULL AS ended FROM maintenance_runs
            WHERE chore = 'purge' ORDER BY started_at""")
    ).all()
    assert [tuple(run) for run in runs] == [("failed", "cut short", True), ("done", None, True)]


# dispatch


@contextmanager
def queues(resources: Resources) -> Iterator[Callable[[Queue], int]]:
    client = broker.connect(resources.settings)
    yield lambda queue: broker.queue_length(client, queue)
    client.close()


def lose(resources: Resources, queue: Queue) -> None:
    client = broker.connect(resources.settings)
    assert client.delete(queue.value) == 1
    client.close()


def age_publications(connection: Connection, seconds: int) -> None:
    tell(connection, "UPDATE batches SET published_at = now() - make_interval(secs => :s)", s=seconds)


def test_a_lost_queue_is_published_again(resources: Resources, connection: Connection) -> None:
    submit_texts("a", "b")
    lose(resources, Queue.INGEST)
    age_publications(connection, 2)
    with queues(resources) as length:
        assert run_chore(resources, "dispatch") == {"outcome": "done", "published_again": 1, "published": 0}
        assert length(Queue.INGEST) == 1
    assert values(connection, "SELECT publications FROM batches") == [2]
    # what was just published is given its time, also when it is lost again
    lose(resources, Queue.INGEST)
    age_publications(connection, 0)
    assert republish(resources) == 0


def test_each_lane_is_published_again_into_its_queue(resources: Resources, connection: Connection) -> None:
    submit([Document.text("a", source_path="a")], lane=Lane.INTERACTIVE)
    submit([Document.text("b", source_path="b")])
    with queues(resources) as length:
        assert (length(Queue.INTERACTIVE), length(Queue.INGEST)) == (1, 1)
        lose(resources, Queue.INTERACTIVE)
        age_publications(connection, 3600)
        assert republish(resources) == 1
        assert (length(Queue.INTERACTIVE), length(Queue.INGEST)) == (1, 1)


def test_what_is_still_in_the_queue_is_not_published_again(
    resources: Resources, connection: Connection
) -> None:
    submit_texts("a")
    age_publications(connection, 3600)
    assert republish(resources) == 0
    assert values(connection, "SELECT publications FROM batches") == [1]


def test_what_is_being_processed_or_done_is_not_published_again(
    resources: Resources, connection: Connection, drain: Drain
) -> None:
    submit_texts("a")
    drain()
    submit_texts("b")
    claim(resources, connection)
    lose(resources, Queue.INGEST)
    age_publications(connection, 3600)
    assert republish(resources) == 0


def test_the_dispatch_chore_fills_the_window(resources: Resources, connection: Connection) -> None:
    submit_texts(*(f"doc {n}" for n in range(8)))
    lose(resources, Queue.INGEST)
    tell(connection, "UPDATE documents SET batch_id = NULL; DELETE FROM batches")
    tell(connection, "UPDATE documents SET isolated = true")
    assert run_chore(resources, "dispatch") == {"outcome": "done", "published_again": 0, "published": 2}
    assert values(connection, "SELECT documents FROM batches") == [1, 1]


# rescue


def claim(resources: Resources, connection: Connection) -> Lease:
    """Claim the one queued batch and start its documents, as a worker does before it dies."""
    batch_id = value(connection, "SELECT batch_id FROM batches WHERE state = 'queued'")
    with transaction(resources.engine) as claiming:
        lease = batches.claim(claiming, batch_id, "doomed", 90)
        assert lease is not None
        documents.start(claiming, batch_id)
    return lease


def expire(connection: Connection) -> None:
    tell(connection, "UPDATE batches SET lease_expires_at = now() - interval '1 s' WHERE state = 'running'")


def document(connection: Connection, document_id: UUID) -> Any:
    return connection.execute(
        text("SELECT * FROM documents WHERE document_id = :id"), {"id": document_id}
    ).one()


def rescued(expired: int = 0, retried: int = 0, failed: int = 0, freed: int = 0) -> dict[str, Any]:
    return {
        "outcome": "done",
        "leases_expired": expired,
        "documents_retried": retried,
        "documents_failed": failed,
        "documents_freed": freed,
    }


def test_the_documents_of_a_dead_worker_go_again_each_alone(
    resources: Resources, connection: Connection, drain: Drain
) -> None:
    ids = submit_texts("a", "b", "c")
    claim(resources, connection)
    tell(connection, "UPDATE batches SET trouble = :away", away=f"{AWAY}: 429")  # which ends no process
    assert run_chore(resources, "rescue") == rescued()
    expire(connection)
    assert run_chore(resources, "rescue") == rescued(expired=1, retried=3)
    batch = connection.execute(text("SELECT * FROM batches")).one()
    assert (batch.state, batch.lease_token, batch.worker) == ("abandoned", None, "doomed")
    for document_id in ids:
        row = document(connection, document_id)
        assert (row.status, row.isolated, row.attempts, row.batch_id) == ("pending", True, 1, None)
        assert row.error_code == "worker_lost"
        assert "died while it was processed: not known how, its worker ended with it" in row.error_message
    assert run_chore(resources, "rescue") == rescued()
    dispatch(resources)
    assert values(connection, "SELECT documents FROM batches WHERE state = 'queued'") == [1, 1]
    assert drain() == {"completed": 3}
    row = document(connection, ids[0])
    assert (row.isolated, row.attempts) == (False, 0)


def test_a_document_that_kills_its_workers_is_given_up(resources: Resources, connection: Connection) -> None:
    (document_id,) = submit_texts("poison")
    before = counted_lost()
    for attempt in (1, 2):
        dispatch(resources)
        claim(resources, connection)
        assert document(connection, document_id).attempts == attempt
        note(resources, connection, f"ended by signal {attempt}")
        expire(connection)
        more = rescued(expired=1, retried=1) if attempt == 1 else rescued(expired=1, failed=1)
        assert run_chore(resources, "rescue") == more
    row = document(connection, document_id)
    assert (row.status, row.attempts, row.error_code) == ("failed", 2, "worker_lost")
    assert row.error_message == (
        "its worker process died 2 times while it was processed, the last time: ended by signal 2;"
        " mend the cause, then run `ingest retry`"
    )
    assert counted_lost() == before + 1
    assert dispatch(resources) == 0


def note(resources: Resources, connection: Connection, cause: str) -> None:
    """As the main process of the worker that claimed the batch does; what any other says does not count."""
    batch_id = value(connection, "SELECT batch_id FROM batches WHERE state = 'running'")
    with transaction(resources.engine) as noting:
        batches.remark(noting, batch_id, "doomed", cause)
        batches.remark(noting, batch_id, "another", "nothing")


def counted_lost() -> float:
    labels = {"outcome": "failed", "code": "worker_lost"}
    return PROCESS_METRICS.get_sample_value("ingest_document_errors_total", labels) or 0


def test_an_edit_during_the_processing_keeps_its_attempts(
    resources: Resources, connection: Connection, drain: Drain
) -> None:
    (document_id,) = submit_texts("a")
    tell(connection, "UPDATE documents SET attempts = 1")
    claim(resources, connection)
    submit([Document.text("another text", source_path="a")])
    assert document(connection, document_id).attempts == 0
    expire(connection)
    assert run_chore(resources, "rescue") == rescued(expired=1, retried=1)
    row = document(connection, document_id)
    assert (row.status, row.attempts, row.requested_version, row.claimed_version) == ("pending", 0, 2, 1)
    assert drain() == {"completed": 1}
    assert values(connection, "SELECT text FROM chunks") == ["another text"]


def test_documents_of_a_batch_that_was_claimed_and_not_started(
    resources: Resources, connection: Connection, drain: Drain
) -> None:
    (document_id,) = submit_texts("a")
    batch_id = value(connection, "SELECT batch_id FROM batches")
    with transaction(resources.engine) as claiming:
        batches.claim(claiming, batch_id, "doomed", 90)
    expire(connection)
    assert run_chore(resources, "rescue") == rescued(expired=1, freed=1)
    row = document(connection, document_id)
    assert (row.status, row.batch_id, row.attempts, row.isolated) == ("pending", None, 0, False)
    assert drain() == {"completed": 1}


def test_a_document_deleted_under_a_dead_worker_is_not_processed(
    resources: Resources, connection: Connection
) -> None:
    (document_id,) = submit_texts("a")
    claim(resources, connection)
    assert delete([document_id]) == 1
    expire(connection)
    assert run_chore(resources, "rescue") == rescued(expired=1, retried=1)
    row = document(connection, document_id)
    assert (row.status, row.batch_id, row.deleted_at is not None) == ("pending", None, True)
    assert dispatch(resources) == 0


def test_the_twins_of_a_document_that_is_given_up_go_on(
    resources: Resources, connection: Connection, drain: Drain
) -> None:
    ids = submit_texts("a", "b", "c", same=True)
    assert drain() == {"completed": 1, "duplicate": 2}
    owner = value(connection, "SELECT document_id FROM documents WHERE status = 'completed'")
    delete([owner])
    heir = value(connection, "SELECT document_id FROM documents WHERE status = 'pending'")
    (twin,) = set(ids) - {owner, heir}
    assert document(connection, twin).duplicate_of == heir
    dispatch(resources)
    claim(resources, connection)
    tell(connection, "UPDATE documents SET attempts = 2 WHERE status = 'processing'")
    expire(connection)
    assert run_chore(resources, "rescue") == rescued(expired=1, failed=1)
    assert document(connection, heir).status == "failed"
    assert (document(connection, twin).status, document(connection, twin).duplicate_of) == ("pending", None)
    assert drain() == {"completed": 1}


def test_a_batch_somebody_is_finishing_is_left_alone(
    resources: Resources, connection: Connection, other: Connection
) -> None:
    submit_texts("a")
    lease = claim(resources, connection)
    expire(connection)
    assert batches.finish(other, lease, batches.Done()) == 1
    assert run_chore(resources, "rescue") == rescued()
    batches.hand_back(other, lease.batch_id)
    other.commit()
    assert run_chore(resources, "rescue") == rescued()
    assert values(connection, "SELECT state FROM batches") == ["finished"]


# spares


def spares(made: int, ready: int) -> dict[str, Any]:
    return {"outcome": "done", "made": made, "ready": ready}


def test_spares_are_made_up_to_their_number(resources: Resources, connection: Connection) -> None:
    assert run_chore(resources, "spares") == spares(0, 3)
    tell(connection, "UPDATE segments SET state = 'sealed', sealed_rows = 0 WHERE segment IN (2, 3)")
    assert run_chore(resources, "spares") == spares(2, 3)
    assert values(connection, "SELECT leaf FROM segments WHERE state = 'spare' ORDER BY segment") == [
        "chunks_s000004",
        "chunks_s000005",
        "chunks_s000006",
    ]
    found = read(connection)
    for kind, of in (("columns", ".text"), ("storage", ".embedding"), ("options", ""), ("tables", "")):
        assert found[kind][f"chunks_s000006{of}"] == found[kind][f"chunks_s000004{of}"], kind
    assert found["partitions"]["chunks_s000006"] == ("chunks", "FOR VALUES IN (6)")
    assert run_chore(resources, "indexes")["missing"] == []
    assert run_chore(resources, "spares") == spares(0, 3)


def test_a_new_spare_can_be_opened_and_written(
    resources: Resources, connection: Connection, drain: Drain
) -> None:
    tell(connection, "UPDATE segments SET state = 'sealed', sealed_rows = 0 WHERE state IN ('open', 'spare')")
    assert run_chore(resources, "spares") == spares(3, 3)
    tell(connection, "UPDATE segments SET state = 'open' WHERE segment = 7")
    submit_texts("a")
    assert drain() == {"completed": 1}
    assert values(connection, "SELECT segment FROM chunks") == [7]


def test_spares_give_way_to_writers_of_documents(
    resources: Resources, connection: Connection, other: Connection
) -> None:
    submit_texts("a")
    tell(connection, "UPDATE segments SET state = 'sealed', sealed_rows = 0 WHERE segment IN (2, 3)")
    tell(other, "UPDATE documents SET updated_at = now()")
    assert run_chore(resources, "spares") == spares(0, 1)
    assert value(connection, "SELECT to_regclass('chunks_s000005') IS NULL")
    other.commit()
    assert run_chore(resources, "spares") == spares(2, 3)


def test_spares_that_cannot_be_made_fail_the_chore(resources: Resources, connection: Connection) -> None:
    tell(connection, "UPDATE segments SET state = 'sealed', sealed_rows = 0 WHERE segment = 2")
    tell(connection, "CREATE TABLE chunks_s000005 (theirs int)")
    with pytest.raises(ProgrammingError, match='relation "chunks_s000005" already exists'):
        run_chore(resources, "spares")
    assert values(connection, "SELECT outcome FROM maintenance_runs") == ["failed"]


# purge


def purged(**gone: int) -> dict[str, Any]:
    records = ("batches", "maintenance_runs", "evaluation_runs", "heartbeats")
    nothing = dict.fromkeys((*records, "documents", "chunks", "contents"), 0)
    return {"outcome": "done", **nothing, **gone}


@pytest.fixture
def tenant(connection: Connection) -> UUID:
    found: UUID = value(connection, "INSERT INTO tenants (name) VALUES ('t') RETURNING tenant_id")
    return found


def test_purge_deletes_all_that_is_old_in_parts(
    resources: Resources, connection: Connection, tenant: UUID, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.maintenance.purge.MOST_ROWS", 2)
    tell(
        connection,
        """INSERT INTO evaluation_runs (tenant_id, query, created_at)
            SELECT :tenant, n, now() - interval '61 days' FROM generate_series(1, 5) n""",
        tenant=tenant,
    )
    assert run_chore(resources, "purge") == purged(evaluation_runs=5)


AGES = "unnest(ARRAY[29, 31]) AS days"


def test_purge_deletes_the_old_and_keeps_the_young(
    resources: Resources, connection: Connection, tenant: UUID
) -> None:
    tell(
        connection,
        f"""INSERT INTO batches (tenant_id, lane, documents, state, progress, finished_at, worker, created_at)
            SELECT :tenant, 'bulk', 1, 'finished', 1, now() - make_interval(days => days), days,
                   now() - interval '1 y'
            FROM {AGES}""",
        tenant=tenant,
    )
    tell(
        connection,
        f"""INSERT INTO maintenance_runs (chore, outcome, finished_at, created_at)
            SELECT 'of ' || days, 'done', now(), now() - make_interval(days => days) FROM {AGES}""",
    )
    tell(
        connection,
        """INSERT INTO evaluation_runs (tenant_id, query, created_at)
            SELECT :tenant, days, now() - make_interval(days => days) FROM unnest(ARRAY[59, 61]) AS days""",
        tenant=tenant,
    )
    tell(
        connection,
        """INSERT INTO heartbeats (name, kind, slots, pid, seen_at)
           SELECT hours, 'ingest', 1, 1, now() - make_interval(hours => hours)
           FROM unnest(ARRAY[23, 25]) AS hours""",
    )
    assert run_chore(resources, "purge") == purged(
        batches=1, maintenance_runs=1, evaluation_runs=1, heartbeats=1
    )
    assert values(connection, "SELECT worker FROM batches") == ["29"]
    assert values(connection, "SELECT chore FROM maintenance_runs ORDER BY 1") == ["of 29", "purge"]
    assert values(connection, "SELECT query FROM evaluation_runs") == ["59"]
    assert values(connection, "SELECT name FROM heartbeats") == ["23"]
    assert run_chore(resources, "purge") == purged()


def test_purge_keeps_batches_that_are_not_over_or_still_hold_documents(
    resources: Resources, connection: Connection
) -> None:
    submit_texts("a")
    tell(connection, "UPDATE batches SET created_at = now() - interval '1 y', published_at = created_at")
    assert run_chore(resources, "purge") == purged()
    tell(
        connection,
        """UPDATE batches SET state = 'finished', progress = documents, worker = 'w',
                  finished_at = now() - interval '1 y'""",
    )
    assert run_chore(resources, "purge") == purged()
    assert run_chore(resources, "rescue") == rescued(freed=1)
    assert run_chore(resources, "purge") == purged(batches=1)


def test_purge_is_bounded(
    resources: Resources, connection: Connection, tenant: UUID, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.maintenance.purge.MOST_PARTS", 1)
    tell(
        connection,
        """INSERT INTO evaluation_runs (tenant_id, query, created_at)
           SELECT :tenant, 'q', now() - interval '1 y' FROM generate_series(1, 10001)""",
        tenant=tenant,
    )
    assert run_chore(resources, "purge") == purged(evaluation_runs=10_000)
    assert run_chore(resources, "purge") == purged(evaluation_runs=1)
