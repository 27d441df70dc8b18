"""The chore `reindex` on a real server: by need, the worst first, and never where it would do harm."""

import os
from typing import Any, NamedTuple

import pytest
from pydantic import SecretStr
from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError, ProgrammingError

from tests.integration.test_maintenance import tell, value
from tests.integration.test_sealing import SMALL_SEGMENTS, Drain, document, found_by, ingested, seal, vectors
from tests.integration.upkeep import (
    bloat_heartbeats,
    filenode,
    finding,
    member_of,
    outside_the_window,
    session,
)
from worker.cli.checks import State
from worker.db import indexes
from worker.db.grants import Role
from worker.db.logins import role_urls
from worker.db.roles import make_roles
from worker.maintenance.run import run_chore
from worker.maintenance.turn import Turn
from worker.resources import Resources
from worker.settings import Settings

INDEX = "heartbeats_pkey"
IS_16 = os.environ.get("POSTGRES_VERSION") == "16"


class Usage(NamedTuple):
    """What the operating system says of a disk."""

    total: int
    used: int
    free: int


@pytest.fixture
def environment() -> dict[str, str]:
    return SMALL_SEGMENTS


@pytest.fixture(autouse=True)
def _(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small indexes count."""
    monkeypatch.setattr("worker.db.bloat._LEAST_WASTE", 0)


@pytest.fixture
def bloated(connection: Connection) -> None:
    bloat_heartbeats(connection, 10_000)


def reindex(resources: Resources, *, scheduled: bool = False) -> dict[str, Any]:
    did = run_chore(resources, "reindex", scheduled=scheduled)
    assert did.pop("outcome") == "done"
    assert did.pop("sizes_by") == "estimate"
    return {name: found for name, found in did.items() if found}


def left(resources: Resources) -> list[Any]:
    """Why indexes were left, and that nothing was done."""
    did = reindex(resources)
    assert set(did) == {"left"}
    assert [found["index"] for found in did["left"]] == [INDEX]
    return [found["why"] for found in did["left"]]


@pytest.mark.usefixtures("bloated")
def test_an_index_too_large_for_its_rows_is_built_anew(resources: Resources, connection: Connection) -> None:
    [described] = run_chore(resources, "reindex", dry_run=True)["to_rebuild"]
    size = value(connection, f"SELECT pg_relation_size('{INDEX}')")
    assert (described["index"], described["bytes"], described["by"]) == (INDEX, size, "estimate")
    [named] = run_chore(resources, "indexes")["oversized"]
    assert named["index"] == INDEX
    [rebuilt] = reindex(resources)["rebuilt"]
    after = value(connection, f"SELECT pg_relation_size('{INDEX}')")
    assert (rebuilt["bytes"], rebuilt["bytes_after"], rebuilt["rows"]) == (size, after, 100)
    assert rebuilt["times_a_fresh_one"] > 5 > 2 * after * 5 / size
    assert reindex(resources) == {}
    assert indexes.invalid(connection) == []
    assert finding(connection, "index sizes").state is State.OK


def test_the_worst_comes_first_and_a_run_is_bounded(
    resources: Resources, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    tell(connection, "CREATE INDEX small ON heartbeats (pid)")
    bloat_heartbeats(connection, 10_000)
    monkeypatch.setattr("worker.maintenance.reindex.MOST_INDEXES", 1)
    did = reindex(resources)
    assert [found["index"] for found in did["rebuilt"]] == [INDEX]
    assert did["still_oversized"] == ["small"]
    assert [found["index"] for found in reindex(resources)["rebuilt"]] == ["small"]


def test_what_is_no_smaller_when_built_is_not_built_again(
    resources: Resources, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    bloat_heartbeats(connection, 0)
    tell(connection, "INSERT INTO heartbeats SELECT n, 'k', 1, 1 FROM generate_series(1, 2000) n")
    tell(connection, "VACUUM (ANALYZE) heartbeats")
    monkeypatch.setattr("worker.steps.indexsizes._BTREE_LEAF", 1_000_000)  # an estimate far too low
    assert [found["index"] for found in reindex(resources)["rebuilt"]] == [INDEX]
    assert reindex(resources) == {}


def test_rows_that_came_since_the_last_analyze_count(resources: Resources, connection: Connection) -> None:
    bloat_heartbeats(connection, 200)
    tell(connection, "ANALYZE heartbeats")
    tell(connection, "INSERT INTO heartbeats SELECT n, 'k', 1, 1 FROM generate_series(1, 5000) n")
    tell(connection, "SELECT pg_stat_force_next_flush()")
    assert reindex(resources) == {}


def test_a_graph_that_has_lost_rows_is_built_anew(
    resources: Resources, drain: Drain, connection: Connection
) -> None:
    ingested(drain, document("a", chunks=60))
    seal(resources)
    assert reindex(resources) == {}
    tell(
        connection, "DELETE FROM chunks_s000001 WHERE chunk_index > (SELECT max(chunk_index) / 2 FROM chunks)"
    )
    tell(connection, "VACUUM (ANALYZE) chunks_s000001")
    graph = "chunks_s000001_embedding_idx"
    did = {found["index"]: found for found in reindex(resources)["rebuilt"]}
    assert did[graph]["bytes_after"] < did[graph]["bytes"]
    assert len(found_by(resources, vectors(1)[0], k=100)) == value(connection, "SELECT count(*) FROM chunks")
    assert graph not in str(reindex(resources))


def test_what_is_left_of_a_graph_that_recall_built_anew_is_not_built_again(
    resources: Resources, drain: Drain, connection: Connection
) -> None:
    ingested(drain, document("a", chunks=60))
    seal(resources)
    left = "chunks_s000001_embedding_idx_ccold"
    tell(connection, f"CREATE INDEX {left} ON chunks_s000001 USING hnsw (embedding vector_cosine_ops)")
    tell(
        connection, "DELETE FROM chunks_s000001 WHERE chunk_index > (SELECT max(chunk_index) / 2 FROM chunks)"
    )
    tell(connection, "VACUUM (ANALYZE) chunks_s000001")
    did = reindex(resources)
    assert "chunks_s000001_embedding_idx" in [found["index"] for found in did["rebuilt"]]
    assert left not in str(did)


# what the server measures


@pytest.mark.usefixtures("bloated")
@pytest.mark.parametrize(("density", "rebuilt"), [(90, 0), (20, 1)])
def test_where_the_server_measures_it_has_the_last_word(
    density: int, rebuilt: int, resources: Resources, connection: Connection
) -> None:
    """By a function that answers as pgstattuple's does: the wheel's server has none."""
    tell(
        connection,
        f"""CREATE FUNCTION pgstatindex(relname regclass, OUT version int, OUT index_size bigint,
                OUT internal_pages bigint, OUT leaf_pages bigint, OUT avg_leaf_density float)
            LANGUAGE sql AS $$ SELECT 4, pg_relation_size(relname), 1::bigint,
                pg_relation_size(relname) / 8192 - 2, {density}::float $$""",
    )
    with member_of(connection, "pgstattuple", "pgstatindex(regclass)"):
        found = run_chore(resources, "indexes")
        assert (len(found["oversized"]), found["sizes_by"]) == (rebuilt, "pgstattuple")
        did = run_chore(resources, "reindex")
        assert (len(did["rebuilt"]), did["sizes_by"]) == (rebuilt, "pgstattuple")


# when it is left


@pytest.mark.usefixtures("bloated")
def test_the_window_is_kept_from_the_first_index_to_the_last(
    resources: Resources, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    tell(connection, "CREATE INDEX small ON heartbeats (pid)")
    tell(connection, "INSERT INTO heartbeats SELECT 'x' || n, 'k', 1, n FROM generate_series(1, 9000) n")
    tell(connection, "DELETE FROM heartbeats WHERE kind = 'k'")
    tell(connection, "VACUUM (ANALYZE) heartbeats")
    elsewhen = outside_the_window(resources, connection)
    before = filenode(connection, INDEX)
    did = reindex(elsewhen, scheduled=True)
    assert [one["why"] for one in did["left"]] == ["outside of MAINTENANCE_WINDOW"]
    assert (did["still_oversized"], filenode(connection, INDEX)) == (["small"], before)
    found = finding(connection, "index sizes")
    assert found.state is State.WARNING
    assert "times what its rows need: outside of MAINTENANCE_WINDOW" in found.seen
    answers = iter([True, False])
    monkeypatch.setattr(Turn, "may_be_heavy", lambda _: next(answers))
    did = reindex(resources)
    assert [one["index"] for one in did["rebuilt"]] == [INDEX]
    assert [one["why"] for one in did["left"]] == ["outside of MAINTENANCE_WINDOW"]


@pytest.mark.usefixtures("bloated")
def test_it_gives_way_to_what_searches_wait_for(resources: Resources, connection: Connection) -> None:
    tell(connection, "UPDATE segments SET state = 'sealing' WHERE segment = 3")
    assert left(resources) == ["a segment waits for its first index"]


@pytest.mark.usefixtures("bloated")
def test_the_disk_is_looked_at_first(
    resources: Resources, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    folders: list[str] = []

    def usage(folder: str) -> Usage:
        folders.append(folder)
        return Usage(1 << 40, 1 << 40, 1 << 20)

    monkeypatch.setattr("worker.maintenance.leeway.shutil.disk_usage", usage)
    [why] = left(resources)
    assert why.startswith("it takes 1.1 GB of disk, 0.0 GB are free")
    assert set(folders) == {value(connection, "SHOW data_directory")}
    assert run_chore(resources, "reindex", dry_run=True)["to_rebuild"][0]["why_not"] == why


@pytest.mark.usefixtures("bloated")
def test_where_the_disk_is_not_seen_a_setting_decides(
    resources: Resources, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.maintenance.leeway.rebuilds.data_folder", lambda _: "/nowhere")
    careful = Resources(resources.settings.model_copy(update={"reindex_blind_bytes": 0}))
    assert left(careful) == ["the server's disk is not seen from here (REINDEX_BLIND_BYTES)"]
    assert [found["index"] for found in reindex(resources)["rebuilt"]] == [INDEX]


@pytest.mark.usefixtures("bloated")
def test_who_keeps_the_lock_is_named_and_nothing_is_left_behind(
    resources: Resources, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.db.builds.WAIT_SECONDS", 1)
    monkeypatch.setattr("worker.db.rebuilds._DROP_MS", 50)
    with session(resources, "a report") as other:
        pid = value(other, "SELECT pg_backend_pid()")
        tell(other, "LOCK TABLE heartbeats IN SHARE MODE")
        [found] = reindex(resources)["left"]
    assert found["why"] == "canceling statement due to lock timeout"
    assert (found["held_by"]["kind"], found["held_by"]["name"]) == ("session", str(pid))
    said = finding(connection, "index sizes")
    assert f"session {pid} (a report, postgres, idle in transaction)" in said.seen
    assert said.mend == f"end it: SELECT pg_terminate_backend({pid})"
    assert reindex(resources)["rebuilt"]
    assert indexes.invalid(connection) == []


def test_a_disk_that_fills_up_meanwhile_leaves_nothing_behind(
    resources: Resources, connection: Connection, settings: Settings
) -> None:
    """By the server's limit of temporary files, which has the class of a full disk (53)."""
    name = "repeat('x', 200) || n"  # a megabyte of them has to be sorted on the disk
    tell(
        connection,
        f"INSERT INTO heartbeats SELECT {name}, 'k', 1, 1 + n % 4 FROM generate_series(1, 24000) n",
    )
    tell(connection, "DELETE FROM heartbeats WHERE pid > 1")
    tell(connection, "VACUUM (ANALYZE) heartbeats")
    database = value(connection, "SELECT current_database()")
    tell(connection, f"ALTER DATABASE {database} SET temp_file_limit = '64kB'")
    small = Resources(settings.model_copy(update={"build_memory_bytes": 1 << 20}))
    [found] = reindex(small)["left"]
    assert found["why"].startswith("temporary file size exceeds")
    assert indexes.invalid(connection) == []
    tell(connection, f"ALTER DATABASE {database} RESET temp_file_limit")
    assert reindex(small)["rebuilt"]


def test_a_worker_that_stops_leaves_nothing_behind(
    resources: Resources, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    bloat_heartbeats(connection, 10_000)
    monkeypatch.setattr("worker.maintenance.run._ATTENTION_SECONDS", 0.05)
    with session(resources) as other:
        other.execution_options(isolation_level="REPEATABLE READ")
        tell(other, "SELECT FROM tenants")
        waits = "SELECT count(*) FROM pg_stat_progress_create_index WHERE phase = 'waiting for old snapshots'"
        with pytest.raises(DBAPIError, match="canceling statement due to user request"):
            run_chore(resources, "reindex", stopping=lambda: bool(value(connection, waits)))
    assert value(connection, "SELECT error_message FROM maintenance_runs").startswith("canceling statement")
    assert indexes.invalid(connection) == []


# as whom


def as_role(settings: Settings, url: Any) -> Resources:
    return Resources(
        settings.model_copy(
            update={"database_url": url, "maintenance_database_url": url, "direct_database_url": None}
        )
    )


@pytest.mark.usefixtures("bloated")
def test_maintenance_may_do_all_of_it(
    resources: Resources, connection: Connection, settings: Settings
) -> None:
    prefix = f"upkeep_{value(connection, 'SELECT current_database()')}_"
    make_roles(settings, prefix)
    url = role_urls(settings, prefix, {})["MAINTENANCE_DATABASE_URL"]
    mine = as_role(settings, SecretStr(url.render_as_string(hide_password=False)))
    tell(connection, "DROP INDEX documents_content_hash_idx, chunks_project_id_idx")
    tell(
        connection, "UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'segments_open_key'::regclass"
    )
    tell(connection, "DELETE FROM pg_statistic")
    assert reindex(mine) == {}, "nothing is known of any table"
    tell(connection, "ANALYZE")
    assert [found["index"] for found in reindex(mine)["rebuilt"]] == [INDEX]
    made = run_chore(mine, "indexes")["made"]
    assert made == ["chunks_project_id_idx", "documents_content_hash_idx", "segments_open_key"]
    owners = (
        "SELECT DISTINCT relowner::regrole::text FROM pg_class WHERE relname ~ '^(chunks|documents|heartb)'"
    )
    assert value(connection, owners) == f"{prefix}{Role.OWNER}"
    tell(connection, "UPDATE heartbeats SET kind = kind, slots = 2")
    assert run_chore(mine, "vacuum")["refused"] == []


@pytest.mark.usefixtures("bloated")
def test_maintain_alone_is_enough_to_vacuum_and_to_rebuild(
    resources: Resources, connection: Connection, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A role that owns nothing; before PostgreSQL 17 there is no such privilege."""
    monkeypatch.setattr("worker.db.vacuums.DUE_ROWS", 10)
    name = f"maintain_{value(connection, 'SELECT current_database()')}"
    tell(connection, f"CREATE ROLE {name} LOGIN")
    tell(connection, f"GRANT SELECT ON ALL TABLES IN SCHEMA public TO {name}")
    tell(connection, f"GRANT INSERT, UPDATE ON maintenance_runs TO {name}")
    tell(connection, "UPDATE heartbeats SET slots = 2")
    tell(connection, "SELECT pg_stat_force_next_flush()")
    url = settings.database_url.get_secret_value().replace("postgres@", f"{name}@")
    mine = as_role(settings, SecretStr(url))
    assert run_chore(mine, "vacuum")["refused"] == ["heartbeats"]
    found = finding(connection, "vacuum")
    assert (found.state, found.seen) == (State.FAILED, "the role may not vacuum heartbeats")
    with pytest.raises(ProgrammingError):
        run_chore(mine, "reindex")
    assert "permission denied" in said(connection) or "must be owner" in said(connection)
    if not IS_16:
        tell(connection, f"GRANT MAINTAIN ON ALL TABLES IN SCHEMA public TO {name}")
        assert run_chore(mine, "vacuum")["vacuumed"] == ["heartbeats"]
        assert [found["index"] for found in reindex(mine)["rebuilt"]] == [INDEX]


def said(connection: Connection) -> str:
    last = (
        "SELECT error_message FROM maintenance_runs WHERE outcome = 'failed' ORDER BY started_at DESC LIMIT 1"
    )
    return str(value(connection, last))
