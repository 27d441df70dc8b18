"""Traces: from the producer through every row and record to the operator."""

import json
import logging
from collections.abc import Callable
from typing import Any
from uuid import UUID

import numpy as np
import pytest
from sqlalchemy import Connection, text

from tests.conftest import Run
from worker import Document, GivenChunk, GivenDocument, cancel, cancel_batch, load, status, submit
from worker.db import batches
from worker.dispatch import dispatch
from worker.errors import IngestError
from worker.maintenance.run import run_chore
from worker.resources import Resources
from worker.types import Lane

Drain = Callable[[], dict[str, int]]


def note(name: str, words: str = "Ships sail.", **more: Any) -> Document:
    return Document.text(words, source_path=name, **more)


def traces(connection: Connection) -> dict[str, str]:
    found = connection.execute(text("SELECT source_path, trace FROM documents"))
    return {row.source_path: row.trace for row in found}


def written(connection: Connection) -> list[Any]:
    return list(connection.execute(text("SELECT xmin::text, ctid::text FROM documents ORDER BY 1")).all())


def test_trace_is_that_of_the_document_else_of_the_call_else_made(
    settings: object, connection: Connection
) -> None:
    receipt = submit([note("a"), note("b", trace="mine")], trace="call")
    made = submit([note("c")]).trace
    assert receipt.trace == "call"
    assert UUID(made)
    assert traces(connection) == {"a": "call", "b": "mine", "c": made}


def test_what_is_unchanged_is_not_written_and_an_edit_takes_the_new_trace(
    settings: object, connection: Connection, drain: Drain
) -> None:
    submit([note("a"), note("b", "Whales dive.")], trace="first")
    assert drain() == {"completed": 2}
    before = written(connection)
    assert submit([note("a"), note("b", "Whales dive.")], trace="second").unchanged == 2
    assert written(connection) == before
    submit([note("a", "Ships sink."), note("b", "Whales dive.")], trace="third")
    assert traces(connection) == {"a": "third", "b": "first"}


def test_a_trace_nobody_could_log_is_refused(settings: object) -> None:
    with pytest.raises(IngestError, match="printable"):
        submit([note("a")], trace="two\nlines")
    refused = submit([note("a", trace="two\nlines"), note("b")]).refused
    assert [path for path, _ in refused] == ["a"]


def test_a_load_has_a_trace_as_well(settings: object, connection: Connection) -> None:
    vector = np.ones(256, np.float32)
    given = [GivenDocument(name, [GivenChunk(name, vector)]) for name in ("a", "b")]
    assert load(given, trace="bulk").trace == "bulk"
    assert traces(connection) == {"a": "bulk", "b": "bulk"}


def test_who_watches_the_queue_reads_the_trace_of_a_batch(
    resources: Resources, connection: Connection
) -> None:
    submit([note("a"), note("b")], trace="one")
    [formed] = batches.labelled(connection, batch_ids(connection))
    assert formed.label == f"default: 2 documents, trace one, {formed.batch_id}"
    submit([note(str(n), trace=f"trace {n}") for n in range(9)], lane=Lane.INTERACTIVE)
    mixed = batches.labelled(connection, batch_ids(connection, "interactive"))[0]
    assert "trace" not in mixed.label
    assert len(mixed.traces) == 5


def batch_ids(connection: Connection, lane: str = "bulk") -> list[UUID]:
    found = connection.execute(text("SELECT batch_id FROM batches WHERE lane = :lane"), {"lane": lane})
    return list(found.scalars())


def test_every_record_on_the_way_names_the_trace(
    resources: Resources, drain: Drain, connection: Connection, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "worker")
    submit([note("a")], trace="followed")
    drain()
    said = {record.msg: record for record in caplog.records}
    assert said["documents.submitted"].__dict__["trace"] == "followed"
    assert said["batch.published"].__dict__["traces"] == ["followed"]
    assert said["document.settled"].__dict__["trace"] == "followed"
    found = connection.execute(text("SELECT settled, chunks, size_bytes, claimed_at FROM batches")).one()
    assert tuple(found[:3]) == (1, 1, len("Ships sail."))
    assert found.claimed_at is not None


