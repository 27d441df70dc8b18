"""The life of a segment, on a real server: closed when full, indexed beside its users, never half done."""

import itertools
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import UUID

import numpy as np
import pytest
from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError
from tenacity import Retrying, retry_if_result, stop_after_delay, wait_fixed

from tests.integration.test_maintenance import value
from worker import Document, GivenChunk, delete, restore, submit, writing
from worker.db import builds, segments
from worker.db.engine import transaction
from worker.dispatch import dispatch
from worker.ingest import ingest_batch
from worker.maintenance.run import run_chore
from worker.maintenance.seal import is_full
from worker.queries import read_query
from worker.resources import Resources
from worker.searching import search
from worker.settings import child_environment, load_settings
from worker.types import SegmentState

ROOT = Path(__file__).parents[2]
DIMENSION = 256

Drain = Callable[[], dict[str, int]]


# One process a build: two test processes share the machine.
SMALL_SEGMENTS = {
    "SEGMENT_ROWS": "20",
    "MAX_UNSEALED_ROWS": "10000",
    "EMBEDDING_PROVIDER": "none",
    "BUILD_WORKERS": "0",
}


@pytest.fixture
def environment() -> dict[str, str]:
    return SMALL_SEGMENTS


_seeds = itertools.count()


def vectors(count: int) -> list[list[float]]:
    drawn = np.random.default_rng(next(_seeds)).standard_normal((count, DIMENSION))
    return [[float(number) for number in row] for row in drawn]


def document(name: str, chunks: int = 25) -> Document:
    given = [GivenChunk(f"{name} {n}", vector=vector) for n, vector in enumerate(vectors(chunks))]
    return Document.chunks(given, source_path=name)


def ingested(drain: Drain, *documents: Document) -> list[UUID]:
    ids = list(submit(documents).new)
    assert drain() == {"completed": len(documents)}
    return ids


def states(connection: Connection) -> dict[int, str]:
    found = connection.execute(text("SELECT segment, state FROM segments WHERE segment > 0"))
    return {row.segment: row.state for row in found if row.state != "spare"}


def wait_for(connection: Connection, condition: str) -> None:
    Retrying(
        retry=retry_if_result(lambda holds: not holds), stop=stop_after_delay(60), wait=wait_fixed(0.05)
    )(value, connection, f"SELECT {condition}")


BUILDING = "EXISTS (SELECT 1 FROM pg_stat_progress_create_index WHERE datname = current_database())"
WAITING = BUILDING.replace("datname", "phase LIKE 'waiting%' AND datname")


def indexes(connection: Connection) -> dict[str, bool]:
    found = connection.execute(
        text("""
            SELECT i.indexrelid::regclass::text AS name, i.indisvalid
            FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid JOIN pg_am a ON a.oid = c.relam
            WHERE a.amname = 'hnsw'""")
    )
    return {row.name: row.indisvalid for row in found}


def found_by(resources: Resources, wanted: Sequence[float], k: int = 5) -> list[str]:
    return [hit.text for hit in search(resources, read_query(k=k, vector=wanted)).hits]


@contextmanager
def in_background(work: Callable[[], Any]) -> Iterator[Future[Any]]:
    with ThreadPoolExecutor(1) as pool:
        yield pool.submit(work)


def seal(resources: Resources) -> dict[str, Any]:
    return run_chore(resources, "seal")


# the way of a segment


def test_a_full_segment_is_sealed_and_the_next_one_opens(
    resources: Resources, drain: Drain, connection: Connection
) -> None:
    ingested(drain, document("a"))
    wanted = vectors(1)[0]
    before = found_by(resources, wanted)
    did = seal(resources)
    assert did == {"outcome": "done", "sealed": ["chunks_s000001"], "unsealed_rows": 0}
    assert states(connection) == {1: "sealed", 2: "open"}
    assert indexes(connection) == {"chunks_s000001_embedding_idx": True}
    assert found_by(resources, wanted) == before
    ingested(drain, document("b"))
    assert value(connection, "SELECT count(*) FROM chunks_s000002") == 25
    assert seal(resources)["sealed"] == ["chunks_s000002"]
    assert value(connection, "SELECT count(*) FROM segments WHERE state = 'spare'") == 3


