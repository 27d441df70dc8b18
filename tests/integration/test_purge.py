"""What goes for good: documents deleted long ago with all that hangs on them, content that nobody needs."""

import subprocess
import sys
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import Connection, text

from tests.integration.prepared import NewDatabase, prepare
from tests.integration.test_maintenance import purged, tell, value, values, wait_for
from tests.integration.test_sealing import in_background
from worker import Document, cancel, delete, restore, retry, submit
from worker.db import purging
from worker.db.engine import transaction
from worker.embedded import RunningValkey
from worker.maintenance import purge
from worker.maintenance.run import run_chore
from worker.producer import find
from worker.resources import Resources
from worker.settings import child_environment

ROOT = Path(__file__).parents[2]

Drain = Callable[[], dict[str, int]]


SETTINGS = {"EMBEDDING_PROVIDER": "none", "DELETED_RETENTION_DAYS": "20", "CONTENT_RETENTION_DAYS": "5"}


@pytest.fixture
def environment() -> dict[str, str]:
    return SETTINGS


def note(name: str, content: str | None = None) -> Document:
    return Document.text(content or f"the text of {name}", source_path=name)


@pytest.fixture(scope="module")
def template(new_database: NewDatabase, template: str, valkey: RunningValkey) -> str:
    """Three documents of one chunk each, completed."""
    return prepare(new_database(template), valkey, SETTINGS, [[note(name) for name in "abc"]])


@pytest.fixture
def ids(settings: object) -> dict[str, UUID]:
    return {document.source_path: document.document_id for document in find(list("abc"))}


def age_deletion(connection: Connection, days: int, *documents: UUID) -> None:
    tell(
        connection,
        """UPDATE documents SET deleted_at = now() - make_interval(days => :days)
           WHERE document_id = ANY(:ids)""",
        days=days,
        ids=list(documents),
    )


def deleted(connection: Connection, *documents: UUID, days: int = 21) -> None:
    assert delete(documents) == len(documents)
    age_deletion(connection, days, *documents)


def names(connection: Connection) -> list[str]:
    return values(connection, "SELECT source_path FROM documents ORDER BY 1")


# -- deleted documents -----------------------------------------------------------------------------------


def test_what_was_deleted_long_ago_goes_and_what_was_deleted_lately_stays(
    resources: Resources, connection: Connection, ids: dict[str, UUID]
) -> None:
    deleted(connection, ids["a"], days=21)
    deleted(connection, ids["b"], days=19)
    assert run_chore(resources, "purge") == purged(documents=1, chunks=1)
    assert names(connection) == ["b", "c"]
    assert values(connection, "SELECT document_id FROM chunks WHERE segment = -1") == [ids["b"]]
    assert restore([ids["a"]]) == 0
    assert restore([ids["b"]]) == 1
    assert run_chore(resources, "purge") == purged()


def test_off_keeps_them_for_ever(resources: Resources, connection: Connection, ids: dict[str, UUID]) -> None:
    deleted(connection, ids["a"], days=5000)
    kept = Resources(resources.settings.model_copy(update={"deleted_retention_days": "off"}))
    assert run_chore(kept, "purge") == purged()
    assert "documents_to_go" not in run_chore(kept, "purge", dry_run=True)
    kept.close()


def test_a_dry_run_counts_and_changes_nothing(
    resources: Resources, connection: Connection, ids: dict[str, UUID]
) -> None:
    submit([note("empty", " ")])
    deleted(connection, ids["a"], ids["b"])
    did = run_chore(resources, "purge", dry_run=True)
    assert (did["documents_to_go"], did["chunks_to_go"], did["contents_to_go"]) == (2, 2, 0)
    assert names(connection) == ["a", "b", "c", "empty"]
    assert value(connection, "SELECT count(*) FROM chunks WHERE segment = -1") == 2


def test_they_go_in_parts_of_so_many_documents_or_chunks(
    resources: Resources, connection: Connection, ids: dict[str, UUID], monkeypatch: pytest.MonkeyPatch
) -> None:
    deleted(connection, *ids.values())
    tell(connection, "UPDATE documents SET total_chunks = 50")
    with transaction(resources.engine) as trying:
        assert purging.purge_deleted(trying, resources.settings, 500, 99) == (1, 1)
        assert purging.purge_deleted(trying, resources.settings, 500, 100) == (2, 2)
        trying.rollback()
    monkeypatch.setattr(purge, "DOCUMENTS_A_PART", 1)
    monkeypatch.setattr(purge, "MOST_PARTS", 2)
    assert run_chore(resources, "purge") == purged(documents=2, chunks=2)
    assert run_chore(resources, "purge") == purged(documents=1, chunks=1)