def test_what_is_cancelled_has_a_line_too(
    resources: Resources, connection: Connection, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "worker")
    first = submit([note("a", trace="named")])
    [batch_id] = batch_ids(connection)
    submit([note("b", "Whales dive.", trace="of all")])
    assert cancel_batch(batch_id) == 1
    assert cancel() == 1
    assert cancel(first.document_ids) == 0
    said = [record.__dict__ for record in caplog.records if record.msg == "document.settled"]
    assert [(record["trace"], record["status"]) for record in said] == [
        ("named", "cancelled"),
        ("of all", "cancelled"),
    ]


def test_rescue_names_the_trace_of_what_it_takes_back_and_gives_up(
    resources: Resources, connection: Connection, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "worker")
    submit([note("a"), note("b", trace="poison")], trace="sound")
    dispatch(resources)
    for batch_id in batch_ids(connection):
        with resources.engine.begin() as transacted:
            batches.claim(transacted, batch_id, "dead", 1)
    connection.execute(
        text("""
            UPDATE documents SET status = 'processing', claimed_version = 1,
                   attempts = CASE trace WHEN 'poison' THEN 5 ELSE 1 END;
            UPDATE batches SET lease_expires_at = now() - interval '1 second'""")
    )
    run_chore(resources, "rescue")
    said = {(record.msg, record.__dict__.get("trace")) for record in caplog.records}
    assert said >= {("document.rescued", "sound"), ("document.settled", "poison"), ("batch.abandoned", None)}


def test_status_finds_the_documents_of_a_trace(ingest: Run, settings: object, drain: Drain) -> None:
    submit([note("a"), note("b", " "), note("c", "Whales dive.")], trace="import-7", tenant="t")
    submit([note("d")], tenant="other")
    drain()
    shown = ingest("status", "--trace", "import-7").stdout.decode().splitlines()
    assert sorted(line.split()[0] for line in shown[-3:]) == ["completed", "completed", "skipped"]
    told = json.loads(ingest("status", "--trace", "import-7", "--json").stdout)
    assert (told["counts"]["completed"], told["counts"]["skipped"]) == (2, 1)
    assert {document["source_path"] for document in told["documents"]} == {"a", "b", "c"}
    [row] = json.loads(ingest("status", "a", "--tenant", "t", "--json").stdout)
    assert row["trace"] == "import-7"
    missing = ingest("status", "--trace", "nowhere")
    assert (missing.returncode, missing.stdout) == (1, b"")
    assert status(tenant="t", trace="import-7").counts["completed"] == 2


def test_add_takes_a_trace_and_says_which_was_made(ingest: Run, tmp_path: Any) -> None:
    (tmp_path / "a.md").write_text("Ships sail.")
    given = ingest("add", "a.md", "--trace", "mine-1", "--json")
    assert json.loads(given.stdout)["trace"] == "mine-1"
    again = ingest("add", "a.md")
    assert b"trace" not in again.stdout
    (tmp_path / "b.md").write_text("Whales dive.")
    made = ingest("add", "b.md").stdout.decode().splitlines()[1]
    assert UUID(made.removeprefix("trace "))
    assert ingest("add", "a.md", "--trace", "").returncode == 2


def test_a_command_logs_what_it_does_where_a_level_is_set(
    ingest: Run, tmp_path: Any, new_database: Callable[[str | None], str]
) -> None:
    (tmp_path / "a.md").write_text("Ships sail.")
    said = ingest("add", "a.md", "--trace", "mine-1", LOG_LEVEL="INFO", LOG_FORMAT="json").stderr
    found = {record["event"]: record for record in map(json.loads, said.splitlines())}
    assert found["documents.submitted"]["trace"] == "mine-1"
    assert found["batch.published"]["traces"] == ["mine-1"]
    (tmp_path / "b.md").write_text("Whales dive.")
    assert ingest("add", "b.md", LOG_FORMAT="json").stderr == b""
    migrated = ingest("migrate", DATABASE_URL=new_database(None), LOG_LEVEL="INFO", LOG_FORMAT="json").stderr
    loggers = {record["logger"] for record in map(json.loads, migrated.splitlines())}
    assert "alembic.runtime.migration" in loggers