@pytest.mark.parametrize(("large", "candidates"), [(25, 64), (24, 128)])
def test_a_large_graph_is_built_with_twice_the_candidates(
    resources: Resources, drain: Drain, connection: Connection, monkeypatch: pytest.MonkeyPatch,
    large: int, candidates: int,
) -> None:  # fmt: skip
    monkeypatch.setattr(builds, "LARGE", large)
    ingested(drain, document("a"))
    assert seal(resources)["sealed"] == ["chunks_s000001"]
    options = value(
        connection, "SELECT reloptions FROM pg_class WHERE relname = 'chunks_s000001_embedding_idx'"
    )
    assert f"ef_construction={candidates}" in options


def test_what_is_not_full_stays_open(resources: Resources, drain: Drain, connection: Connection) -> None:
    ingested(drain, document("a", chunks=19))
    assert seal(resources) == {"outcome": "done", "sealed": [], "unsealed_rows": 19}
    assert states(connection) == {1: "open"}


@pytest.mark.parametrize(
    ("fill", "full"),
    [
        (segments.Fill(20_000, 0, 0), True),
        (segments.Fill(19_999, 0, 0), False),
        (segments.Fill(1_000, 128 << 20, 0), True),
        (segments.Fill(999, 128 << 20, 0), False),
        (segments.Fill(1_000, 0, 21_600), True),
        (segments.Fill(999, 0, 10**6), False),
        (segments.Fill(None, 0, 0), True),
    ],
)
def test_rows_bytes_and_age_make_a_segment_full(
    fill: segments.Fill, full: bool, resources: Resources
) -> None:
    usual = resources.settings.model_copy(update={"segment_rows": 20_000})
    assert is_full(fill, usual) is full


def test_how_full_the_open_segment_is(resources: Resources, drain: Drain, connection: Connection) -> None:
    ingested(drain, document("a"))
    connection.execute(text("UPDATE segments SET updated_at = now() - interval '1 hour'"))
    fill = segments.fill(connection, 10)
    assert (fill.rows, round(fill.age_seconds)) == (25, 3600)
    assert fill.size_bytes >= 25 * DIMENSION * 4
    assert segments.unsealed_rows(connection) == 25


def test_after_a_crash_of_the_server_rows_are_counted(
    resources: Resources, drain: Drain, connection: Connection
) -> None:
    ingested(drain, document("a"))
    value(connection, "SELECT pg_stat_reset()::text")
    assert segments.fill(connection, 10).rows == 10
    assert seal(resources)["sealed"] == ["chunks_s000001"]


def test_every_transition_has_one_state_before_it(connection: Connection) -> None:
    assert segments.advance(connection, 1, SegmentState.SEALED) is False
    assert segments.advance(connection, 1, SegmentState.SEALING)
    assert segments.advance(connection, 1, SegmentState.SEALING) is False
    assert states(connection) == {1: "sealing"}


def test_without_a_spare_leaf_one_is_made(
    resources: Resources, drain: Drain, connection: Connection, other: Connection
) -> None:
    ingested(drain, document("a"))
    for number in (2, 3, 4):
        connection.execute(text(f"DROP TABLE chunks_s{number:06d}"))
    assert seal(resources)["sealed"] == []
    assert states(connection) == {1: "open"}, "rows still have a place to go"
    assert seal(resources)["sealed"] == ["chunks_s000001"]
    assert states(connection) == {1: "sealed", 5: "open"}, "the postings of the lost ones keep their numbers"


# beside its users


