"""The database against what it says about itself: damage of each kind is found and mended, nothing else."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from pydantic import SecretStr
from sqlalchemy import Connection, text

from tests.conftest import Run
from tests.integration.prepared import SENTENCES, SETTINGS, NewDatabase, prepare, told
from tests.integration.test_maintenance import tell, value, values, wait_for
from tests.integration.test_sealing import in_background
from worker import Document, GivenDocument, delete, load, restore, submit
from worker.db.engine import driver_url
from worker.db.grants import Role
from worker.db.logins import role_names
from worker.db.operations import lock_chore
from worker.db.roles import make_roles
from worker.dispatch import dispatch
from worker.embedded import RunningValkey
from worker.errors import Exit
from worker.ingest import ingest_batch
from worker.maintenance import cases, reconcile
from worker.maintenance.run import run_chore
from worker.producer import find
from worker.queries import read_query
from worker.resources import Resources
from worker.searching import search
from worker.settings import child_environment
from worker.steps.soundness import Fault, Finding
from worker.types import GivenChunk

ROOT = Path(__file__).parents[2]

Drain = Callable[[], dict[str, int]]

NAMES = ("apples", "bridges", "clocks", "dolphins")


@pytest.fixture
def environment() -> dict[str, str]:
    return SETTINGS


@pytest.fixture(scope="module")
def template(new_database: NewDatabase, template: str, valkey: RunningValkey) -> str:
    """Four documents of four chunks: two in a sealed segment, two in the open one; and a duplicate."""
    notes = [Document.text(told(name), source_path=name) for name in NAMES]
    twin = Document.text(told("apples"), source_path="twin")
    return prepare(new_database(template), valkey, SETTINGS, [notes[:2], notes[2:], [twin]])


@pytest.fixture
def ids(settings: object) -> dict[str, UUID]:
    return {found.source_path: found.document_id for found in find([*NAMES, "twin"])}


def examined(resources: Resources, tenant: UUID | None = None) -> dict[str, int]:
    """What `ingest verify` finds."""
    found: dict[str, int] = reconcile.examine(resources, tenant, lambda _: None)["found"]
    return found


def reconciled(resources: Resources) -> dict[str, Any]:
    did = run_chore(resources, "reconcile")
    assert did["next"] is None, did["reason"]
    return did


def whole(connection: Connection) -> bool:
    """Every document has its four chunks, once, and words find each."""
    sets = connection.execute(
        text("""
            SELECT count(c.chunk_id), count(DISTINCT c.chunk_index), max(d.total_chunks) FROM documents d
            LEFT JOIN chunks c ON c.document_id = d.document_id AND c.segment IN (
                SELECT segment FROM segments WHERE state IN ('open', 'sealing', 'sealed'))
            WHERE d.deleted_at IS NULL AND d.status = 'completed' GROUP BY d.document_id""")
    )
    return {tuple(row) for row in sets} == {(SENTENCES, SENTENCES, SENTENCES)}


def found_by_words(resources: Resources, words: str) -> int:
    return len(search(resources, read_query(text=words, mode="keyword", k=50)).hits)


def row(connection: Connection, document_id: UUID) -> Any:
    return connection.execute(
        text("SELECT * FROM documents WHERE document_id = :id"), {"id": document_id}
    ).one()


# -- a healthy database ------------------------------------------------------------------------------------


def test_there_is_nothing_to_find_in_a_healthy_database(
    resources: Resources, ids: dict[str, UUID], drain: Drain, tmp_path: Path
) -> None:
    delete([ids["apples"]])
    delete([ids["dolphins"]])
    restore([ids["dolphins"]])
    (gone := tmp_path / "gone").write_text("words")
    edited = Document.text("Another text about clocks.", source_path="clocks")
    submit([edited, Document.text(" ", source_path="empty"), Document.path(gone)])
    gone.unlink()
    load([GivenDocument("loaded", [GivenChunk("by the river", [1.0] * 256)])])
    drain()
    did = reconciled(resources)
    assert (did["found"], did["mended"], did["left"], did["documents"]) == ({}, {}, 0, 8)
    assert did["chunks"] == 4 * SENTENCES + 1 + 1


def test_nothing_is_found_while_documents_are_processed_moved_and_merged(
    resources: Resources, ids: dict[str, UUID], connection: Connection
) -> None:
    """Whatever is asked at whatever moment of a drain: each look is one snapshot."""
    busy = Resources(resources.settings)
    stop: list[bool] = []

    def work() -> int:
        rounds = 0
        while not stop:
            rounds += 1
            texts = (f"Round {rounds // 2} of {name}, and what came of it." for name in NAMES)
            submit([Document.text(told, source_path=f"busy {n}") for n, told in enumerate(texts)])
            dispatch(busy)
            for batch_id in values(connection, "SELECT batch_id FROM batches WHERE state = 'queued'"):
                ingest_batch(busy, batch_id, "test")
            delete([ids["bridges"]])
            run_chore(busy, "seal")
            restore([ids["bridges"]])
            run_chore(busy, "compact")
        return rounds

    with in_background(work) as working:
        try:
            for _ in range(25):
                assert examined(resources) == {}
        finally:
            stop.append(True)
        assert working.result(60) > 1
    busy.close()


def test_a_pass_goes_on_where_the_last_run_ended(
    resources: Resources, ids: dict[str, UUID], connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cases, "DOCUMENTS_A_PIECE", 2)
    monkeypatch.setattr(reconcile, "MOST_SECONDS", 0)
    seen = []
    while True:
        did = run_chore(resources, "reconcile")
        seen.append(did["documents"])
        if did["next"] is None:
            break
        assert did["reason"] == "its time was up: the next run goes on"
    assert (sum(seen), seen[:3]) == (5, [0, 2, 2])


def test_pieces_are_smaller_where_documents_are_large(
    resources: Resources, ids: dict[str, UUID], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cases, "CHUNKS_A_PIECE", 1)
    assert reconciled(resources)["documents"] == 5
    assert reconciled(resources)["found"] == {}


# -- documents and their chunks ----------------------------------------------------------------------------

VISIBLE = "segment IN (SELECT segment FROM segments WHERE state IN ('open', 'sealing', 'sealed'))"


def _rows_deleted(connection: Connection, ids: dict[str, UUID], leaf: str = "chunks_s000001") -> None:
    two = f"SELECT chunk_id FROM {leaf} WHERE document_id = :id LIMIT 2"
    tell(connection, f"DELETE FROM {leaf} WHERE chunk_id IN ({two})", id=ids["apples"])


def _no_row_left(connection: Connection, ids: dict[str, UUID]) -> None:
    tell(connection, "DELETE FROM chunks WHERE document_id = :id", id=ids["apples"])


def _counter_changed(connection: Connection, ids: dict[str, UUID]) -> None:
    tell(connection, "UPDATE documents SET total_chunks = 9 WHERE document_id = :id", id=ids["apples"])


def _written_twice(connection: Connection, ids: dict[str, UUID]) -> None:
    again = """jsonb_build_object('segment', 2, 'chunk_id', gen_random_uuid())"""
    tell(
        connection,
        f"""INSERT INTO chunks SELECT (jsonb_populate_record(c, {again})).* FROM chunks c
            WHERE document_id = :id""",
        id=ids["apples"],
    )


def _same_rows_twice(connection: Connection, ids: dict[str, UUID]) -> None:
    tell(
        connection,
        """INSERT INTO chunks SELECT (jsonb_populate_record(c, '{"segment": 2}')).* FROM chunks c
           WHERE document_id = :id""",
        id=ids["apples"],
    )


def _one_more(connection: Connection, ids: dict[str, UUID]) -> None:
    tell(
        connection,
        """INSERT INTO chunks SELECT (jsonb_populate_record(c, jsonb_build_object(
               'segment', 2, 'chunk_id', gen_random_uuid(), 'chunk_index', 1))).* FROM chunks c
           WHERE document_id = :id LIMIT 1""",
        id=ids["apples"],
    )


def _another_in_place_of_one(connection: Connection, ids: dict[str, UUID]) -> None:
    _one_more(connection, ids)
    tell(
        connection,
        "DELETE FROM chunks WHERE document_id = :id AND chunk_index = 1048576",
        id=ids["apples"],
    )
    _counter_changed(connection, ids)


@pytest.mark.parametrize(
    "damage",
    [
        _rows_deleted,
        _no_row_left,
        _counter_changed,
        _written_twice,
        _same_rows_twice,
        _one_more,
        _another_in_place_of_one,
    ],
)
def test_a_chunk_set_that_is_not_what_its_row_says_is_made_again(
    damage: Callable[[Connection, dict[str, UUID]], None],
    resources: Resources,
    ids: dict[str, UUID],
    connection: Connection,
    drain: Drain,
) -> None:
    damage(connection, ids)
    assert examined(resources) == {"chunks": 1}
    assert (did := reconciled(resources))["mended"] == {"chunks": 1}, did
    damaged = row(connection, ids["apples"])
    assert (damaged.status, damaged.error_code) == ("pending", "damaged")
    assert "chunks were left: it is processed again" in damaged.error_message
    assert examined(resources) == {}, "what is left is what its row says"
    assert row(connection, ids["twin"]).duplicate_of == ids["apples"]
    assert drain() == {"completed": 1}
    assert whole(connection)
    assert examined(resources) == {}
    assert found_by_words(resources, "apples") == SENTENCES
    assert row(connection, ids["apples"]).error_code is None


def test_what_is_left_stays_searchable_where_the_source_is_gone(
    resources: Resources, connection: Connection, drain: Drain, tmp_path: Path
) -> None:
    (file := tmp_path / "eagles").write_text(told("eagles"))
    [eagles] = submit([Document.path(file)]).new
    drain()
    _rows_deleted(connection, {"apples": eagles}, "chunks_s000002")
    file.unlink()
    reconciled(resources)
    assert drain() == {"failed": 1}
    failed = row(connection, eagles)
    assert (failed.error_code, failed.total_chunks) == ("not_found", 2)
    assert found_by_words(resources, "eagles") == 2
    assert reconciled(resources)["found"] == {}


def test_what_no_copy_was_kept_of_fails_clearly_and_is_whole_when_it_is_loaded_again(
    resources: Resources, connection: Connection, drain: Drain
) -> None:
    document = GivenDocument("loaded", [GivenChunk(f"words {n}", [1.0 + n] * 256) for n in range(SENTENCES)])
    load([document])
    tell(connection, "DELETE FROM chunks WHERE text IN ('words 1', 'words 2')")
    reconciled(resources)
    assert drain() == {"failed": 1}
    assert values(connection, "SELECT error_code FROM documents WHERE status = 'failed'") == ["not_kept"]
    assert load([document]).completed == 1
    assert whole(connection)
    assert examined(resources) == {}


def test_a_failed_document_is_corrected_and_waits_for_its_retry(
    resources: Resources, ids: dict[str, UUID], connection: Connection, drain: Drain
) -> None:
    tell(
        connection,
        """UPDATE documents SET status = 'failed', error_code = 'x', error_message = 'x'
           WHERE document_id = :id""",
        id=ids["apples"],
    )
    _no_row_left(connection, ids)
    assert reconciled(resources)["mended"] == {"chunks": 1}
    failed = row(connection, ids["apples"])
    assert (failed.status, failed.fingerprint, failed.total_chunks) == ("failed", None, None)
    assert drain() == {"completed": 1}, "its duplicate inherits"
    assert found_by_words(resources, "apples") == SENTENCES
    assert examined(resources) == {}


@pytest.mark.parametrize("status", ["duplicate", "skipped", "failed"])
def test_chunks_of_a_document_that_has_none_go(
    status: str, resources: Resources, ids: dict[str, UUID], connection: Connection
) -> None:
    twin = ids["twin"]
    if status != "duplicate":
        tell(
            connection,
            """UPDATE documents SET status = :status, duplicate_of = NULL,
                      error_code = 'x', error_message = 'x'
               WHERE document_id = :id""",
            status=status,
            id=twin,
        )
    tell(
        connection,
        """INSERT INTO chunks SELECT (jsonb_populate_record(c, jsonb_build_object(
               'segment', 2, 'document_id', :twin, 'chunk_id', gen_random_uuid()))).*
           FROM chunks c WHERE document_id = :id""",
        twin=str(twin),
        id=ids["apples"],
    )
    assert examined(resources) == {"leftovers": 1}
    assert reconciled(resources)["mended"] == {"leftovers": 1}
    assert value(connection, "SELECT count(*) FROM chunks WHERE document_id = :id", id=twin) == 0
    assert row(connection, twin).status == status
    assert examined(resources) == {}
    assert whole(connection)


def test_chunks_of_a_deleted_document_go_into_the_trash(
    resources: Resources, ids: dict[str, UUID], connection: Connection
) -> None:
    tell(connection, "UPDATE documents SET deleted_at = now() WHERE document_id = :id", id=ids["clocks"])
    assert examined(resources) == {"deleted": 1}
    assert reconciled(resources)["mended"] == {"deleted": 1}
    assert found_by_words(resources, "clocks") == 0
    assert examined(resources) == {}
    assert restore([ids["clocks"]]) == 1
    assert row(connection, ids["clocks"]).status == "completed"
    assert whole(connection)


def test_some_of_a_deleted_document_left_in_sight_join_the_others(
    resources: Resources, ids: dict[str, UUID], connection: Connection
) -> None:
    delete([ids["clocks"]])
    tell(connection, "UPDATE chunks SET segment = 2 WHERE segment = -1 AND chunk_index > 2097152")
    tell(
        connection,
        """INSERT INTO chunks SELECT (jsonb_populate_record(c, '{"segment": 1}')).* FROM chunks c
           WHERE segment = -1 LIMIT 1""",
    )
    tell(connection, "UPDATE segments SET sealed_rows = 9 WHERE state = 'sealed'")
    assert reconciled(resources)["mended"] == {"deleted": 1}
    assert value(connection, "SELECT count(*) FROM chunks WHERE segment = -1") == SENTENCES
    assert examined(resources) == {}


def test_chunks_of_a_living_document_come_out_of_the_trash(
    resources: Resources, ids: dict[str, UUID], connection: Connection
) -> None:
    tell(
        connection,
        "UPDATE chunks SET segment = -1 WHERE document_id = :id AND chunk_index > 2097152",
        id=ids["clocks"],
    )
    assert examined(resources) == {"trash": 1}
    assert reconciled(resources)["mended"] == {"trash": 1}
    assert row(connection, ids["clocks"]).status == "completed"
    assert whole(connection)
    assert examined(resources) == {}


def test_a_deleted_document_whose_chunks_were_lost_is_processed_when_it_is_restored(
    resources: Resources, ids: dict[str, UUID], connection: Connection, drain: Drain
) -> None:
    delete([ids["clocks"]])
    tell(connection, "DELETE FROM chunks WHERE segment = -1 AND chunk_index > 2097152")
    assert examined(resources) == {"chunks": 1}
    assert reconciled(resources)["mended"] == {"chunks": 1}
    assert drain() == {}
    assert restore([ids["clocks"]]) == 1
    assert drain() == {"completed": 1}
    assert whole(connection)


def test_chunks_of_another_project_become_those_of_their_documents(
    resources: Resources, ids: dict[str, UUID], connection: Connection
) -> None:
    tell(connection, "INSERT INTO projects (tenant_id, name) SELECT tenant_id, 'other' FROM tenants")
    strange = "UPDATE chunks SET project_id = (SELECT project_id FROM projects) WHERE document_id = :id"
    tell(connection, strange, id=ids["apples"])
    assert examined(resources) == {"project": 1}
    assert reconciled(resources)["mended"] == {"project": 1}
    assert values(connection, "SELECT DISTINCT project_id FROM chunks") == [None]


def test_a_duplicate_of_nobody_is_processed_and_finds_who_owns_its_content(
    resources: Resources, ids: dict[str, UUID], connection: Connection, drain: Drain
) -> None:
    point = "UPDATE documents SET duplicate_of = :other WHERE document_id = :id"
    tell(connection, point, other=ids["clocks"], id=ids["twin"])
    assert examined(resources) == {"duplicate": 1}
    assert reconciled(resources)["mended"] == {"duplicate": 1}
    assert drain() == {"duplicate": 1}
    assert row(connection, ids["twin"]).duplicate_of == ids["apples"]


def test_a_duplicate_of_a_row_that_is_gone_inherits(
    resources: Resources, ids: dict[str, UUID], connection: Connection, drain: Drain
) -> None:
    tell(connection, "DELETE FROM chunks WHERE document_id = :id", id=ids["apples"])
    tell(connection, "ALTER TABLE documents DROP CONSTRAINT documents_duplicate_of_fkey")
    tell(connection, "DELETE FROM documents WHERE document_id = :id", id=ids["apples"])
    assert examined(resources) == {"duplicate": 1}
    assert reconciled(resources)["mended"] == {"duplicate": 1}
    assert drain() == {"completed": 1}
    assert found_by_words(resources, "apples") == SENTENCES


def test_a_document_in_a_batch_that_is_over_is_named(
    resources: Resources, ids: dict[str, UUID], connection: Connection
) -> None:
    submit([Document.text("new", source_path="new")])
    tell(
        connection,
        """UPDATE batches SET state = 'abandoned', finished_at = now(), lease_token = NULL,
                  lease_expires_at = NULL WHERE state = 'queued'""",
    )
    did = reconcile.examine(resources, None, lambda _: None)
    assert [(one["fault"], one["mend"]) for one in did["findings"]] == [
        ("batch", "run `ingest maintain rescue`")
    ]
    assert reconciled(resources)["left"] == 1
    run_chore(resources, "rescue")
    assert examined(resources) == {}


def test_chunks_of_a_document_that_is_not_there_are_named(
    resources: Resources, ids: dict[str, UUID], connection: Connection
) -> None:
    tell(connection, "ALTER TABLE chunks DROP CONSTRAINT chunks_document_id_fkey")
    for lost in (UUID(int=1), UUID(int=(1 << 128) - 1)):
        tell(connection, "UPDATE chunks SET document_id = :lost WHERE document_id = :id",
             lost=lost, id=ids["clocks" if lost.int == 1 else "dolphins"])  # fmt: skip
    did = reconcile.examine(resources, None, lambda _: None)
    assert did["found"] == {"orphans": 2, "chunks": 2}
    for one in did["findings"]:
        if one["fault"] == "orphans":
            tell(connection, one["mend"].removeprefix("run "))
    assert examined(resources) == {"chunks": 2}


def test_one_that_a_worker_has_is_left_to_it(
    resources: Resources, ids: dict[str, UUID], connection: Connection
) -> None:
    _rows_deleted(connection, ids)
    tell(
        connection,
        "INSERT INTO batches (tenant_id, lane, documents) SELECT tenant_id, 'bulk', 1 FROM tenants",
    )
    tell(
        connection,
        """UPDATE documents SET status = 'processing', settled_at = NULL, batch_id = (
               SELECT batch_id FROM batches WHERE state = 'queued') WHERE document_id = :id""",
        id=ids["apples"],
    )
    did = reconciled(resources)
    assert (did["found"], did["mended"], did["left"]) == ({"chunks": 1}, {}, 1)
    assert row(connection, ids["apples"]).status == "processing"


# -- segments, leaves, space -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tables", "gone"),
    [
        (["chunks_s000001"], ["apples", "bridges"]),
        (["chunks_s000001", "postings_s000001"], ["apples", "bridges"]),
        (["chunks_s000002"], ["clocks", "dolphins"]),
        (["chunks_s000002", "postings_s000002"], ["clocks", "dolphins"]),
    ],
)
def test_a_segment_whose_table_was_dropped_is_made_anew_and_its_documents_are_put_back(
    tables: list[str],
    gone: list[str],
    resources: Resources,
    ids: dict[str, UUID],
    connection: Connection,
    drain: Drain,
) -> None:
    for table in tables:
        tell(connection, f"DROP TABLE {table}")
    found = {"leaf": len(tables), "chunks": 2}
    assert {fault: examined(resources)[fault] for fault in found} == found
    did = reconciled(resources)
    assert (did["left"], {fault: did["mended"][fault] for fault in found}) == (0, found)
    assert values(
        connection, "SELECT document_id FROM documents WHERE status = 'pending' ORDER BY 1"
    ) == sorted(ids[name] for name in gone)
    assert sum(drain().values()) == 2
    for chore in ("seal", "compact"):
        run_chore(resources, chore)
    assert examined(resources) == {}
    assert whole(connection)
    for name in NAMES:
        assert found_by_words(resources, name) == SENTENCES


def test_a_repair_that_the_server_refuses_keeps_no_other_from_being_made(
    resources: Resources, ids: dict[str, UUID], connection: Connection
) -> None:
    tell(connection, "DROP TABLE chunks_s000004; DELETE FROM postings")
    _written_twice(connection, ids)
    tell(
        connection,
        """
        CREATE FUNCTION refuse_table() RETURNS event_trigger LANGUAGE plpgsql AS
            $$ BEGIN RAISE 'no tables' USING ERRCODE = '42501'; END $$;
        CREATE EVENT TRIGGER refuse ON ddl_command_start WHEN TAG IN ('CREATE TABLE')
            EXECUTE FUNCTION refuse_table();
        CREATE FUNCTION refuse_row() RETURNS trigger LANGUAGE plpgsql AS
            $$ BEGIN RAISE 'no rows' USING ERRCODE = '42501'; END $$;
        CREATE TRIGGER refuse BEFORE INSERT ON postings FOR EACH ROW EXECUTE FUNCTION refuse_row()""",
    )
    did = reconciled(resources)
    assert did["found"] == {"leaf": 1, "postings": 1, "chunks": 1}
    assert did["mended"] == {}, "a leaf is to be mended first"
    tell(connection, "DROP EVENT TRIGGER refuse")
    did = reconciled(resources)
    assert did["mended"] == {"leaf": 1, "chunks": 1}
    tell(connection, "DROP TRIGGER refuse ON postings")
    assert reconciled(resources)["mended"] == {"postings": 1}


@pytest.mark.parametrize("state", ["sealed", "open"])
def test_postings_that_were_dropped_are_written_again_from_the_chunks(
    state: str, resources: Resources, connection: Connection
) -> None:
    tell(connection, "UPDATE documents SET content = NULL")  # nothing is read again
    before = searched(resources)
    segment = value(connection, "SELECT segment FROM segments WHERE state = :state", state=state)
    tell(connection, f"DROP TABLE postings_s{segment:06}")
    did = reconciled(resources)
    assert (did["mended"]["leaf"], did["mended"]["postings"]) == (1, 1)
    assert examined(resources) == {}
    assert searched(resources) == before


def searched(resources: Resources) -> list[tuple[str, float]]:
    hits = search(resources, read_query(text="tells apples bridges clocks", mode="keyword", k=50)).hits
    return sorted((hit.text, round(hit.score, 6)) for hit in hits)


def test_postings_of_a_few_chunks_are_written_again(
    resources: Resources, ids: dict[str, UUID], connection: Connection
) -> None:
    before = searched(resources)
    tell(connection, "TRUNCATE postings_s000002")
    assert reconciled(resources)["mended"]["postings"] == 1
    assert examined(resources) == {}
    assert searched(resources) == before
    assert reconciled(resources)["found"] == {}


def test_words_that_no_posting_has_are_named(
    resources: Resources, ids: dict[str, UUID], connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cases, "SAMPLE_EVERY", 1)
    tell(connection, "DELETE FROM postings WHERE term = 'clock'")
    did = reconcile.examine(resources, None, lambda _: None)
    assert did["found"] == {"terms": 1}
    assert did["findings"][0]["seen"] == "no posting has its first chunk for: clock"


def test_the_trash_is_made_anew(resources: Resources, ids: dict[str, UUID], connection: Connection) -> None:
    make_roles(resources.settings, "trash_")
    tell(connection, "DROP TABLE chunks_trash")
    assert examined(resources) == {"leaf": 1}
    assert reconciled(resources)["mended"] == {"leaf": 1}
    assert delete([ids["apples"]]) == 1
    may = "SELECT has_table_privilege(:name, 'chunks_trash', 'INSERT')"
    assert value(connection, may, name=role_names("trash_")[Role.INGEST]) is False


def test_a_leaf_that_was_detached_or_forgotten_is_named_and_documents_are_left_alone(
    resources: Resources, ids: dict[str, UUID], connection: Connection
) -> None:
    tell(connection, "ALTER TABLE chunks DETACH PARTITION chunks_s000001")
    did = reconciled(resources)
    assert (did["found"], did["mended"]) == ({"leaf": 1, "chunks": 2}, {})
    assert did["reason"].endswith("documents were left as they are")
    (mend,) = (one["mend"] for one in did["findings"] if one["fault"] == "leaf")
    tell(connection, mend.removeprefix("run "))
    assert examined(resources) == {}
    tell(connection, "DELETE FROM segments WHERE segment = 2")
    did = reconciled(resources)
    assert (did["found"]["leaf"], did["mended"]) == (2, {"segment": 1})
    tell(connection, "INSERT INTO segments (segment, leaf, state) VALUES (2, 'chunks_s000002', 'sealing')")
    assert examined(resources) == {}


def test_without_an_open_segment_a_spare_one_is_opened(
    resources: Resources, ids: dict[str, UUID], connection: Connection
) -> None:
    tell(connection, "UPDATE segments SET state = 'sealing' WHERE state = 'open'")
    assert examined(resources) == {"segment": 1}
    assert reconciled(resources)["mended"] == {"segment": 1}
    assert values(connection, "SELECT segment FROM segments WHERE state = 'open'") == [3]


def test_a_wrong_count_of_a_sealed_segment_is_corrected(
    resources: Resources, ids: dict[str, UUID], connection: Connection
) -> None:
    tell(connection, "UPDATE segments SET sealed_rows = 1 WHERE state = 'sealed'")
    assert examined(resources) == {"segment": 1}
    assert reconciled(resources)["mended"] == {"segment": 1}
    assert values(connection, "SELECT sealed_rows FROM segments WHERE state = 'sealed'") == [8]


@pytest.mark.parametrize(
    "change", ["UPDATE embedding_space SET dimension = 3", "DELETE FROM embedding_space"]
)
def test_an_embedding_space_that_is_not_what_is_stored_is_named(
    change: str, resources: Resources, connection: Connection
) -> None:
    tell(connection, change)
    assert reconciled(resources)["found"] == {"space": 1}


# -- how a run goes ------------------------------------------------------------------------------------------


def test_a_run_mends_so_many_and_the_next_goes_on(
    resources: Resources, ids: dict[str, UUID], connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reconcile, "MOST_MENDED", 3)
    monkeypatch.setattr(cases, "DOCUMENTS_A_PIECE", 2)
    tell(connection, "DELETE FROM chunks")
    did = run_chore(resources, "reconcile")
    assert (did["mended"], did["reason"]) == ({"chunks": 3}, "3 were mended: the next run goes on")
    assert did["next"] is not None
    assert reconciled(resources)["mended"] == {"chunks": 1}
    assert reconciled(resources)["found"] == {}


def test_nothing_is_mended_while_segments_are_merged(
    resources: Resources, ids: dict[str, UUID], connection: Connection
) -> None:
    _rows_deleted(connection, ids)
    assert lock_chore(connection, "compact")
    did = reconciled(resources)
    assert (did["found"], did["mended"]) == ({"chunks": 1}, {})
    assert did["reason"].startswith("segments are being merged")
    tell(connection, "SELECT pg_advisory_unlock_all()")
    assert reconciled(resources)["mended"] == {"chunks": 1}


def test_a_dry_run_finds_and_changes_nothing(
    resources: Resources, ids: dict[str, UUID], connection: Connection
) -> None:
    _rows_deleted(connection, ids)
    did = run_chore(resources, "reconcile", dry_run=True)
    assert (did["found"], did["mended"], did["left"], did["reason"]) == ({"chunks": 1}, {}, 1, "")
    assert row(connection, ids["apples"]).status == "completed"


def test_a_run_that_is_killed_is_done_again(
    resources: Resources, ids: dict[str, UUID], connection: Connection, other: Connection, drain: Drain
) -> None:
    _rows_deleted(connection, ids)
    tell(other, "SELECT 1 FROM documents WHERE document_id = :id FOR UPDATE", id=ids["apples"])
    program = """
