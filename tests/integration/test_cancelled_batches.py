"""A batch is cancelled: queued or running; its worker writes nothing, its neighbours are not touched."""

from collections.abc import Callable
from uuid import UUID, uuid4

import pytest
from sqlalchemy import Connection, text

from worker import Document, cancel_batch, delete, submit
from worker.errors import IngestError, LeaseLostError
from worker.ingest import ingest_batch
from worker.resources import Resources
from worker.settings import Settings

Drain = Callable[[], dict[str, int]]
REQUEUE = pytest.mark.parametrize("requeue", [False, True])


@pytest.fixture(autouse=True)
def _use_settings(settings: Settings) -> None:
    """The producer's calls use the process's settings: those of this test."""


def submitted(connection: Connection, tenant: str = "default") -> UUID:
    """Submit two documents; give the batch they are in."""
    submit([Document.text(f"ship {n}", source_path=f"{n}") for n in range(2)], tenant=tenant)
    found = connection.execute(
        text("SELECT batch_id FROM batches JOIN tenants USING (tenant_id) WHERE name = :tenant"),
        {"tenant": tenant},
    )
    return UUID(str(found.scalar_one()))


def documents(connection: Connection) -> list[tuple[str, int]]:
    """(status, attempts) of the default tenant's, by path."""
    found = connection.execute(
        text("""
            SELECT status, attempts FROM documents JOIN tenants USING (tenant_id)
            WHERE name = 'default' ORDER BY source_path""")
    )
    return [(row.status, row.attempts) for row in found]


def state(connection: Connection, batch_id: UUID) -> str:
    found = connection.execute(text("SELECT state FROM batches WHERE batch_id = :id"), {"id": batch_id})
    return str(found.scalar_one())


@REQUEUE
def test_a_queued_batch_and_its_message_finds_nothing_to_do(
    resources: Resources, connection: Connection, drain: Drain, requeue: bool
) -> None:
    batch_id = submitted(connection)
    assert cancel_batch(batch_id, requeue=requeue) == 2
    assert state(connection, batch_id) == "cancelled"
    assert documents(connection) == [("pending" if requeue else "cancelled", 0)] * 2
    assert ingest_batch(resources, batch_id, "test") is None
    assert drain() == ({"completed": 2} if requeue else {})


@REQUEUE
def test_a_running_batch_is_not_written_and_costs_no_attempt_when_it_goes_back(
    resources: Resources, connection: Connection, drain: Drain, requeue: bool
) -> None:
    batch_id, neighbour = submitted(connection), submitted(connection, "neighbour")
    with pytest.raises(LeaseLostError):
        ingest_batch(
            resources, batch_id, "test", report=lambda *_: (cancel_batch(batch_id, requeue=requeue), None)[1]
        )
    assert connection.execute(text("SELECT count(*) FROM chunks")).scalar_one() == 0
    assert documents(connection) == ([("pending", 0)] * 2 if requeue else [("cancelled", 1)] * 2)
    assert state(connection, neighbour) == "queued"
    assert drain() == {"completed": 4 if requeue else 2}
    assert state(connection, neighbour) == "finished"


def test_a_document_that_was_deleted_meanwhile_may_be_restored_later(
    resources: Resources, connection: Connection
) -> None:
    batch_id = submitted(connection)

    def meanwhile(*_: int) -> None:
        delete(["0"])
        assert cancel_batch(batch_id) == 1

    with pytest.raises(LeaseLostError):
        ingest_batch(resources, batch_id, "test", report=meanwhile)
    assert [status for status, _ in documents(connection)] == ["pending", "cancelled"]


def test_one_that_has_ended_stays_and_one_that_never_was_is_said(
    connection: Connection, drain: Drain
) -> None:
    batch_id = submitted(connection)
    drain()
    assert cancel_batch(str(batch_id)) == 0
    assert state(connection, batch_id) == "finished"
    with pytest.raises(IngestError, match="there is no batch"):
        cancel_batch(uuid4())
    with pytest.raises(IngestError, match="'x' is not the id of a batch"):
        cancel_batch("x")