def test_a_writer_that_holds_the_segment_is_let_finish(
    resources: Resources, drain: Drain, connection: Connection, other: Connection
) -> None:
    [document_id] = ingested(drain, document("a"))
    held = segments.lock_open(other)
    with in_background(lambda: seal(resources)) as sealing:
        wait_for(connection, "(SELECT state FROM segments WHERE segment = 1) = 'sealing'")
        wait_for(
            connection,
            "EXISTS (SELECT 1 FROM pg_stat_activity WHERE application_name = 'ingest seal'"
            " AND datname = current_database() AND wait_event_type = 'Lock')",
        )
        assert segments.lock_open(connection).segment == 2, "the next writer waits for nobody"
        other.execute(
            text(f"""
                INSERT INTO {held.leaf} (segment, chunk_id, document_id, tenant_id, chunk_index, text,
                                         char_length, content_hash, embedding)
                SELECT segment, gen_random_uuid(), document_id, tenant_id, chunk_index + 1, 'late', 4,
                       sha256('late'), embedding FROM {held.leaf} WHERE document_id = :id LIMIT 1"""),
            {"id": document_id},
        )
        other.commit()
        assert sealing.result(60)["sealed"] == ["chunks_s000001"]
    connection.execute(text("SET enable_seqscan = off"))
    by_index = value(
        connection,
        "SELECT count(*) FROM (SELECT embedding FROM chunks_s000001"
        " ORDER BY embedding <=> (SELECT embedding FROM chunks_s000001 LIMIT 1) LIMIT 100) AS near",
    )
    assert by_index == 26


def test_a_writer_that_comes_too_late_for_a_segment_takes_the_next(
    resources: Resources, connection: Connection, other: Connection
) -> None:
    other.execute(text("SELECT 1 FROM segments WHERE segment = 1 FOR UPDATE"))
    with in_background(lambda: _locked_segment(resources)) as late:
        wait_for(
            connection,
            "EXISTS (SELECT 1 FROM pg_stat_activity WHERE datname = current_database()"
            " AND wait_event_type = 'Lock' AND query LIKE '%FOR KEY SHARE%')",
        )
        assert segments.open_next(other) == (1, "chunks_s000001")
        other.commit()
        assert late.result(60) == (2, "chunks_s000002")


def _locked_segment(resources: Resources) -> segments.Segment:
    with transaction(resources.engine) as connection:
        return segments.lock_open(connection)


def test_deletions_and_edits_beside_a_build_are_kept(
    resources: Resources, drain: Drain, connection: Connection, other: Connection
) -> None:
    deleted, kept, restored = (ingested(drain, document(name))[0] for name in "abc")
    delete([restored])
    other.execution_options(isolation_level="REPEATABLE READ")
    assert value(other, "SELECT count(*) FROM chunks") > 0  # an old snapshot: the build waits for it
    with in_background(lambda: seal(resources)) as sealing:
        wait_for(connection, WAITING)
        delete([deleted])
        restore([restored])
        ingested_again = submit([document("b", chunks=30)])
        assert list(ingested_again.changed) == [kept]
        drain()
        assert not sealing.done()
        other.rollback()
        assert sealing.result(60)["sealed"] == ["chunks_s000001", "chunks_s000002"]
    counted = connection.execute(
        text("SELECT document_id, count(*) AS chunks FROM chunks WHERE segment <> -1 GROUP BY document_id")
    )
    assert {row.document_id: row.chunks for row in counted} == {kept: 30, restored: 25}
    hits = found_by(resources, vectors(1)[0], k=100)
    assert sorted(hits) == sorted([*(f"b {n}" for n in range(30)), *(f"c {n}" for n in range(25))])
    assert indexes(connection)["chunks_s000001_embedding_idx"]


# cut short


def interrupted_build(
    resources: Resources, connection: Connection, other: Connection
) -> subprocess.Popen[bytes]:
    """A sealing process whose build waits for an old snapshot."""
    other.execution_options(isolation_level="REPEATABLE READ")
    assert value(other, "SELECT count(*) FROM chunks") > 0
    program = "from worker.maintenance.run import run_chore\nfrom worker.resources import resources\n"
    process = subprocess.Popen(
        [sys.executable, "-c", program + "run_chore(resources(), 'seal')"], cwd=ROOT, env=child_environment()
    )
    wait_for(connection, WAITING)
    return process


