"""The chore `vacuum` on a real server: what it takes, what it leaves, and who keeps it from its work."""

import os
from pathlib import Path
from typing import Any, Literal

import pytest
from pydantic import SecretStr
from sqlalchemy import Connection, text

from tests.integration.test_maintenance import tell, value, values, wait_for
from tests.integration.test_sealing import SMALL_SEGMENTS, Drain, document, ingested, seal
from tests.integration.upkeep import (
    filenode,
    fill_heartbeats,
    finding,
    leave_alone,
    outside_the_window,
    running,
)
from worker.cli.checks import State
from worker.cli.status import _say_segments
from worker.db import horizon, overview, vacuums
from worker.db.engine import single_connection_engine
from worker.embedded import RunningPostgres, start_postgres
from worker.maintenance import leeway
from worker.maintenance.run import run_chore
from worker.resources import Resources

LEAF, GRAPH = "chunks_s000001", "chunks_s000001_embedding_idx"
VERSION: Literal[16, 18] = 16 if os.environ.get("POSTGRES_VERSION") == "16" else 18


@pytest.fixture
def environment() -> dict[str, str]:
    return SMALL_SEGMENTS


def vacuum(resources: Resources, *, scheduled: bool = False) -> dict[str, Any]:
    """What a run did, without the lists that are empty and the age that each reports."""
    did = run_chore(resources, "vacuum", scheduled=scheduled)
    assert did.pop("outcome") == "done"
    assert 0 <= did.pop("oldest_unfrozen")["share"] < 1
    return {name: found for name, found in did.items() if found}


def test_vacuum_takes_what_needs_it_and_only_that(resources: Resources, connection: Connection) -> None:
    leave_alone(connection)
    assert vacuum(resources) == {}
    fill_heartbeats(connection, 900)
    tell(connection, "DELETE FROM heartbeats")
    tell(connection, "SELECT pg_stat_force_next_flush()")
    assert vacuum(resources) == {"vacuumed": ["heartbeats"]}  # 1,800 changes
    counts = "SELECT n_dead_tup, n_mod_since_analyze FROM pg_stat_user_tables WHERE relname = 'heartbeats'"
    assert tuple(connection.execute(text(counts)).one()) == (0, 0)
    assert value(connection, "SELECT pg_relation_size('heartbeats')") == 0
    never = "SELECT count(*) FROM pg_stat_user_tables WHERE vacuum_count > 0 AND relname <> 'heartbeats'"
    assert value(connection, never) == 0
    fill_heartbeats(connection, 1000)
    assert vacuum(resources) == {}
    fill_heartbeats(connection, 41, "ingest")  # 1,041 are more than 1,000 and a 25th of what there is
    assert vacuum(resources) == {}
    fill_heartbeats(connection, 2, "beat")
    assert vacuum(resources) == {"vacuumed": ["heartbeats"]}
    assert value(connection, "SELECT reltuples FROM pg_class WHERE relname = 'heartbeats'") == 1043


def test_vacuum_takes_the_smallest_first(resources: Resources, connection: Connection) -> None:
    leave_alone(connection)
    tell(
        connection, "INSERT INTO tenants (name) SELECT repeat('n', 190) || n FROM generate_series(1, 5000) n"
    )
    fill_heartbeats(connection, 2000)
    assert vacuum(resources) == {"vacuumed": ["heartbeats", "tenants"]}


@pytest.mark.parametrize("mode", ["SHARE UPDATE EXCLUSIVE", "ACCESS EXCLUSIVE"])
def test_vacuum_passes_by_a_locked_table_and_says_so(
    mode: str, resources: Resources, connection: Connection, other: Connection
) -> None:
    leave_alone(connection)
    fill_heartbeats(connection, 2000)
    tell(other, f"LOCK TABLE heartbeats IN {mode} MODE")
    assert vacuum(resources) == {"locked": ["heartbeats"]}
    other.rollback()
    assert vacuum(resources) == {"vacuumed": ["heartbeats"]}


# graphs


