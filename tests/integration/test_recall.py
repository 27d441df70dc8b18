"""The chore `recall`: what it measures of real graphs, good and bad, what it mends, what people see of it."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import UUID

import numpy as np
import pytest
from pydantic import SecretStr
from sqlalchemy import Connection, Engine, event, text

from tests import conftest
from tests.integration.test_sealing import WAITING, in_background, wait_for
from worker import delete
from worker.cli.checks import Finding
from worker.cli.recall import check_recall
from worker.db import builds, graphs, nearest, recall_history
from worker.db import recall as asked
from worker.db.engine import driver_url, reading
from worker.db.grants import Role
from worker.db.logins import role_names
from worker.db.migrate import migrate
from worker.db.roles import make_roles
from worker.db.submissions import ensure_scope
from worker.errors import Exit
from worker.load_slice import SliceLoader
from worker.maintenance import measuring
from worker.maintenance.comparing import Comparing, Look
from worker.maintenance.probes import Probe, draw
from worker.maintenance.run import run_chore
from worker.maintenance.turn import Turn
from worker.queries import read_query
from worker.resources import Resources
from worker.searching import search
from worker.settings import child_environment, read_settings
from worker.steps.vectors import Matrix
from worker.types import EmbeddingType, GivenChunk, GivenDocument, Metric

ROOT = Path(__file__).parents[2]
DIMENSION, CHUNKS, SAMPLE = 32, 20, 6
# Documents that come before each sealing, of a large tenant and a small one; the last segment stays open.
SEGMENTS = ((60, 20), (60, 20), (10, 2))
ONE, TWO = "chunks_s000001", "chunks_s000002"
ENVIRONMENT = {
    "EMBEDDING_PROVIDER": "none",
    "EMBEDDING_DIMENSION": str(DIMENSION),
    "SEGMENT_ROWS": str(CHUNKS * sum(SEGMENTS[0])),
    "MAX_UNSEALED_ROWS": "100000",
    "BUILD_WORKERS": "0",
    "RECALL_SAMPLE": str(SAMPLE),
}


def value(connection: Connection, statement: str, **parameters: Any) -> Any:
    return connection.execute(text(statement), parameters).scalar_one()


def tell(connection: Connection, *statements: str) -> None:
    for statement in statements:
        connection.execute(text(statement))


def vectors(count: int, seed: int) -> np.ndarray[Any, Any]:
    """Vectors around forty centres, as texts lie by subject."""
    centres = np.random.default_rng(5).standard_normal((40, DIMENSION))
    dice = np.random.default_rng(seed)
    found: np.ndarray[Any, Any] = centres[dice.integers(40, size=count)]
    return found + 0.6 * dice.standard_normal((count, DIMENSION))


@pytest.fixture(scope="module")
def template(new_database: Callable[[str | None], str], valkey: Any) -> str:
    """Two sealed segments and an open one, of two tenants, made by the program's own way."""
    return fill(new_database(None), valkey.url, SEGMENTS)


def fill(url: str, broker_url: str, batches: Any, **environment: str) -> str:
    with pytest.MonkeyPatch.context() as patch:
        for name, wanted in {
            **ENVIRONMENT,
            "DATABASE_URL": url,
            "BROKER_URL": broker_url,
            **environment,
        }.items():
            patch.setenv(name, wanted)
        resources = Resources(read_settings())
        migrate(resources.settings)
        for number, documents in enumerate(batches):
            load(resources, "acme", 2 * number, documents[0])
            load(resources, "small", 2 * number + 1, documents[1])
            run_chore(resources, "seal")
        resources.close()
    return str(driver_url(SecretStr(url)).database)


def load(resources: Resources, tenant: str, seed: int, documents: int) -> None:
    parts = vectors(documents * CHUNKS, seed).reshape(documents, CHUNKS, DIMENSION)
    scope = resources.transact(lambda connection: ensure_scope(connection, tenant, None))
    done = SliceLoader(resources, scope).load([
        GivenDocument(f"{seed}/{n}", [GivenChunk(f"{tenant} {seed} {n} {i}", v) for i, v in enumerate(part)])
        for n, part in enumerate(parts)
    ])  # fmt: skip
    assert done.completed == documents