def test_a_worker_that_stops_leaves_whole_parts(
    resources: Resources, connection: Connection, ids: dict[str, UUID]
) -> None:
    deleted(connection, *ids.values())
    asked: list[bool] = []
    purge_deleted = purging.purge_deleted

    def purge_one_and_stop(*arguments: Any) -> Any:
        asked.append(True)
        gone = purge_deleted(*arguments)
        wait_for(connection, "true")
        return gone

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(purge, "DOCUMENTS_A_PART", 1)
        patched.setattr(purging, "purge_deleted", purge_one_and_stop)
        patched.setattr("worker.maintenance.run._ATTENTION_SECONDS", 0.001)
        did = run_chore(resources, "purge", stopping=lambda: bool(asked))
    assert 1 <= did["documents"] < 3
    assert len(names(connection)) == 3 - did["documents"]


def test_an_index_finds_them(resources: Resources, connection: Connection) -> None:
    tell(connection, "SET enable_seqscan = off")
    plan = values(
        connection, f"EXPLAIN SELECT 1 FROM documents d WHERE {purging._LONG_DELETED}", deleted_days=1
    )
    assert any("documents_deleted_at_idx" in line for line in plan)
    for condition in purging._NEEDLESS.values():
        plan = values(connection, f"EXPLAIN SELECT 1 FROM documents WHERE {condition}", content_days=1)
        assert any("documents_content_idx" in line for line in plan)


def test_copies_in_a_leaf_that_a_merge_has_emptied_keep_nothing(
    resources: Resources, connection: Connection, ids: dict[str, UUID]
) -> None:
    tell(connection, "UPDATE segments SET state = 'emptied' WHERE segment = 2")
    tell(
        connection,
        "INSERT INTO chunks SELECT (jsonb_populate_record(c, '{\"segment\": 2}')).* FROM chunks c",
    )
    deleted(connection, ids["a"])
    assert run_chore(resources, "purge") == purged(documents=1, chunks=2)


def test_a_duplicate_that_is_deleted_too_can_still_be_restored(
    resources: Resources, connection: Connection, drain: Drain, ids: dict[str, UUID]
) -> None:
    [twin] = submit([note("twin", "the text of a")]).new
    assert drain() == {"duplicate": 1}
    deleted(connection, twin, days=1)
    deleted(connection, ids["a"])
    assert run_chore(resources, "purge")["documents"] == 1
    row = connection.execute(
        text(
            """SELECT status, duplicate_of, deleted_at IS NOT NULL AS gone FROM documents
               WHERE document_id = :id"""
        ),
        {"id": twin},
    ).one()
    assert tuple(row) == ("pending", None, True)
    assert drain() == {}
    assert restore([twin]) == 1
    assert drain() == {"completed": 1}


def test_an_owner_and_its_duplicate_go_together(
    resources: Resources, connection: Connection, drain: Drain, ids: dict[str, UUID]
) -> None:
    [twin] = submit([note("twin", "the text of a")]).new
    drain()
    deleted(connection, twin)
    deleted(connection, ids["a"])
    assert run_chore(resources, "purge") == purged(documents=2, chunks=1)


def test_a_living_duplicate_that_still_points_at_one_inherits(
    resources: Resources, connection: Connection, drain: Drain, ids: dict[str, UUID]
) -> None:
    [twin] = submit([note("twin", "the text of a")]).new
    drain()
    tell(connection, "UPDATE documents SET deleted_at = now() WHERE source_path = 'a'")
    age_deletion(connection, 21, ids["a"])
    assert run_chore(resources, "purge") == purged(documents=1, chunks=1)
    assert drain() == {"completed": 1}
    assert values(connection, "SELECT document_id FROM chunks WHERE text = 'the text of a'") == [twin]


def test_who_is_being_restored_is_passed_over_and_keeps_all_its_chunks(
    resources: Resources, connection: Connection, other: Connection, ids: dict[str, UUID]
) -> None:
    deleted(connection, ids["a"], ids["b"])
    other.execute(text("SELECT 1 FROM documents WHERE document_id = :id FOR NO KEY UPDATE"), {"id": ids["a"]})
    assert run_chore(resources, "purge") == purged(documents=1, chunks=1)
    other.rollback()
    assert restore([ids["a"]]) == 1
    assert run_chore(resources, "purge") == purged()
    assert values(connection, "SELECT document_id FROM chunks WHERE segment > 0 ORDER BY 1") == sorted(
        [ids["a"], ids["c"]]
    )


def test_a_restoration_behind_a_purge_finds_nothing(
    resources: Resources, connection: Connection, ids: dict[str, UUID]
) -> None:
    deleted(connection, ids["a"])
    with ExitStack() as stack, transaction(resources.engine) as going:
        assert purging.purge_deleted(going, resources.settings, 1, 1) == (1, 1)
        late = stack.enter_context(in_background(lambda: restore([ids["a"]])))
        waiting = "wait_event_type = 'Lock' AND datname = current_database()"
        wait_for(connection, f"EXISTS (SELECT 1 FROM pg_stat_activity WHERE {waiting})")
        assert not late.done()
        going.commit()
        assert late.result(20) == 0


