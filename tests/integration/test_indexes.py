"""The chore `indexes` on a real server: what it finds, what it mends, and what it leaves to a person."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from psycopg2 import errors as pg
from sqlalchemy import Connection
from sqlalchemy.exc import IntegrityError

from tests.integration.test_maintenance import submit_texts, tell, value, values, wait_for
from tests.integration.upkeep import (
    bloat_heartbeats,
    fill_heartbeats,
    finding,
    member_of,
    outside_the_window,
    running,
    session,
)
from worker.cli.checks import State
from worker.db import indexes as catalogue
from worker.db import rebuilds
from worker.db.engine import single_connection_engine
from worker.db.models import schema
from worker.maintenance.run import run_chore
from worker.resources import Resources
from worker.types import EmbeddingType

NOTHING = {"sizes_by": "estimate"}
_CHUNKS = schema(256, EmbeddingType.VECTOR).tables["chunks"]
OF_CHUNKS = sorted(["chunks_pkey", *(str(index.name) for index in _CHUNKS.indexes)])
DEFINITIONS = """
SELECT string_agg(pg_get_indexdef(i.indexrelid) || i.indisvalid || i.indisready, E'\n' ORDER BY c.relname)
FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid
WHERE c.relnamespace = 'public'::regnamespace AND NOT c.relispartition"""


def look(resources: Resources, *, scheduled: bool = False) -> dict[str, Any]:
    """What a run found and did, without what is empty."""
    did = run_chore(resources, "indexes", scheduled=scheduled)
    assert did.pop("outcome") == "done"
    return {name: found for name, found in did.items() if found}


def test_all_indexes_of_a_new_database_are_there(resources: Resources, connection: Connection) -> None:
    assert look(resources) == NOTHING
    assert finding(connection, "indexes").state is State.OK


def test_an_index_of_somebody_whose_build_failed_is_found_and_left(
    resources: Resources, connection: Connection
) -> None:
    fill_heartbeats(connection, 2)
    with pytest.raises(IntegrityError) as refused:
        tell(connection, "CREATE UNIQUE INDEX CONCURRENTLY half_made_ccnew ON heartbeats (kind)")
    assert isinstance(refused.value.orig, pg.UniqueViolation)
    assert look(resources) == NOTHING | {"invalid": ["half_made_ccnew"]}
    found = finding(connection, "indexes")
    assert (found.state, found.seen) == (State.FAILED, "half_made_ccnew cannot be used")
    assert "REINDEX INDEX CONCURRENTLY half_made_ccnew, or drop it" in found.mend
    tell(connection, "DROP INDEX half_made_ccnew")
    assert look(resources) == NOTHING


def test_an_index_that_is_being_built_is_not_found(
    resources: Resources, connection: Connection, other: Connection
) -> None:
    tell(other, "UPDATE segments SET state = state")  # a writer the build has to wait for
    engine = single_connection_engine(resources.settings.database_url)
    with (
        engine.connect().execution_options(isolation_level="AUTOCOMMIT") as builder,
        ThreadPoolExecutor(1) as pool,
    ):
        build = pool.submit(tell, builder, "CREATE INDEX CONCURRENTLY in_the_making ON segments (updated_at)")
        try:
            wait_for(
                connection, "EXISTS (SELECT 1 FROM pg_stat_progress_create_index WHERE index_relid <> 0)"
            )
            valid = "SELECT indisvalid FROM pg_index WHERE indexrelid = 'in_the_making'::regclass"
            assert value(connection, valid) is False
            assert look(resources) == NOTHING
        finally:
            other.rollback()
        build.result(timeout=20)


# what is gone


@pytest.mark.parametrize(
    ("change", "missing", "mend"),
    [
        (
            "ALTER TABLE heartbeats DROP CONSTRAINT heartbeats_pkey",
            ["heartbeats_pkey is gone"],
            "run ALTER TABLE heartbeats ADD CONSTRAINT heartbeats_pkey PRIMARY KEY (name)",
        ),
        (
            "ALTER TABLE tenants DROP CONSTRAINT tenants_name_key",
            ["tenants_name_key is gone"],
            "run ALTER TABLE tenants ADD CONSTRAINT tenants_name_key UNIQUE (name)",
        ),
        ("DROP TABLE chunks_s000003", ["chunks_s000003 is gone"], "make it anew by `ingest verify --repair`"),
        (
            "ALTER TABLE chunks DETACH PARTITION chunks_s000004",
            [f"chunks_s000004 lacks {name}" for name in OF_CHUNKS],
            "run ALTER TABLE chunks ATTACH PARTITION chunks_s000004 FOR VALUES IN (4)",
        ),
        (
            "DROP TABLE postings_s000003",
            ["postings_s000003 is gone"],
            "make it anew by `ingest verify --repair`",
        ),
        (
            "ALTER TABLE postings DETACH PARTITION postings_s000004",
            ["postings_s000004 lacks postings_term_idx"],
            "run ALTER TABLE postings ATTACH PARTITION postings_s000004 FOR VALUES IN (4)",
        ),
    ],
)
def test_what_only_a_person_brings_back_is_named_with_what_does(
    change: str, missing: list[str], mend: str, resources: Resources, connection: Connection
) -> None:
    tell(connection, change)
    assert look(resources)["missing"] == missing
    found = finding(connection, "indexes")
    assert found.state is State.FAILED
    assert found.mend.startswith(mend)
    if mend.startswith("run "):
        tell(connection, found.mend.removeprefix("run "))
        assert look(resources) == NOTHING


@pytest.mark.parametrize(
    "index", ["documents_content_hash_idx", "segments_open_key", "chunks_place_key", "chunks_project_id_idx"]
)
def test_an_index_that_somebody_dropped_is_made_again(
    index: str, resources: Resources, connection: Connection
) -> None:
    before = value(connection, DEFINITIONS)
    tell(connection, f"DROP INDEX {index}")
    elsewhen = outside_the_window(resources, connection)
    waiting = {"index": index, "why": "outside of MAINTENANCE_WINDOW"}
    found = look(elsewhen, scheduled=True)
    assert (found["missing"], found["not_made"]) == ([f"{index} is gone"], [waiting])
    assert run_chore(resources, "indexes", dry_run=True)["to_make"] == [index]
    assert look(resources) == NOTHING | {"made": [index]}
    assert value(connection, DEFINITIONS) == before


def test_an_index_under_another_name_is_the_one_too_many(
    resources: Resources, connection: Connection
) -> None:
    tell(connection, "ALTER INDEX documents_status_idx RENAME TO theirs")
    found = look(resources)
    assert found["made"] == ["documents_status_idx"]
    [double] = found["duplicates"]
    assert (double["index"], double["same_as"]) == ("theirs", "documents_status_idx")
    assert "theirs is the same as documents_status_idx" in finding(connection, "indexes").seen


def _spoil(connection: Connection) -> None:
    """Leave an index of the schema as a build by hand that failed does."""
    tell(
        connection,
        "UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'documents_status_idx'::regclass",
    )


def test_an_index_of_the_schema_that_is_invalid_is_made_again(
    resources: Resources, connection: Connection
) -> None:
    _spoil(connection)
    assert look(resources) == NOTHING | {"made": ["documents_status_idx"]}
    assert value(connection, "SELECT bool_and(indisvalid) FROM pg_index")


def test_an_invalid_index_that_a_transaction_keeps_waits_for_the_next_run(
    resources: Resources, connection: Connection, other: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.db.builds.WAIT_SECONDS", 1)
    _spoil(connection)
    tell(other, "LOCK TABLE documents IN ROW EXCLUSIVE MODE")
    [left] = look(resources)["not_made"]
    assert (left["index"], left["held_by"]["kind"]) == ("documents_status_idx", "session")
    other.rollback()
    assert look(resources) == NOTHING | {"made": ["documents_status_idx"]}


def test_rows_that_a_unique_index_forbids_are_named(resources: Resources, connection: Connection) -> None:
    submit_texts("a")
    tell(connection, "DROP INDEX documents_source_key")
    tell(
        connection,
        """INSERT INTO documents (tenant_id, filename, source_path, source_key, file_type)
           SELECT tenant_id, filename, source_path, source_key, file_type FROM documents""",
    )
    found = look(resources)
    why = 'could not create unique index "documents_source_key"'
    assert found["not_made"] == [{"index": "documents_source_key", "why": why}]
    assert found["missing"] == ["documents_source_key is gone"]
    assert "invalid" not in found
    assert why in finding(connection, "indexes").seen


def test_tables_in_use_keep_the_parts_waiting(
    resources: Resources, connection: Connection, other: Connection
) -> None:
    tell(connection, "DROP INDEX chunks_created_at_idx")
    tell(other, "LOCK TABLE ONLY chunks IN ROW EXCLUSIVE MODE")
    found = look(resources)
    assert found["not_made"] == [
        {
            "index": "chunks_created_at_idx",
            "why": "the tables are in use: its parts are built and wait to be attached",
        }
    ]
    built = value(connection, "SELECT 'chunks_s000001_created_at_idx'::regclass::oid")
    other.rollback()
    assert look(resources) == NOTHING | {"made": ["chunks_created_at_idx"]}
    assert value(connection, "SELECT 'chunks_s000001_created_at_idx'::regclass::oid") == built


# interrupted builds

WRITING = "LOCK TABLE heartbeats IN ROW EXCLUSIVE MODE"
LOOKING_BACK = "SELECT count(*) FROM tenants"
READING = "LOCK TABLE heartbeats IN ACCESS SHARE MODE"
POINTS = {  # who holds REINDEX up, the phase it waits in, and what it leaves if it is ended there
    "waiting for writers before build": (WRITING, "ccnew"),
    "waiting for writers before validation": (LOOKING_BACK, "ccnew"),
    "waiting for readers before marking dead": (READING, "ccold"),
}


@pytest.fixture
def bloated(connection: Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worker.db.bloat._LEAST_WASTE", 0)
    bloat_heartbeats(connection, 2000)


@pytest.mark.usefixtures("bloated")
@pytest.mark.parametrize("ended_by", ["pg_cancel_backend", "pg_terminate_backend"])
@pytest.mark.parametrize("phase", POINTS)
def test_what_an_ended_build_leaves_is_dropped(
    phase: str,
    ended_by: str,
    resources: Resources,
    connection: Connection,
    other: Connection,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("worker.db.rebuilds._DROP_MS", 50)
    hold, left = POINTS[phase]
    leftover = f"heartbeats_pkey_{left}"
    if hold is LOOKING_BACK:
        other.execution_options(isolation_level="REPEATABLE READ")
        phase = "waiting for old snapshots"
    tell(other, hold)
    with running(lambda: run_chore(resources, "reindex")) as outcome:
        wait_for(connection, f"EXISTS (SELECT 1 FROM pg_stat_progress_create_index WHERE phase = '{phase}')")
        assert rebuilds.leftovers(connection, catalogue.expected(resources.settings)) == []
        assert look(resources, scheduled=False).get("dropped") is None, "somebody builds"
        tell(connection, f"SELECT {ended_by}(pid) FROM pg_stat_progress_create_index")
    assert isinstance(outcome[0], Exception)
    other.rollback()
    if hold is LOOKING_BACK and ended_by == "pg_cancel_backend":
        assert catalogue.invalid(connection) == [], "it has tidied up: nobody uses the table"
        return
    assert catalogue.invalid(connection) == [leftover]
    assert run_chore(resources, "indexes", dry_run=True)["to_drop"] == [leftover]
    assert look(resources)["dropped"] == [leftover]
    assert catalogue.invalid(connection) == []
    assert value(connection, "SELECT indisvalid FROM pg_index WHERE indexrelid = 'heartbeats_pkey'::regclass")


@pytest.mark.usefixtures("bloated")
def test_a_leftover_with_a_cut_name_is_ours_and_anothers_is_not(
    resources: Resources, connection: Connection
) -> None:
    long = value(
        connection, "SELECT max(relname) FROM pg_class WHERE relname LIKE 'chunks_s000001_document_id%'"
    )
    cut = f"{long[:57]}_ccnew"
    for name, table in (
        (cut, "chunks_s000001"),
        ("theirs_ccnew", "heartbeats"),
        ("heartbeats_ccnew1", "heartbeats"),
    ):
        tell(connection, f"CREATE INDEX {name} ON {table} (created_at)")
        tell(connection, f"UPDATE pg_index SET indisvalid = false WHERE indexrelid = '{name}'::regclass")
    assert look(resources)["dropped"] == [cut]
    assert catalogue.invalid(connection) == ["heartbeats_ccnew1", "theirs_ccnew"]


# what is there for nothing, and what is unknown


def test_doubled_and_unused_indexes_are_named_and_stay(
    resources: Resources, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.db.indexes._LARGE", 0)
    tell(connection, "CREATE INDEX twice ON tenants (name)")
    found = look(resources)
    assert [(double["index"], double["same_as"]) for double in found["duplicates"]] == [
        ("twice", "tenants_name_key")
    ]
    assert "unused" not in found, "counters of a new database tell nothing"
    tell(connection, "UPDATE embedding_space SET created_at = now() - interval '30 days'")
    unused = {index["index"] for index in look(resources)["unused"]}
    assert {"twice", "documents_created_at_idx", "chunks_created_at_idx"} <= unused
    assert not unused & {"tenants_name_key", "segments_open_key", "chunks_s000001_created_at_idx"}
    assert "twice was never used since" in finding(connection, "indexes").seen
    with session(resources) as reader:
        tell(reader, "SET enable_seqscan = off")
        tell(reader, "SELECT FROM documents WHERE created_at > now()")
    wait_for(
        connection, "idx_scan > 0 FROM pg_stat_user_indexes WHERE indexrelname = 'documents_created_at_idx'"
    )
    assert "documents_created_at_idx" not in {index["index"] for index in look(resources)["unused"]}
    assert values(connection, "SELECT 'twice'::regclass::text") == ["twice"]


def test_tables_without_statistics_are_named_until_they_are_vacuumed(
    resources: Resources, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.db.vacuums.KNOWN_BYTES", 0)
    fill_heartbeats(connection, 10)
    tell(connection, "DELETE FROM pg_statistic")
    assert "heartbeats" in look(resources)["without_statistics"]
    found = finding(connection, "indexes")
    assert (found.state, found.mend) == (State.WARNING, "run `ingest maintain vacuum`")
    assert "heartbeats" in run_chore(resources, "vacuum")["vacuumed"]
    assert "heartbeats" not in look(resources).get("without_statistics", [])


# amcheck


def test_damage_that_amcheck_finds_stays_known_until_it_is_mended(
    resources: Resources, connection: Connection
) -> None:
    """By a function that says what amcheck says: the wheel's server has none."""
    fill_heartbeats(connection, 300)
    tell(
        connection,
        """CREATE FUNCTION bt_index_check(index regclass) RETURNS void STRICT LANGUAGE plpgsql AS $$
           BEGIN
               IF index = 'heartbeats_pkey'::regclass THEN
                   RAISE 'item order invariant violated for index "%"', index USING ERRCODE = 'XX002';
               END IF;
           END $$""",
    )
    assert look(resources) == NOTHING, "a function of that name is not amcheck's"
    with member_of(connection, "amcheck", "bt_index_check(regclass)"):
        damaged = {
            "index": "heartbeats_pkey",
            "why": 'item order invariant violated for index "heartbeats_pkey"',
        }
        found = look(resources)
        assert (found["damaged"], found["checked"] >= 1) == ([damaged], True)
        said = finding(connection, "indexes")
        assert said.state is State.FAILED
        assert said.mend.endswith("run REINDEX INDEX CONCURRENTLY heartbeats_pkey")
        assert look(outside_the_window(resources, connection))["damaged"] == [damaged]
        tell(connection, "CREATE OR REPLACE FUNCTION bt_index_check(index regclass) RETURNS void STRICT"
             " LANGUAGE plpgsql AS $$ BEGIN END $$")  # fmt: skip
        assert "damaged" not in look(resources)
