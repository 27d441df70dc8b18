"""What a person waits for, and whose turn it is, as dispatch decides it; with real workers: tests/workers."""

from collections.abc import Iterator

import pytest
from sqlalchemy import Connection, text

from tests.integration.reads import of_documents
from worker import Document, submit
from worker.db import backlog, operations, segments
from worker.dispatch import dispatch
from worker.ingest import ingest_batch
from worker.resources import Resources
from worker.settings import Settings, load_settings
from worker.types import Lane


@pytest.fixture(autouse=True)
def _use_settings(settings: Settings) -> None:
    """The producer's calls use the process's settings: those of this test."""


def texts(name: str, count: int, words: int = 1) -> list[Document]:
    return [Document.text(" ".join([f"{name} {n}"] * words), source_path=f"{name} {n}") for n in range(count)]


def queued(connection: Connection) -> list[tuple[str, str, int]]:
    """(tenant, lane, documents) of the batches that are published and not claimed."""
    found = connection.execute(
        text("""
            SELECT t.name, b.lane, b.documents FROM batches b JOIN tenants t USING (tenant_id)
            WHERE b.state = 'queued' ORDER BY t.name, b.lane""")
    )
    return [(row.name, row.lane, row.documents) for row in found]


def claim_all(resources: Resources, connection: Connection) -> None:
    ids = connection.execute(text("SELECT batch_id FROM batches WHERE state = 'queued'")).scalars().all()
    for batch_id in ids:
        ingest_batch(resources, batch_id, "test")


@pytest.fixture
def bounded(monkeypatch: pytest.MonkeyPatch) -> Iterator[Resources]:
    """A segment is full with 10 rows, 20 may be without an index; a document a batch."""
    bounds = {"SEGMENT_ROWS": "10", "MAX_UNSEALED_ROWS": "20", "CHUNK_SIZE": "50", "BATCH_DOCUMENTS": "1"}
    for name, value in bounds.items():
        monkeypatch.setenv(name, value)
    load_settings.cache_clear()
    mine = Resources(load_settings())
    yield mine
    mine.close()


def test_what_bulk_wrote_beyond_the_bound_keeps_no_person_waiting(
    bounded: Resources, connection: Connection
) -> None:
    submit(texts("bulk", 1, words=150))
    claim_all(bounded, connection)
    assert 20 < segments.unsealed_rows(connection) < 40
    submit(texts("more bulk", 1))
    assert queued(connection) == []
    submit(texts("person", 1), lane=Lane.INTERACTIVE)
    assert queued(connection) == [("default", "interactive", 1)]


def test_what_waits_among_the_bulk_comes_at_once_when_somebody_waits_for_it(
    resources: Resources, connection: Connection
) -> None:
    submit(texts("a", 3))
    assert queued(connection) == [("default", "bulk", 3)]
    submit(texts("a", 1), lane=Lane.INTERACTIVE)
    assert queued(connection) == [("default", "bulk", 3), ("default", "interactive", 1)]
    batches = connection.execute(text("SELECT count(*) FROM documents GROUP BY batch_id")).scalars().all()
    assert sorted(batches) == [1, 2]
    claim_all(resources, connection)
    assert connection.execute(text("SELECT count(*) FROM documents WHERE status = 'completed'")).scalar() == 3


def test_the_window_of_a_person_is_that_of_both_kinds_of_workers(
    resources: Resources, connection: Connection
) -> None:
    for kind in ("ingest", "interactive"):
        operations.beat_heart(connection, kind, kind, 2, 1)
    for lane in Lane:
        for number in range(6):
            submit(texts(f"{lane} {number}", 1), tenant=f"{number}", lane=lane)
    assert [lane for _, lane, _ in queued(connection)].count("interactive") == 5
    assert [lane for _, lane, _ in queued(connection)].count("bulk") == 3
    assert dispatch(resources) == 0


def test_tenants_that_have_nothing_cost_nothing(resources: Resources, connection: Connection) -> None:
    connection.execute(text("INSERT INTO tenants (name) SELECT 'idle ' || n FROM generate_series(1, 2000) n"))
    for name in ("a", "b"):
        submit(texts(name, 40), tenant=name)
    connection.execute(text("UPDATE documents SET batch_id = NULL"))
    connection.execute(text("VACUUM (ANALYZE) documents, tenants"))
    turns, *_ = of_documents(connection, lambda watched: backlog.form(watched, Lane.BULK, resources.settings))
    assert sum(read.scans for read in turns) <= 4, "the first, and the next of each"
    assert sum(read.rows for read in turns) <= 4