@pytest.fixture
def environment() -> dict[str, str]:
    return ENVIRONMENT


@pytest.fixture(autouse=True)
def few_are_exact(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a database a hundred times as large: searches go by the indexes beyond a hundred chunks."""
    monkeypatch.setattr(nearest, "EXACT_CHUNKS", 100)


def recall(resources: Resources, **options: Any) -> dict[str, Any]:
    return run_chore(resources, "recall", **options)


def with_settings(resources: Resources, **changed: Any) -> Resources:
    return Resources(resources.settings.model_copy(update=changed))


def of(did: dict[str, Any], leaf: str) -> dict[str, Any]:
    found: dict[str, Any] = next(segment for segment in did["segments"] if segment["leaf"] == leaf)
    return found


def build_badly(connection: Connection, leaf: str) -> None:
    name = builds.index_name(leaf)
    tell(
        connection,
        f"DROP INDEX {name}",
        f"CREATE INDEX {name} ON {leaf} USING hnsw (embedding vector_cosine_ops)"
        " WITH (m = 2, ef_construction = 4)",
    )


def indexes(connection: Connection, leaf: str) -> dict[str, bool]:
    """The vector indexes of a leaf, by whether they are valid."""
    found = connection.execute(
        text("""
            SELECT c.relname, i.indisvalid FROM pg_index i
            JOIN pg_class c ON c.oid = i.indexrelid JOIN pg_am a ON a.oid = c.relam
            WHERE a.amname = 'hnsw' AND i.indrelid = to_regclass(:leaf)"""),
        {"leaf": leaf},
    )
    return {row.relname: row.indisvalid for row in found}


# -- what is measured --------------------------------------------------------------------------------


def test_good_graphs_are_found_good(resources: Resources, connection: Connection) -> None:
    did = recall(resources)
    assert (did["alerts"], did["outcome"], did.get("repair")) == ([], "done", None)
    assert did["recall"] >= 0.95
    assert (did["queries"], did["exactly"], did["underfilled"], did["without_index"]) == (SAMPLE, 0, 0, 0)
    for leaf in (ONE, TWO):
        segment = of(did, leaf)
        assert segment["recall"] >= 0.95
        assert (segment["queries"], segment["rows"], segment["without_index"]) == (SAMPLE, 1600, 0)
        assert segment["graph"] == value(connection, f"SELECT '{leaf}_embedding_idx'::regclass::oid::bigint")
    assert did["live_ms"] > 0
    assert did["exact_ms"] > 0


def test_where_searches_compare_graphs_are_measured_all_the_same(
    resources: Resources, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nearest, "EXACT_CHUNKS", 10_000)
    build_badly(connection, TWO)
    did = recall(resources, dry_run=True)
    assert (did["recall"], did["queries"], did["exactly"]) == (None, 0, SAMPLE)
    assert of(did, TWO)["recall"] < 0.8
    assert did["alerts"] == [f"{did['to_repair']} → run `ingest maintain recall`"]


def test_own_row_is_not_found_and_its_vector_is_moved(resources: Resources, connection: Connection) -> None:
    turn = Turn(resources, connection)
    probes = draw(turn, asked.graphs(connection))
    assert len(probes) == SAMPLE
    for probe in probes:
        assert probe.own
        own = asked_vector(connection, probe.own)
        moved = np.array(probe.query.vector)
        cosine = moved @ own / np.linalg.norm(moved) / np.linalg.norm(own)
        assert 0.7 < cosine < 0.95
    exactly = Probe(read_query(vector=own, tenant=probe.query.tenant), probe.own)
    for own_id, zero in ((None, True), (probe.own, False)):
        with reading(connection):
            look = Look(connection, exactly._replace(own=own_id), resources.settings)
            distances = [distance for segment in look.seen.all for distance in look.exact(segment)]
            live = look.live()
        assert (min(distances) < 1e-6) is zero
        assert (probe.own in {one.chunk_id for one in live.candidates}) is zero


def asked_vector(connection: Connection, chunk_id: UUID) -> np.ndarray[Any, Any]:
    written = value(connection, "SELECT embedding::text FROM chunks WHERE chunk_id = :id", id=chunk_id)
    return np.array(json.loads(written))


def test_every_tenant_and_every_segment_is_drawn_from(resources: Resources, connection: Connection) -> None:
    many = with_settings(resources, recall_sample=60)
    probes = draw(Turn(many, connection), asked.graphs(connection))
    found = connection.execute(
        text("SELECT segment, count(*) AS drawn FROM chunks WHERE chunk_id = ANY(:ids) GROUP BY segment"),
        {"ids": [probe.own for probe in probes]},
    )
    assert {row.segment: row.drawn for row in found} == {1: 30, 2: 30}
    assert {probe.query.tenant for probe in probes} == {"acme", "small"}


class Embedder:
    """Texts that are numbers of seeds: a model that needs no files."""

    model = "seeds"

    def embed(self, texts: Sequence[str]) -> Matrix:
        return np.array([vectors(1, int(one))[0] for one in texts], np.float32)


def test_recorded_searches_are_asked_again_with_their_filters(
    resources: Resources, connection: Connection
) -> None:
    resources.__dict__["embedder"] = Embedder()
    wanted = {"source_path": "2/*"}
    for number in range(SAMPLE):
        search(
            resources, read_query(text=f"{number}", mode="vector", tenant="acme", filter=wanted, record=True)
        )
    for other in ({"mode": "keyword"}, {"metric": "l2"}, {"vector": [1.0] * DIMENSION, "mode": "vector"}):
        search(resources, read_query(text="77", tenant="acme", record=True, **other))
    probes = draw(Turn(resources, connection), asked.graphs(connection))
    recorded = [probe for probe in probes if probe.own is None]
    assert len(recorded) == SAMPLE // 2
    for probe in recorded:
        assert probe.query.filter == read_query(text="1", filter=wanted).filter
        assert probe.query.tenant == "acme"
    did = recall(resources)
    assert (did["queries"] + did["exactly"], did["alerts"]) == (SAMPLE, [])
    with reading(connection):
        look = Look(connection, recorded[0], resources.settings)
        live = {one.document_id for one in look.live().candidates}
    paths = connection.execute(
        text("SELECT source_path FROM documents WHERE document_id = ANY(:ids)"), {"ids": list(live)}
    )
    assert all(path.startswith("2/") for path in paths.scalars())


def test_a_recorded_search_that_cannot_be_asked_any_more_is_left_out(
    resources: Resources, connection: Connection
) -> None:
    resources.__dict__["embedder"] = Embedder()
    search(resources, read_query(text="1", mode="vector", tenant="acme", record=True))
    gone = {"request": {"mode": "vector", "project": "gone"}}
    connection.execute(
        text("UPDATE evaluation_runs SET metadata = CAST(:metadata AS jsonb)"), {"metadata": json.dumps(gone)}
    )
    probes = draw(Turn(resources, connection), asked.graphs(connection))
    compared = Comparing(connection, resources.settings, asked.graphs(connection))
    assert all(compared.ask(probe) for probe in probes if probe.own is None)
    assert compared.asked == 0
    assert recall(resources)["alerts"] == []


@contextmanager
def statements() -> Iterator[list[str]]:
    """Every statement that is sent."""
    sent: list[str] = []

    def look(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        sent.append(" ".join(statement.split()))

    event.listen(Engine, "before_cursor_execute", look)
    yield sent
    event.remove(Engine, "before_cursor_execute", look)


def is_exact(statement: str) -> bool:
    return "+ 0 AS distance" in statement and not statement.startswith("EXPLAIN") and "UNION" not in statement


def test_exact_scans_are_few_and_each_question_has_a_transaction(resources: Resources) -> None:
    with statements() as sent:
        did = recall(resources)
    assert sum(map(is_exact, sent)) == 3 * SAMPLE
    assert sum(statement.startswith("BEGIN; SET TRANSACTION ISOLATION") for statement in sent) == SAMPLE
    assert sent.count("ROLLBACK") == SAMPLE
    assert did["rows_compared"] <= SAMPLE * CHUNKS * sum(map(sum, SEGMENTS))


def test_rows_that_are_compared_are_bounded(resources: Resources) -> None:
    few = with_settings(resources, recall_rows=6_000)
    with statements() as sent:
        did = recall(few)
    assert did["rows_compared"] <= 6_000
    assert 0 < did["queries"] < SAMPLE
    assert sum(map(is_exact, sent)) == 3 * did["queries"]
    assert did["stopped"] == "RECALL_ROWS is 6,000: the next question compares more"
    none = recall(with_settings(resources, recall_rows=1))
    assert none == {"outcome": "done", "not_measured": "RECALL_ROWS is 1: the next question compares more"}


def test_too_few_answers_tell_nothing(resources: Resources, connection: Connection) -> None:
    build_badly(connection, TWO)
    did = recall(with_settings(resources, recall_sample=4))
    assert of(did, TWO)["recall"] < 0.8
    assert (did["alerts"], did.get("repair")) == ([], None)


def test_without_vectors_there_is_nothing_to_measure(resources: Resources, connection: Connection) -> None:
    tell(connection, "UPDATE chunks SET embedding = NULL")
    nothing = "no segment with vectors is sealed: searches miss nothing"
    assert recall(resources) == {"outcome": "done", "not_measured": nothing}
    assert nothing in doctor(resources).seen


@pytest.mark.parametrize(("kind", "metric"), [("halfvec", "l2"), ("vector", "inner_product")])
def test_every_type_and_metric(
    kind: str, metric: str, new_database: Callable[[str | None], str], valkey: Any, resources: Resources
) -> None:
    url = new_database(None)
    space = {"EMBEDDING_TYPE": kind, "EMBEDDING_METRIC": metric, "SEGMENT_ROWS": "400"}
    fill(url, valkey.url, [(20, 5)], **space)
    did = recall(
        with_settings(
            resources,
            database_url=SecretStr(url),
            embedding_type=EmbeddingType(kind),
            embedding_metric=Metric(metric),
        )
    )
    assert did["alerts"] == []
    assert of(did, ONE)["queries"] == SAMPLE
    assert of(did, ONE)["recall"] >= 0.95


# -- what is found, and mended -----------------------------------------------------------------------


def test_a_bad_graph_is_found_built_anew_and_recovers(resources: Resources, connection: Connection) -> None:
    build_badly(connection, TWO)
    did = recall(resources)
    repair = did["repair"]
    assert (repair["segment"], repair["did"]) == (TWO, ["vacuum", "rebuild"])
    assert repair["before"] < 0.8
    assert repair["after_vacuum"] < 0.8
    assert repair["after"] >= 0.95
    assert f"recall@10 {repair['before']:.3f}, below 0.95" == repair["why"]
    assert (did["alerts"], did["recall"] >= 0.95, of(did, TWO)["recall"] >= 0.95) == ([], True, True)
    assert of(did, TWO)["rebuilt"] == {"rows": 1600, "m": 16, "ef_construction": 64}
    assert indexes(connection, TWO) == {f"{TWO}_embedding_idx": True}
    options = value(connection, f"SELECT reloptions FROM pg_class WHERE relname = '{TWO}_embedding_idx'")
    assert options == ["m=16", "ef_construction=64"]
    assert doctor(resources).state == "ok"
    assert run_chore(resources, "seal")["sealed"] == []


def test_a_dry_run_measures_and_mends_nothing(resources: Resources, connection: Connection) -> None:
    build_badly(connection, TWO)
    before = value(connection, f"SELECT '{TWO}_embedding_idx'::regclass::oid")
    with statements() as sent:
        did = recall(resources, dry_run=True)
    assert did["to_repair"].startswith(f"{TWO}: recall@10 0.")
    assert not [one for one in sent if one.startswith(("VACUUM", "CREATE", "DROP", "INSERT", "UPDATE"))]
    assert value(connection, f"SELECT '{TWO}_embedding_idx'::regclass::oid") == before
    assert value(connection, "SELECT count(*) FROM maintenance_runs WHERE chore = 'recall'") == 0
    assert "not measured yet" in doctor(resources).seen


def test_a_repair_waits_for_its_window(resources: Resources, connection: Connection) -> None:
    build_badly(connection, TWO)
    at = "SELECT to_char(now() AT TIME ZONE 'UTC' + make_interval(mins => :m), 'HH24:MI')"
    window = "-".join(value(connection, at, m=minutes) for minutes in (60, 120))
    before = indexes(connection, TWO), value(connection, f"SELECT '{TWO}_embedding_idx'::regclass::oid")
    did = recall(with_settings(resources, maintenance_window=window), scheduled=True)
    assert did["repair"]["waits_for"] == "outside of MAINTENANCE_WINDOW"
    assert (did["repair"]["segment"], did["repair"]["did"]) == (TWO, [])
    assert (
        indexes(connection, TWO),
        value(connection, f"SELECT '{TWO}_embedding_idx'::regclass::oid"),
    ) == before
    finding = doctor(resources)
    assert (finding.state, finding.mend) == ("failed", "run `ingest maintain recall`")
    assert finding.seen.startswith(f"{TWO}: recall@10 0.")


def test_what_a_new_graph_does_not_mend_is_named_and_built_once(
    resources: Resources, connection: Connection
) -> None:
    build_badly(connection, TWO)
    poor = with_settings(resources, hnsw_m=2, hnsw_ef_construction=4)
    first = recall(poor)
    assert first["repair"]["did"] == ["vacuum", "rebuild"]
    assert first["repair"]["after"] < 0.95
    graph = of(first, TWO)["graph"]
    for _ in range(2):
        again = recall(poor)
        assert "repair" not in again
        assert of(again, TWO)["graph"] == graph
    assert "and was built anew already → raise HNSW_EF_SEARCH, or HNSW_EF_CONSTRUCTION" in again["alerts"][0]
    finding = doctor(poor)
    assert finding.mend == "raise HNSW_EF_SEARCH, or HNSW_EF_CONSTRUCTION and run `ingest maintain recall`"
    better = recall(resources)
    assert better["repair"]["did"] == ["vacuum", "rebuild"]
    assert (better["repair"]["after"] >= 0.95, better["alerts"]) == (True, [])


def test_one_segment_a_run_the_worst_first(resources: Resources, connection: Connection) -> None:
    build_badly(connection, ONE)
    build_badly(connection, TWO)
    lose_rows(connection, ONE)
    first, second = recall(resources), recall(resources)
    assert (first["repair"]["segment"], second["repair"]["segment"]) == (ONE, TWO)
    assert first["alerts"][0].startswith(TWO)
    assert second["alerts"] == []


def lose_rows(connection: Connection, leaf: str) -> None:
    """Have an index forget all rows: it is told of none while they are written anew."""
    ready = "UPDATE pg_index SET indisready = {} WHERE indexrelid = '{}_embedding_idx'::regclass"
    tell(
        connection,
        ready.format("false", leaf),
        f"UPDATE {leaf} SET embedding = l2_normalize(embedding)",
        ready.format("true", leaf),
    )


def test_answers_that_are_short_are_found(resources: Resources, connection: Connection) -> None:
    lose_rows(connection, TWO)
    did = recall(resources, dry_run=True)
    segment = of(did, TWO)
    assert (segment["recall"], segment["underfilled"], segment["queries"]) == (0.0, SAMPLE, SAMPLE)
    assert did["to_repair"].startswith(f"{TWO}: recall@10 0.000")
    did = recall(resources)
    assert (of(did, TWO)["underfilled"], did["alerts"]) == (0, [])


def test_when_the_nearest_are_deleted_the_rest_is_found(resources: Resources, connection: Connection) -> None:
    wanted = "[1" + ",0.1" * (DIMENSION - 1) + "]"
    found = connection.execute(
        text("""
            SELECT d.source_path FROM chunks c JOIN documents d USING (document_id) JOIN tenants t
              ON t.tenant_id = d.tenant_id AND t.name = 'acme'
            GROUP BY d.source_path ORDER BY min(c.embedding <=> CAST(:wanted AS vector)) LIMIT 40"""),
        {"wanted": wanted},
    )
    assert delete(list(found.scalars()), tenant="acme") is not None
    assert value(connection, "SELECT count(*) FROM chunks_trash") == 40 * CHUNKS
    dead = recall(resources)
    tell(connection, f"VACUUM (ANALYZE) {ONE}", f"VACUUM (ANALYZE) {TWO}")
    clean = recall(resources)
    for did in (dead, clean):
        assert (did["alerts"], did["underfilled"]) == ([], 0)
        assert [of(did, leaf)["underfilled"] for leaf in (ONE, TWO)] == [0, 0]
        assert min(did["recall"], *(of(did, leaf)["recall"] for leaf in (ONE, TWO))) >= 0.95
    assert sum(of(clean, leaf)["rows"] for leaf in (ONE, TWO)) == 3200 - value(
        connection, "SELECT 3200 - count(*) FROM chunks WHERE segment IN (1, 2)"
    )


def test_an_index_that_is_gone_is_said(resources: Resources, connection: Connection) -> None:
    tell(connection, f"DROP INDEX {TWO}_embedding_idx")
    did = recall(resources)
    assert did["alerts"] == [f"{TWO}: has no vector index that can be used → run `ingest maintain seal`"]
    assert (of(did, TWO)["graph"], of(did, TWO)["queries"], of(did, ONE)["recall"]) == (None, 0, 1.0)
    assert did["without_index"] + did["exactly"] == SAMPLE, "without one index none is of use"
    finding = doctor(resources)
    assert (finding.state, finding.mend) == ("failed", "run `ingest maintain seal`")
    assert run_chore(resources, "seal")["sealed"] == [TWO]
    assert recall(resources)["alerts"] == []


def test_an_index_the_planner_leaves_alone_is_said(resources: Resources, connection: Connection) -> None:
    name = value(connection, "SELECT current_database()")
    tell(connection, f"ALTER DATABASE {name} SET enable_indexscan = off")
    did = recall(resources)
    said = "is searched without its vector index, which is there"
    assert [alert.partition(" → ")[0] for alert in did["alerts"]] == [f"{ONE}: {said}", f"{TWO}: {said}"]
    assert did["repair"]["did"] == ["vacuum"]
    assert of(did, ONE)["recall"] == 1.0


def test_a_table_that_is_gone_does_not_end_it(resources: Resources, connection: Connection) -> None:
    tell(connection, f"DROP TABLE {ONE}")
    did = recall(resources)
    assert [segment["leaf"] for segment in did["segments"]] == [TWO]
    assert did["queries"] == SAMPLE


# -- who else is there -------------------------------------------------------------------------------


def test_who_has_the_table_locked_is_not_waited_for(
    resources: Resources, connection: Connection, other: Connection
) -> None:
    build_badly(connection, TWO)
    tell(other, f"LOCK TABLE {TWO} IN SHARE UPDATE EXCLUSIVE MODE")
    did = recall(resources)
    assert (did["repair"]["waits_for"], did["repair"]["did"]) == ("who has the table locked", [])
    assert did["repair"]["held_by"]["who"].startswith("another session")
    assert of(did, TWO)["recall"] < 0.8
    tell(other, "ROLLBACK")
    assert recall(resources)["repair"]["did"] == ["vacuum", "rebuild"]


@pytest.mark.parametrize("held_up", ["sealing", "full"])
def test_what_waits_for_an_index_goes_first(
    held_up: str, resources: Resources, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measuring, "_PATIENCE_SECONDS", 0)
    if held_up == "sealing":
        tell(connection, "UPDATE segments SET state = 'sealing', sealed_rows = NULL WHERE segment = 2")
        assert recall(resources) == {"outcome": "done", "not_measured": f"{TWO} waits for its first index"}
        assert run_chore(resources, "seal")["sealed"] == [TWO]
    else:
        tell(connection, "ANALYZE chunks_s000003")
        full = with_settings(resources, segment_rows=50, max_unsealed_rows=100)
        assert recall(full) == {"outcome": "done", "not_measured": "ingestion waits for an index"}
    assert recall(resources)["queries"] == SAMPLE


def test_it_goes_on_when_what_was_before_it_is_done(
    resources: Resources, connection: Connection, other: Connection
) -> None:
    tell(connection, "UPDATE segments SET state = 'sealing', sealed_rows = NULL WHERE segment = 2")
    with in_background(lambda: recall(resources)) as measuring_now:
        wait_for(
            connection,
            "EXISTS (SELECT 1 FROM pg_stat_activity WHERE application_name = 'ingest recall'"
            " AND datname = current_database() AND wait_event = 'PgSleep')",
        )
        assert run_chore(resources, "seal")["sealed"] == [TWO]
        assert measuring_now.result(60)["queries"] == SAMPLE


def test_killed_in_the_middle_of_a_build_it_leaves_the_old_index(
    resources: Resources, connection: Connection, other: Connection
) -> None:
    build_badly(connection, TWO)
    old = value(connection, f"SELECT '{TWO}_embedding_idx'::regclass::oid")
    other.execution_options(isolation_level="REPEATABLE READ")
    assert value(other, "SELECT count(*) FROM chunks") > 0  # an old snapshot: the build waits for it
    program = "from worker.maintenance.run import run_chore\nfrom worker.resources import resources\n"
    killed = subprocess.Popen(
        [sys.executable, "-c", program + "run_chore(resources(), 'recall')"],
        cwd=ROOT,
        env=child_environment(),
    )
    wait_for(connection, WAITING)
    assert recall(resources) == {"outcome": "locked"}
    killed.kill()
    killed.wait()
    tell(
        connection,
        "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity"
        " WHERE datname = current_database() AND application_name = 'ingest recall'",
    )
    other.rollback()
    assert indexes(connection, TWO) == {f"{TWO}_embedding_idx": True, f"{TWO}_embedding_idx_ccnew": False}
    assert value(connection, f"SELECT '{TWO}_embedding_idx'::regclass::oid") == old
    did = recall(resources)
    assert (did["repair"]["did"], did["alerts"]) == (["vacuum", "rebuild"], [])
    assert indexes(connection, TWO) == {f"{TWO}_embedding_idx": True}


def test_leftovers_of_a_build_are_dropped_by_the_next_run(
    resources: Resources, connection: Connection
) -> None:
    for ending in ("_ccnew", "_ccold"):
        name = f"{ONE}_embedding_idx{ending}"
        tell(connection, f"CREATE INDEX {name} ON {ONE} USING hnsw (embedding vector_cosine_ops)")
    recall(resources, dry_run=True)
    assert len(indexes(connection, ONE)) == 3
    recall(resources)
    assert indexes(connection, ONE) == {f"{ONE}_embedding_idx": True}


def test_a_segment_that_is_merged_meanwhile_keeps_nothing_of_the_build(
    resources: Resources, connection: Connection
) -> None:
    tell(connection, "UPDATE segments SET state = 'emptied', sealed_rows = NULL WHERE segment = 2")
    assert graphs.rebuild(connection, TWO, resources.settings) is False
    assert indexes(connection, TWO) == {f"{TWO}_embedding_idx": True}


def test_what_the_server_refuses_is_told_beside_what_was_measured(
    resources: Resources, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    build_badly(connection, TWO)
    refused = (
        "CREATE FUNCTION refuse() RETURNS event_trigger LANGUAGE plpgsql AS $$ BEGIN RAISE disk_full; END $$"
    )
    tell(connection, refused, "CREATE EVENT TRIGGER refuse ON ddl_command_start EXECUTE FUNCTION refuse()")
    did = recall(resources)
    assert did["repair"]["failed"] == "disk_full"
    assert (did["repair"]["did"], of(did, TWO)["recall"] < 0.8) == (["vacuum"], True)
    assert indexes(connection, TWO) == {f"{TWO}_embedding_idx": True}
    tell(connection, "DROP EVENT TRIGGER refuse")


@pytest.fixture
def maintaining(resources: Resources) -> Iterator[Resources]:
    """What the role of maintenance works with."""
    make_roles(resources.settings, "recalling")
    role = role_names("recalling")[Role.MAINTENANCE]
    url = driver_url(resources.settings.database_url).set(username=role, drivername="postgresql")
    mine = SecretStr(url.render_as_string(hide_password=False))
    own = with_settings(resources, database_url=mine, maintenance_database_url=mine)
    yield own
    own.close()


def test_the_role_of_maintenance_measures_every_tenant_and_mends(
    maintaining: Resources, connection: Connection
) -> None:
    build_badly(connection, TWO)
    did = recall(maintaining)
    assert (did["repair"]["did"], did["alerts"], did["queries"]) == (["vacuum", "rebuild"], [], SAMPLE)
    owner = f"SELECT relowner::regrole::text FROM pg_class WHERE relname = '{TWO}_embedding_idx'"
    assert value(connection, owner) == role_names("recalling")[Role.OWNER]


def test_a_role_that_may_not_vacuum_is_told_so(maintaining: Resources, connection: Connection) -> None:
    build_badly(connection, TWO)
    name = role_names("recalling")[Role.MAINTENANCE]
    tell(connection, f"ALTER TABLE {TWO} OWNER TO CURRENT_USER; GRANT SELECT ON {TWO} TO {name}")
    did = recall(maintaining)
    assert (did["repair"]["did"], did["repair"]["failed"]) == (
        [], "the role may not vacuum it: run `ingest roles`",
    )  # fmt: skip
    assert "waits_for" not in did["repair"]


# -- what people see ---------------------------------------------------------------------------------


def doctor(resources: Resources) -> Finding:
    return check_recall(resources.settings)


def test_the_command_shows_what_was_measured(connection: Connection, ingest: conftest.Run) -> None:
    build_badly(connection, TWO)
    shown = ingest("maintain", "recall")
    assert shown.returncode == Exit.OK
    lines = [line.split() for line in shown.stdout.decode().splitlines()]
    assert [line[:3] for line in lines if line[0] == "segments"] == [
        ["segments", "leaf", f"{ONE},"],
        ["segments", "leaf", f"{TWO},"],
    ]
    [repair] = [" ".join(line) for line in lines if line[0] == "repair"]
    assert repair.startswith(f"repair segment {TWO}, why recall@10 0.")
    assert "did vacuum, rebuild, before 0." in repair


def test_history_tells_what_is_usual_and_a_fall(resources: Resources, connection: Connection) -> None:
    assert recall_history.latest(connection) == (None, None, None)
    for _ in range(4):
        recall(resources)
    tell(
        connection,
        "UPDATE maintenance_runs SET started_at = started_at - interval '1 hour' WHERE chore = 'recall'",
    )
    latest = recall_history.latest(connection)
    assert latest.history is not None
    assert len(latest.history.earlier) == 3
    assert latest.history.usual is not None
    assert latest.history.usual >= 0.95
    segment = latest.history.newest.segments[0]
    assert latest.history.usual_of(segment) == pytest.approx(segment.figures.recall, abs=0.05)
    assert latest.seconds_ago == pytest.approx(3600, abs=300)
    newest = "(SELECT max(started_at) FROM maintenance_runs WHERE chore = 'recall')"
    change = "UPDATE maintenance_runs SET details = jsonb_set(details, '{segments,0,recall}', '%s') WHERE %s"
    tell(connection, change % (0.95, f"started_at = {newest}"), change % (1.0, f"started_at < {newest}"))
    assert doctor(resources).seen.startswith(f"{ONE}: recall@10 0.950, 1.000 before")


def test_doctor_says_when_it_was_not_measured_for_long(
    resources: Resources, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    recall(resources)
    tell(connection, "UPDATE maintenance_runs SET started_at = started_at - interval '5 days'")
    monkeypatch.setattr(measuring, "_PATIENCE_SECONDS", 0)
    tell(connection, "UPDATE segments SET state = 'sealing', sealed_rows = NULL WHERE segment = 2")
    recall(resources)
    finding = doctor(resources)
    assert (finding.state, finding.mend) == ("warning", "run `ingest maintain recall`")
    assert finding.seen == f"last measured 5 d ago: {TWO} waits for its first index"
    assert doctor(with_settings(resources, recall_schedule="off")).state == "ok"