def test_a_killed_sealer_is_followed_by_one_that_finishes(
    resources: Resources, drain: Drain, connection: Connection, other: Connection
) -> None:
    ingested(drain, document("a"))
    process = interrupted_build(resources, connection, other)
    process.kill()
    process.wait()
    assert indexes(connection) == {"chunks_s000001_embedding_idx": False}
    # the server notices by itself: client_connection_check_interval
    wait_for(
        connection,
        "NOT EXISTS (SELECT 1 FROM pg_stat_activity"
        " WHERE application_name = 'ingest seal' AND datname = current_database())",
    )
    other.rollback()
    assert seal(resources)["sealed"] == ["chunks_s000001"]
    assert indexes(connection) == {"chunks_s000001_embedding_idx": True}
    assert states(connection) == {1: "sealed", 2: "open"}


def test_a_build_whose_session_is_ended_is_made_anew(
    resources: Resources, drain: Drain, connection: Connection, other: Connection
) -> None:
    ingested(drain, document("a"))
    process = interrupted_build(resources, connection, other)
    value(
        connection,
        "SELECT pg_terminate_backend(pid, 10000)::text FROM pg_stat_activity"
        " WHERE application_name = 'ingest seal' AND datname = current_database()",
    )
    assert process.wait(60) != 0
    assert value(connection, "SELECT outcome FROM maintenance_runs") == "running"
    other.rollback()
    assert seal(resources)["sealed"] == ["chunks_s000001"]
    outcomes = connection.execute(text("SELECT outcome FROM maintenance_runs ORDER BY started_at")).scalars()
    assert list(outcomes) == ["failed", "done"]


def test_a_worker_that_stops_cancels_its_build(
    resources: Resources, drain: Drain, connection: Connection, other: Connection
) -> None:
    ingested(drain, document("a"))
    other.execution_options(isolation_level="REPEATABLE READ")
    assert value(other, "SELECT count(*) FROM chunks") > 0
    asked: list[bool] = []
    with in_background(lambda: run_chore(resources, "seal", stopping=lambda: bool(asked))) as sealing:
        wait_for(connection, WAITING)
        asked.append(True)
        with pytest.raises(DBAPIError, match="canceling statement"):
            sealing.result(60)
    assert value(connection, "SELECT outcome FROM maintenance_runs") == "failed"
    other.rollback()
    assert seal(resources)["sealed"] == ["chunks_s000001"]


def test_an_index_that_was_finished_is_not_built_again(
    resources: Resources, drain: Drain, connection: Connection
) -> None:
    ingested(drain, document("a"))
    seal(resources)
    built = value(connection, "SELECT 'chunks_s000001_embedding_idx'::regclass::oid")
    connection.execute(text("UPDATE segments SET state = 'sealing', sealed_rows = NULL WHERE segment = 1"))
    assert seal(resources)["sealed"] == ["chunks_s000001"]
    assert value(connection, "SELECT 'chunks_s000001_embedding_idx'::regclass::oid") == built


def test_a_leaf_that_was_dropped_is_named_and_keeps_nobody_else_waiting(
    resources: Resources, drain: Drain, connection: Connection
) -> None:
    ingested(drain, document("a"))
    connection.execute(text("DROP TABLE chunks_s000001"))
    with pytest.raises(DBAPIError, match='"chunks_s000001" does not exist'):
        seal(resources)
    assert states(connection) == {1: "sealing", 2: "open"}
    ingested(drain, document("b"))
    with pytest.raises(DBAPIError, match='"chunks_s000001" does not exist'):
        seal(resources)
    assert states(connection) == {1: "sealing", 2: "sealed", 3: "open"}
    assert len(found_by(resources, vectors(1)[0], k=100)) == 25