@pytest.fixture
def worn(resources: Resources, drain: Drain, connection: Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    """A sealed segment that has lost ten of its 25 rows, where that is enough."""
    monkeypatch.setattr("worker.db.vacuums.DUE_ROWS", 9)
    ingested(drain, document("a"))
    seal(resources)
    leave_alone(connection)
    tell(connection, "VACUUM (ANALYZE)")
    tell(connection, f"DELETE FROM {LEAF} WHERE chunk_id IN (SELECT chunk_id FROM {LEAF} LIMIT 10)")
    tell(connection, "SELECT pg_stat_force_next_flush()")


def dead_rows(connection: Connection) -> int:
    return int(value(connection, f"SELECT pg_stat_get_dead_tuples('{LEAF}'::regclass)"))


@pytest.mark.usefixtures("worn")
def test_a_worn_graph_is_built_anew_before_the_dead_are_taken_away(
    resources: Resources, connection: Connection
) -> None:
    before = filenode(connection, GRAPH)
    assert run_chore(resources, "vacuum", dry_run=True)["to_rebuild_first"] == [LEAF]
    assert vacuum(resources) == {"vacuumed": [LEAF], "rebuilt_first": [LEAF]}
    assert filenode(connection, GRAPH) != before
    assert dead_rows(connection) == 0
    assert vacuum(resources) == {}


@pytest.mark.usefixtures("worn")
def test_a_graph_that_lost_little_is_repaired(
    resources: Resources, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.maintenance.vacuum._ANEW_SHARE", 0.5)
    before = filenode(connection, GRAPH)
    assert vacuum(resources) == {"vacuumed": [LEAF]}
    assert filenode(connection, GRAPH) == before


@pytest.mark.usefixtures("worn")
def test_without_room_for_a_second_graph_it_is_repaired(
    resources: Resources, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leeway, "_RESERVE_BYTES", 1 << 60)
    assert vacuum(resources) == {"vacuumed": [LEAF]}
    assert dead_rows(connection) == 0


@pytest.mark.usefixtures("worn")
def test_a_graph_waits_for_the_window_and_the_planner_does_not(
    resources: Resources, connection: Connection
) -> None:
    waiting = {"waiting": [{"table": LEAF, "why": "outside of MAINTENANCE_WINDOW"}]}
    elsewhen = outside_the_window(resources, connection)
    assert vacuum(elsewhen, scheduled=True) == waiting | {"analyzed": [LEAF]}
    tell(connection, "UPDATE maintenance_runs SET started_at = now() - interval '1 h'")
    assert vacuum(elsewhen, scheduled=True) == waiting
    assert dead_rows(connection) == 10


@pytest.mark.usefixtures("worn")
def test_tables_that_wait_keep_no_larger_one_from_its_turn(
    resources: Resources, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.maintenance.vacuum.MOST_TABLES", 1)
    tell(connection, f"ANALYZE {LEAF}")
    fill_heartbeats(connection, 20_000)
    did = vacuum(outside_the_window(resources, connection), scheduled=True)
    assert [found["table"] for found in did["waiting"]] == [LEAF]
    assert did["vacuumed"] == ["heartbeats"]


@pytest.mark.usefixtures("worn")
def test_a_graph_gives_way_to_a_segment_that_waits_for_its_first(
    resources: Resources, connection: Connection
) -> None:
    tell(connection, "UPDATE segments SET state = 'sealing' WHERE segment = 3")
    assert vacuum(resources)["waiting"] == [{"table": LEAF, "why": "a segment waits for its first index"}]
    tell(connection, "UPDATE segments SET state = 'spare' WHERE segment = 3")
    assert vacuum(resources)["vacuumed"] == [LEAF]


@pytest.mark.usefixtures("worn")
def test_nothing_is_built_for_nothing_while_a_transaction_lasts(
    resources: Resources, connection: Connection, other: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leeway, "_LASTING_SECONDS", 0)
    other.execution_options(isolation_level="REPEATABLE READ")
    pid = value(other, "SELECT pg_backend_pid()")
    before = filenode(connection, GRAPH)
    did = vacuum(resources)
    assert did["analyzed"] == [LEAF]
    [held] = did["held_by"]
    assert (held["table"], held["dead_rows"], held["kind"], held["name"]) == (LEAF, 10, "session", str(pid))
    assert filenode(connection, GRAPH) == before
    other.rollback()
    assert vacuum(resources)["rebuilt_first"] == [LEAF]


# freezing


def test_old_tables_are_frozen_before_the_server_has_to(
    resources: Resources, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.db.vacuums.FREEZE_SHARE", 0)
    tell(connection, "INSERT INTO tenants (name) VALUES ('t')")
    age = "SELECT age(relfrozenxid) FROM pg_class WHERE relname = 'tenants'"
    elsewhen = outside_the_window(resources, connection)
    waiting = vacuum(elsewhen, scheduled=True)["waiting"]
    assert {"table": "tenants", "why": "outside of MAINTENANCE_WINDOW"} in waiting
    before = value(connection, age)
    assert "tenants" in vacuum(resources)["frozen"]
    assert value(connection, age) < before


# who is in the way


def test_who_keeps_dead_rows_is_named_by_the_chore_and_by_doctor(
    resources: Resources, connection: Connection, other: Connection
) -> None:
    leave_alone(connection)
    fill_heartbeats(connection, 2000)
    other.execution_options(isolation_level="REPEATABLE READ")
    pid = value(other, "SELECT pg_backend_pid()")
    tell(connection, "DELETE FROM heartbeats")
    tell(connection, "SELECT pg_stat_force_next_flush()")
    did = vacuum(resources)
    assert did["vacuumed"] == ["heartbeats"]
    [held] = did["held_by"]
    assert held.pop("seconds") >= 0
    who = "another session, postgres, idle in transaction"
    assert held == {
        "table": "heartbeats", "dead_rows": 2000, "kind": "session", "name": str(pid), "who": who
    }  # fmt: skip
    found = finding(connection, "vacuum")
    assert found.seen.startswith(f"2,000 dead rows of heartbeats are kept by session {pid} ({who}), for")
    assert found.mend == f"end it: SELECT pg_terminate_backend({pid})"
    tell(connection, f"SELECT pg_terminate_backend({pid}, 10000)")
    other.invalidate()
    assert vacuum(resources) == {"vacuumed": ["heartbeats"]}
    assert finding(connection, "vacuum").state is State.OK


def test_a_prepared_transaction_counts_and_a_session_elsewhere_does_not(tmp_path: Path) -> None:
    """On a server of its own: prepared transactions are off by default, and take a restart."""
    with start(tmp_path) as server, autocommit(server.url) as administrator:
        tell(administrator, "ALTER SYSTEM SET max_prepared_transactions = 2")
    with (
        start(tmp_path) as server,
        autocommit(server.url) as administrator,
        autocommit(server.url, "postgres") as elsewhere,
    ):
        tell(elsewhere, "BEGIN ISOLATION LEVEL REPEATABLE READ")
        tell(elsewhere, "SELECT pg_current_xact_id()")
        assert horizon.oldest(administrator) is None
        tell(administrator, "CREATE TABLE t (n int)")
        tell(administrator, "BEGIN; INSERT INTO t VALUES (1); PREPARE TRANSACTION 'left behind'")
        found = horizon.oldest(administrator)
        assert found is not None
        named = (found["kind"], found["name"], found["who"])
        assert named == ("prepared transaction", "left behind", "postgres")
        assert horizon.oldest(administrator, seconds=3600) is None
        tell(administrator, "ROLLBACK PREPARED 'left behind'")
        assert horizon.oldest(administrator) is None


def start(folder: Path) -> RunningPostgres:
    return start_postgres(folder / "postgres", version=VERSION, durable=False)


def autocommit(url: str, database: str = "ingest") -> Any:
    address = SecretStr(url.replace("/ingest?", f"/{database}?"))
    return single_connection_engine(address).connect().execution_options(isolation_level="AUTOCOMMIT")


# how far it is


def test_how_far_a_vacuum_is(
    resources: Resources,
    connection: Connection,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    leave_alone(connection)
    fill_heartbeats(connection, 20_000)
    tell(connection, "DELETE FROM heartbeats")
    monkeypatch.setattr("worker.db.vacuums._COST_LIMIT", 1)
    with running(lambda: run_chore(resources, "vacuum")) as outcome:
        wait_for(connection, "EXISTS (SELECT 1 FROM vacuums())")
        [seen] = vacuums.under_way(connection)
        assert (seen.leaf, seen.has_graph, seen.index_pass) == ("heartbeats", False, 1)
        _say_segments(overview.segments(connection))
        tell(connection, "SELECT pg_cancel_backend(pid) FROM pg_stat_progress_vacuum")
    assert "VACUUM of heartbeats: " in capsys.readouterr().out
    assert "canceling statement" in str(outcome[0])
    assert values(connection, "SELECT outcome FROM maintenance_runs") == ["failed"]