def test_a_purge_that_is_killed_has_done_nothing_by_halves(
    resources: Resources, connection: Connection, other: Connection, ids: dict[str, UUID]
) -> None:
    deleted(connection, ids["a"])
    tell(other, "LOCK TABLE chunks_trash IN SHARE MODE")
    program = """
from worker.maintenance.run import run_chore
from worker.resources import resources
run_chore(resources(), "purge")
"""
    killed = subprocess.Popen([sys.executable, "-c", program], cwd=ROOT, env=child_environment())
    mine = "datname = current_database() AND query LIKE '%DELETE FROM chunks%' AND pid <> pg_backend_pid()"
    wait_for(connection, f"EXISTS (SELECT 1 FROM pg_stat_activity WHERE {mine} AND wait_event_type = 'Lock')")
    killed.kill()
    killed.wait()
    theirs = "datname = current_database() AND application_name LIKE 'ingest%'"
    tell(
        connection, f"SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity WHERE {theirs} AND {mine}"
    )
    tell(other, "ROLLBACK")
    assert names(connection) == ["a", "b", "c"]
    wait_for(connection, "NOT EXISTS (SELECT 1 FROM pg_locks WHERE locktype = 'advisory')")
    assert run_chore(resources, "purge") == purged(documents=1, chunks=1)


# -- inline content --------------------------------------------------------------------------------------


def kept(connection: Connection) -> dict[str, bool]:
    found = connection.execute(text("SELECT source_path, content IS NOT NULL FROM documents"))
    return {row[0]: row[1] for row in found}


def test_content_of_what_was_skipped_goes_and_is_known_all_the_same(
    resources: Resources, connection: Connection, drain: Drain
) -> None:
    submit([note("white", " \n "), note("binary", "\x00\x01\x02" * 50)])
    assert drain() == {"skipped": 2}
    before = values(connection, "SELECT updated_at FROM documents ORDER BY source_path")
    assert run_chore(resources, "purge", dry_run=True)["contents_to_go"] == 2
    assert run_chore(resources, "purge") == purged(contents=2)
    there = kept(connection)
    assert (there["white"], there["binary"], there["a"]) == (False, False, True)
    assert values(connection, "SELECT updated_at FROM documents ORDER BY source_path") == before
    assert submit([note("white", " \n ")]).unchanged == 1
    assert len(submit([note("white", "words")]).changed) == 1
    assert drain() == {"completed": 1}
    assert values(connection, "SELECT content_digest FROM documents WHERE source_path = 'white'") == [None]


def test_content_that_may_be_needed_stays(
    resources: Resources, connection: Connection, drain: Drain, ids: dict[str, UUID]
) -> None:
    submit([note("twin", "the text of a"), Document.chunks([], source_path="none")])
    drain()
    cancelled = submit([note("cancelled"), note("waiting")]).new
    cancel(cancelled[:1])
    tell(
        connection,
        """UPDATE documents SET status = 'failed', error_code = 'x', error_message = 'x', fingerprint = NULL,
                  total_chunks = NULL WHERE source_path = 'b'""",
    )
    tell(connection, "UPDATE documents SET settled_at = settled_at - interval '4 days'")
    assert run_chore(resources, "purge")["contents"] == 1
    assert [name for name, there in kept(connection).items() if not there] == ["none"]


def test_content_of_what_is_completed_goes_by_the_policy_alone(
    resources: Resources, connection: Connection, drain: Drain, ids: dict[str, UUID]
) -> None:
    tell(
        connection,
        "UPDATE documents SET settled_at = settled_at - interval '6 days' WHERE source_path <> 'c'",
    )
    off = Resources(resources.settings.model_copy(update={"content_retention_days": "off"}))
    assert run_chore(off, "purge") == purged()
    off.close()
    assert run_chore(resources, "purge") == purged(contents=2)
    assert kept(connection) == {"a": False, "b": False, "c": True}
    assert submit([note("a"), note("b"), note("c")]).unchanged == 3
    assert len(submit([note("a", "other words")]).changed) == 1
    assert drain() == {"completed": 1}
    assert kept(connection)["a"]


def test_what_is_processed_without_its_content_fails_clearly(
    resources: Resources, connection: Connection, drain: Drain, ids: dict[str, UUID], tmp_path: Path
) -> None:
    (tmp_path / "a").write_text("a file that happens to have this name")
    tell(connection, "UPDATE documents SET settled_at = settled_at - interval '6 days'")
    run_chore(resources, "purge")
    delete([ids["a"]])
    submit([note("heir", "the text of a")])
    drain()
    assert restore([ids["a"]]) == 1
    assert drain() == {"failed": 1}
    reason = "SELECT error_code || ': ' || error_message FROM documents WHERE document_id = :id"
    assert value(connection, reason, id=ids["a"]) == (
        "not_kept: its content was dropped (CONTENT_RETENTION_DAYS): submit it again"
    )
    assert retry([ids["a"]]) == 1
    assert drain() == {"failed": 1}
    submit([note("a")])
    assert drain() == {"duplicate": 1}