from worker.maintenance.run import run_chore
from worker.resources import resources
run_chore(resources(), "reconcile")
"""
    killed = subprocess.Popen([sys.executable, "-c", program], cwd=ROOT, env=child_environment())
    mine = "datname = current_database() AND application_name LIKE 'ingest%' AND pid <> pg_backend_pid()"
    wait_for(connection, f"EXISTS (SELECT 1 FROM pg_stat_activity WHERE {mine} AND wait_event_type = 'Lock')")
    killed.kill()
    killed.wait()
    tell(
        connection,
        f"""SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity
            WHERE {mine} AND (wait_event_type = 'Lock' OR application_name = 'ingest reconcile')""",
    )
    tell(other, "ROLLBACK")
    assert row(connection, ids["apples"]).status == "completed"
    assert reconciled(resources)["mended"] == {"chunks": 1}
    assert drain() == {"completed": 1}


def test_maintenance_may_do_it_all(
    resources: Resources, ids: dict[str, UUID], connection: Connection, drain: Drain
) -> None:
    make_roles(resources.settings, "recon_")
    name = role_names("recon_")[Role.MAINTENANCE]
    url = driver_url(resources.settings.database_url).set(username=name)
    mine = SecretStr(url.render_as_string(hide_password=False))
    own = Resources(
        resources.settings.model_copy(update={"database_url": mine, "maintenance_database_url": mine})
    )
    _written_twice(connection, ids)
    tell(connection, "DROP TABLE postings_s000002; DROP TABLE chunks_s000004")
    did = reconciled(own)
    assert (did["left"], did["mended"]) == (0, {"leaf": 2, "chunks": 1, "postings": 1})
    own.close()
    owner = "SELECT relowner::regrole::text FROM pg_class WHERE relname = 'postings_s000002'"
    assert value(connection, owner) == role_names("recon_")[Role.OWNER]
    drain()
    assert whole(connection)


# -- the command ---------------------------------------------------------------------------------------------


def test_verify_names_what_is_wrong_and_mends_it_when_asked(
    ingest: Run, resources: Resources, ids: dict[str, UUID], connection: Connection
) -> None:
    _rows_deleted(connection, ids)
    done = ingest("verify")
    assert done.returncode == Exit.FINDINGS
    assert done.stdout.decode().splitlines() == [
        "✘ chunks     apples: its row says 4 chunks, stored: 2 → run `ingest verify --repair`",
        "5 documents and 14 chunks looked at: 1 wrong, 0 mended",
    ]
    done = ingest("verify", "--repair", "--json")
    assert done.returncode == Exit.OK, done.stderr
    did = json.loads(done.stdout)
    assert (did["mended"], did["left"], did["findings"][0]["mended"]) == ({"chunks": 1}, 0, True)
    assert values(connection, "SELECT chore FROM maintenance_runs WHERE chore = 'reconcile'") == ["reconcile"]
    assert lock_chore(connection, "reconcile")
    done = ingest("verify", "--repair")
    assert (done.returncode, done.stdout.decode()) == (
        Exit.FINDINGS,
        "reconcile is running elsewhere; nothing was done here\n",
    )


def test_verify_of_a_tenant_looks_at_nothing_else(
    ingest: Run, resources: Resources, ids: dict[str, UUID], connection: Connection, drain: Drain
) -> None:
    submit([Document.text("theirs", source_path="theirs")], tenant="other")
    drain()
    _rows_deleted(connection, ids)
    done = ingest("verify", "--tenant", "other")
    assert (done.returncode, done.stdout.decode()) == (
        Exit.OK,
        "1 document and 1 chunk looked at: all as it should be\n",
    )
    assert reconciled(resources)["mended"] == {"chunks": 1}
    _rows_deleted(connection, ids)
    assert ingest("verify", "--repair", "--tenant", "other").returncode == Exit.OK
    runs = "SELECT details -> 'mended' FROM maintenance_runs WHERE chore = 'reconcile'"
    assert values(connection, runs) == [{"chunks": 1}], "the record is of all tenants"
    tell(connection, "TRUNCATE postings_s000002")
    tenant = value(connection, "SELECT tenant_id FROM tenants WHERE name = 'other'")
    assert examined(resources, tenant) == {"postings": 1}
    assert ingest("verify", "--tenant", "nobody").returncode == Exit.USAGE


def test_findings_are_named_up_to_a_bound(resources: Resources, connection: Connection) -> None:
    survey = reconcile.Survey(cases.Inspector(resources))
    one = Finding(Fault.ORPHANS, str(uuid4()), "seen", "mend")
    survey._take([cases.Case(one)] * (reconcile.MOST_NAMED + 1))
    details = survey.details("")
    assert (len(details["findings"]), details["left"]) == (reconcile.MOST_NAMED, reconcile.MOST_NAMED + 1)