def test_an_index_that_somebody_dropped_is_built_again(
    resources: Resources, drain: Drain, connection: Connection
) -> None:
    ingested(drain, document("a"))
    seal(resources)
    connection.execute(text("DROP INDEX chunks_s000001_embedding_idx"))
    assert seal(resources)["sealed"] == ["chunks_s000001"]
    assert indexes(connection) == {"chunks_s000001_embedding_idx": True}
    assert seal(resources)["sealed"] == []


# memory


def test_without_shared_memory_one_process_builds(
    resources: Resources, drain: Drain, connection: Connection
) -> None:
    ingested(drain, document("a", chunks=2_000))
    connection.execute(text("ALTER TABLE chunks_s000001 SET (parallel_workers = 2)"))
    # more than any machine has: a parallel build asks for all of it at once
    huge = resources.settings.model_copy(update={"build_memory_bytes": 1 << 40, "build_workers": 2})
    assert run_chore(Resources(huge), "seal")["sealed"] == ["chunks_s000001"]
    assert indexes(connection) == {"chunks_s000001_embedding_idx": True}


# backpressure


def test_rows_without_an_index_hold_ingestion_up(
    resources: Resources, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writing, "ROOM_SECONDS", 0)
    bounded = _bounded(monkeypatch, 55)
    submit([document(str(number)) for number in range(8)])
    for _ in range(8):
        _work_off(bounded, connection)
        held = segments.unsealed_rows(connection)
        assert held <= 55
        if value(connection, "SELECT count(*) FROM documents WHERE status = 'pending'"):
            assert held > 0
            assert dispatch(bounded) == 0
        run_chore(bounded, "seal")  # and dispatches: there is room again
    assert value(connection, "SELECT count(*) FROM chunks") == 200


def test_a_batch_waits_for_room_before_its_write(
    connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    bounded = _bounded(monkeypatch, 60)
    submit([document(str(number)) for number in range(2)])
    _work_off(bounded, connection)
    assert segments.unsealed_rows(connection) == 50
    submit([document("more")])
    asked: list[bool] = []
    has_room = segments.has_room

    def watched(*arguments: Any) -> bool:
        asked.append(has_room(*arguments))
        if not asked[-1]:
            run_chore(bounded, "seal")
        return asked[-1]

    monkeypatch.setattr(segments, "has_room", watched)
    batch_id = value(connection, "SELECT batch_id FROM batches WHERE state = 'queued'")
    assert ingest_batch(bounded, batch_id, "test") == {"completed": 1}
    assert asked[:2] == [False, True]
    assert segments.unsealed_rows(connection) == 25


def test_who_must_stop_writes_without_room(connection: Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    bounded = _bounded(monkeypatch, 60)
    submit([document(str(number)) for number in range(2)])
    _work_off(bounded, connection)
    submit([document("more")])
    stop = False

    def full(*_: Any) -> bool:
        nonlocal stop
        stop = True
        return False

    monkeypatch.setattr(segments, "has_room", full)
    batch_id = value(connection, "SELECT batch_id FROM batches WHERE state = 'queued'")
    done = ingest_batch(bounded, batch_id, "test", stopping=lambda: stop)
    assert (done, segments.unsealed_rows(connection)) == ({"completed": 1}, 75)


def _bounded(monkeypatch: pytest.MonkeyPatch, most: int) -> Resources:
    monkeypatch.setenv("MAX_UNSEALED_ROWS", str(most))
    monkeypatch.setenv("BATCH_DOCUMENTS", "1")
    load_settings.cache_clear()
    return Resources(load_settings())


def _work_off(resources: Resources, connection: Connection) -> None:
    """Process what is dispatched, until nothing more is."""
    queued = text("SELECT batch_id FROM batches WHERE state = 'queued'")
    while batch_ids := connection.execute(queued).scalars().all():
        for batch_id in batch_ids:
            ingest_batch(resources, batch_id, "test")
        dispatch(resources)
