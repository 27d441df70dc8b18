"""The exporter as Prometheus meets it: a real scrape, of a real database, as the role of monitoring."""

import json
import re
import signal
import socket
import struct
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest
import yaml
from sqlalchemy import Connection, event, text

from tests.conftest import Run
from tests.forks import Forks
from tests.integration.exporting import COUNT, WORK, get, running, scrape, start, worked
from worker.db import monitoring, operations, pauses
from worker.db.engine import single_connection_engine
from worker.db.grants import Role
from worker.db.logins import role_urls
from worker.db.roles import make_roles
from worker.errors import Exit
from worker.monitoring.server import Application, listen
from worker.settings import Settings, load_settings
from worker.steps.recall import Figures, Measured, Segment
from worker.types import Lane

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "docs/operations/monitoring"
PAGE = (ROOT / "docs/operations/monitoring.md").read_text()
FIGURES = Figures(0.9, 0.5, 20, 2, 0)
MEASURED = Measured(FIGURES, 0, (Segment("chunks_s000001", 1, 5_000, FIGURES._replace(recall=0.8)),))
SUFFIXES = re.compile(r"_(bucket|sum|count)$")

Scrape = dict[str, dict[str, float]]


@pytest.fixture
def as_monitor(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """The settings, with a role of monitoring that may do nothing but its own."""
    make_roles(settings, "seen_")
    url = role_urls(settings, "seen_", {})["MONITOR_DATABASE_URL"]
    monkeypatch.setenv("MONITOR_DATABASE_URL", url.render_as_string(hide_password=False))
    load_settings.cache_clear()
    return load_settings()


@pytest.fixture
def scraped(as_monitor: Settings, connection: Connection, tmp_path: Path, forks: Forks) -> Iterator[Scrape]:
    """What is scraped of a system that has everything there is to be said."""
    with worked(WORK, tmp_path):
        record(connection, "recall", "done", json.dumps(MEASURED.as_json()))
        operations.open_run(connection, "compact")
        operations.beat_heart(connection, "beat@here", "beat", 0, 1)
        with running(forks, tmp_path) as address:
            yield scrape(address)


def record(connection: Connection, chore: str, outcome: str, details: str = "{}", ago: str = "0 s") -> None:
    connection.execute(
        text("""
            INSERT INTO maintenance_runs (chore, outcome, details, error_message, started_at, finished_at)
            VALUES (:chore, :outcome, CAST(:details AS jsonb), CASE :outcome WHEN 'failed' THEN 'it did' END,
                    now() - CAST(:ago AS interval), now() - CAST(:ago AS interval) + interval '2 s')"""),
        {"chore": chore, "outcome": outcome, "details": details, "ago": ago},
    )


def named(queries: str) -> set[str]:
    return {SUFFIXES.sub("", name) for name in re.findall(r"\bingest_\w+", queries)}


def rules() -> list[dict[str, Any]]:
    groups = yaml.safe_load((FOLDER / "alerts.yml").read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def queries_of_the_dashboard() -> list[str]:
    panels = json.loads((FOLDER / "dashboard.json").read_text())["panels"]
    return [target["expr"] for panel in panels for target in panel.get("targets", [])]


def documented() -> set[str]:
    return set(re.findall(r"^\| `(ingest_\w+)` \|", PAGE, re.MULTILINE))


def test_a_scrape_has_what_is_documented_and_what_dashboard_and_alerts_ask(scraped: Scrape) -> None:
    exposed = {SUFFIXES.sub("", name) for name in scraped}
    assert exposed == documented()
    for queries in (queries_of_the_dashboard(), [rule["expr"] for rule in rules()]):
        assert len(queries) > 10
        assert named(" ".join(queries)) <= exposed
    labels = {
        name: {pair.partition("=")[0] for series in found for pair in series.split(",") if pair} - {"le"}
        for name, found in scraped.items()
    }
    for name, found in re.findall(r"^\| `(ingest_\w+)` \|(.*?)\|", PAGE, re.MULTILINE):
        wanted = set(re.findall(r"`(\w+)`", found))
        exposures = [labels[other] for other in labels if SUFFIXES.sub("", other) == name]
        assert all(wanted == one for one in exposures), name

    # and it is what happened
    outcomes = {s: n for s, n in scraped["ingest_documents_processed_total"].items() if n}
    assert outcomes == {f"outcome={name}": 1 for name in ("completed", "duplicate", "skipped", "failed")}
    assert scraped["ingest_documents"]["status=completed"] == 1
    assert scraped["ingest_document_errors_total"] == {
        "code=not_found,outcome=failed": 1,
        "code=whitespace,outcome=skipped": 1,
    }
    assert scraped["ingest_document_bytes_total"]["outcome=completed"] == len("Apples are red.")
    assert scraped["ingest_chunks_processed_total"]["embedding=computed"] == 1
    assert scraped["ingest_batches_total"] == {
        "outcome=done": 1,
        "outcome=not_ours": 1,
        "outcome=lease_lost": 0,
    }
    assert {s: n for s, n in scraped["ingest_searches_total"].items() if n} == {
        "outcome=answered": 1,
        "outcome=refused": 1,
    }
    stages = {name.partition("=")[2] for name in scraped["ingest_stage_duration_seconds_count"]}
    assert stages == {"load", "chunk", "plan", "embed", "wait", "write"}
    assert scraped["ingest_chore_runs_total"]["chore=vacuum,outcome=done"] == 1
    assert scraped["ingest_chore_last_run_success"]["chore=vacuum"] == 1
    recall = {name.removeprefix("ingest_recall_"): scraped[name][""] for name in scraped if "recall" in name}
    assert recall.pop("age_seconds") >= 0
    assert recall == {
        "ratio": 0.9,
        "worst_segment_ratio": 0.8,
        "underfill_ratio": 0.1,
        "falls": 3,
        "alert_ratio": 0.95,
    }
    found = scraped["ingest_chore_found"]
    assert found["chore=indexes,found=missing"] == 0
    assert found["chore=recall,found=segments"] == 1
    assert scraped["ingest_index_oversize_ratio"][""] >= 1
    assert scraped["ingest_database_up"] == scraped["ingest_broker_up"] == {"": 1}
    assert scraped["ingest_segments"]["state=open"] == 1
    assert scraped["ingest_open_segment_fill_ratio"][""] > 0
    assert "acme" not in str(scraped)
    assert "gone.txt" not in str(scraped)


def test_every_alert_says_what_to_do_and_has_a_test() -> None:
    headings = {heading.lower(): heading for heading in re.findall(r"^### (Ingest\w+)$", PAGE, re.MULTILINE)}
    assert sorted(rule["alert"] for rule in rules()) == sorted(headings.values())
    for rule in rules():
        page, _, anchor = rule["annotations"]["runbook"].partition("#")
        assert (ROOT / page).read_text() == PAGE
        assert headings[anchor] == rule["alert"]
        assert rule["annotations"]["summary"]
    tests = yaml.safe_load((FOLDER / "alerts.test.yml").read_text())["tests"]
    cases = [case for test in tests for case in test["alert_rule_test"]]
    for raised in (True, False):
        tested = {case["alertname"] for case in cases if bool(case["exp_alerts"]) == raised}
        assert tested == set(headings.values())


def test_the_state_is_what_the_tables_say(
    as_monitor: Settings, connection: Connection, forks: Forks, tmp_path: Path
) -> None:
    record(connection, "vacuum", "done", ago="2 days")
    record(connection, "purge", "failed", ago="5 s")
    details = {"missing": ["one", "two"], "checked": 3, "why": "a word is no number"}
    record(connection, "indexes", "done", json.dumps(details), ago="5 s")
    operations.open_run(connection, "compact")
    connection.execute(
        text("""
            INSERT INTO heartbeats (name, kind, slots, pid, seen_at, created_at) VALUES
            ('ingest-1@a', 'ingest', 2, 1, now(), now()), ('ingest-2@a', 'ingest', 3, 2, now(), now()),
            ('ingest-3@a', 'ingest', 4, 3, now() - interval '1 h', now() - interval '2 h'),
            ('beat@a', 'beat', 0, 4, now(), now() - interval '2 days')""")
    )
    connection.execute(
        text("""
            WITH t AS (INSERT INTO tenants (name) VALUES ('acme') RETURNING tenant_id),
            b AS (INSERT INTO batches (tenant_id, lane, documents, published_at)
                  SELECT tenant_id, 'bulk', 1, now() - interval '100 s' FROM t RETURNING tenant_id, batch_id),
            r AS (INSERT INTO batches (tenant_id, lane, documents, state, worker, lease_token,
                                       lease_expires_at, trouble)
                  SELECT tenant_id, 'bulk', 1, 'running', 'w', gen_random_uuid(), now() + interval '1 h', said
                  FROM t, (VALUES (NULL), ('429'), ('401')) v(said))
            INSERT INTO documents (tenant_id, filename, source_path, source_key, file_type, lane, queued_at,
                                   batch_id, deleted_at)
            SELECT b.tenant_id, n, n, sha256(n::bytea), 'text', lane, now() - ago::interval,
                   CASE WHEN batched THEN batch_id END, gone
            FROM b, (VALUES ('held', 'bulk', '900 s', true, NULL::timestamptz),
                            ('first', 'bulk', '300 s', false, NULL), ('last', 'bulk', '-1 h', false, NULL),
                            ('gone', 'interactive', '999 s', false, now())) d(n, lane, ago, batched, gone)""")
    )
    with running(forks, tmp_path) as address:
        found = scrape(address)
    assert found["ingest_documents"]["status=pending"] == 3
    waiting = found["ingest_oldest_waiting_seconds"]
    assert waiting["lane=interactive"] == 0
    assert 900 <= waiting["lane=bulk"] < 1000
    assert found["ingest_batches_unfinished"]["lane=bulk,state=queued"] == 1
    assert found["ingest_batches_unfinished"]["lane=bulk,state=running"] == 3
    assert found["ingest_batches_held_up"] == {"": 2}
    assert 100 <= found["ingest_queue_oldest_message_seconds"]["queue=ingest"] < 200
    assert found["ingest_processes_alive"]["kind=ingest"] == 2
    assert found["ingest_processes_lost"]["kind=ingest"] == 1
    assert found["ingest_worker_slots"]["kind=ingest"] == 5
    assert found["ingest_processes_alive"]["kind=search"] == 0
    assert found["ingest_chore_last_run_success"] == {"chore=vacuum": 1, "chore=purge": 0, "chore=indexes": 1}
    assert list(found["ingest_chore_running_seconds"]) == ["chore=compact"]
    late = {name for name, value in found["ingest_chore_late"].items() if value}
    never = {"dispatch", "rescue", "spares", "seal"}
    assert late & {f"chore={name}" for name in (*never, "vacuum", "purge", "indexes", "compact")} == {
        f"chore={name}" for name in (*never, "vacuum")
    }
    assert found["ingest_chore_found"] == {"chore=indexes,found=missing": 2, "chore=indexes,found=checked": 3}


@pytest.fixture
def silent() -> Iterator[str]:
    """A server that takes connections and never says a word, as behind a network that drops all."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        yield f"127.0.0.1:{listening.getsockname()[1]}"


def test_while_servers_are_away_a_scrape_says_so_and_has_the_processes(
    settings: Settings, silent: str, tmp_path: Path, forks: Forks
) -> None:
    """The one that keeps silent is the harder one; a scrape waits for 10 s, no longer."""
    away = {"DATABASE_URL": f"postgresql://u:hush@{silent}/x", "BROKER_URL": f"redis://:hush@{silent}/0"}
    with worked(COUNT, tmp_path), running(forks, tmp_path, **away) as address:
        found = scrape(address)
        ready, _ = get(f"{address}/health/ready")
    assert found["ingest_database_up"] == found["ingest_broker_up"] == {"": 0}
    assert found["ingest_documents_processed_total"]["outcome=completed"] == 1
    assert "ingest_documents" not in found
    assert "ingest_queue_messages" not in found
    assert ready == 503


def test_counting_reads_an_index_alone_and_chores_their_last_runs(
    as_monitor: Settings, connection: Connection
) -> None:
    connection.execute(
        text("""
            WITH t AS (INSERT INTO tenants (name) VALUES ('acme') RETURNING tenant_id)
            INSERT INTO documents (tenant_id, filename, source_path, source_key, file_type,
                                   deleted_at, metadata)
            SELECT tenant_id, 'f', 'p' || n, sha256(('p' || n)::bytea), 'text',
                   CASE WHEN n % 10 = 0 THEN now() END, jsonb_build_object('x', repeat('x', 500))
            FROM t, generate_series(1, 3000) n""")
    )
    connection.execute(
        text("""
            INSERT INTO maintenance_runs (chore, outcome, started_at, finished_at)
            SELECT chore, 'done', now() - n * interval '10 s', now()
            FROM unnest(ARRAY['seal', 'dispatch']) chore, generate_series(1, 3000) n""")
    )
    connection.execute(text("VACUUM ANALYZE documents, maintenance_runs"))
    engine = single_connection_engine(as_monitor.monitor_url)
    with engine.connect() as monitor:
        monitor.execute(text("SET plan_cache_mode = force_custom_plan"))
        assert monitor.execute(text("SELECT current_user")).scalar_one() == f"seen_{Role.MONITOR}"
        plans = [plan_of(monitor, monitoring.counts), plan_of(monitor, operations.last_runs)]
    counting, last = plans
    assert "Index Only Scan using documents_status_idx" in counting
    assert "Heap Fetches: 0" in counting
    assert "Index Scan Backward using maintenance_runs_chore_idx" in last
    assert "Seq Scan" not in counting + last


def plan_of(connection: Connection, question: Any) -> str:
    """Have the server say how it answers the one statement of a question."""
    seen: list[tuple[str, Any]] = []

    def note(_c: Any, _cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        seen.append((statement, parameters))

    event.listen(connection, "before_cursor_execute", note)
    question(connection)
    event.remove(connection, "before_cursor_execute", note)
    [(statement, parameters)] = seen
    explained = connection.exec_driver_sql(f"EXPLAIN (ANALYZE, COSTS OFF) {statement}", parameters)
    return "\n".join(explained.scalars())


def test_a_port_that_is_taken_is_one_line(ingest: Run, settings: Settings) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        done = ingest("exporter", METRICS_PORT=str(port))
    assert done.returncode == Exit.STACK
    [said] = done.stderr.decode().splitlines()
    assert said == (
        f"error: port {port} of 127.0.0.1, meant for metrics, cannot be used: Address already in use"
        " → stop the program that has it, or set METRICS_PORT to a free port"
    )


def test_who_asks_badly_makes_no_traceback(settings: Settings, forks: Forks, tmp_path: Path) -> None:
    log = tmp_path / "log"
    exporter, address = start(forks, log)
    host, port = address.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as gone:  # resets: what it sent is not read to its end
        gone.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        gone.sendall(b"GET / HTTP/1.1\r\nX: ")
    broken = Request(f"{address}/metrics", headers={"Accept": "application/openmetrics-text; version=abc"})
    with pytest.raises(HTTPError) as refused:
        urlopen(broken, timeout=10)
    assert refused.value.code == 400
    exporter.terminate()
    assert exporter.wait(timeout=30) == Exit.OK
    _, line = log.read_text().splitlines()
    assert "request.refused" in line


def test_many_may_come_at_once(settings: Settings) -> None:
    listening = listen(settings.model_copy(update={"metrics_port": 0}), Application(settings))
    with listening, ExitStack() as callers:  # nobody accepts yet
        for _ in range(100):
            callers.enter_context(socket.create_connection(("127.0.0.1", listening.server_port), timeout=10))


def test_it_serves_nothing_else_and_stops_when_its_terminal_closes(
    settings: Settings, forks: Forks, tmp_path: Path
) -> None:
    exporter, address = start(forks, tmp_path / "log")
    assert get(f"{address}/")[0] == 200
    assert get(f"{address}/etc/passwd")[0] == 404
    assert get(f"{address}/metrics?name[]=ingest_broker_up")[1].count("\n") == 3
    exporter.send_signal(signal.SIGHUP)
    assert exporter.wait(timeout=30) == Exit.OK


@pytest.mark.parametrize(
    ("paused", "oldest"),
    [
        (None, 300),
        ((None, None, Lane.INTERACTIVE), 300),
        (("a", "p", None), 200),
        (("a", "p", Lane.BULK), 200),
        (("a", None, None), 100),
        ((None, None, Lane.BULK), 0),
        ((None, None, None), 0),
    ],
)
def test_what_is_paused_does_not_wait(
    connection: Connection, paused: tuple[str | None, str | None, Lane | None] | None, oldest: int
) -> None:
    connection.execute(text("INSERT INTO tenants (name) VALUES ('a'), ('b')"))
    connection.execute(
        text("INSERT INTO projects (tenant_id, name) SELECT tenant_id, 'p' FROM tenants WHERE name = 'a'")
    )
    connection.execute(
        text("""
            INSERT INTO documents (tenant_id, project_id, filename, source_path, source_key, file_type,
                                   queued_at)
            SELECT t.tenant_id, p.project_id, 'f', ago, sha256(ago::bytea), 'text', now() - ago::interval
            FROM (VALUES ('a', 'p', '300 s'), ('a', NULL, '200 s'), ('b', NULL, '100 s')) d(who, project, ago)
            JOIN tenants t ON t.name = who
            LEFT JOIN projects p ON p.tenant_id = t.tenant_id AND p.name = project""")
    )
    if paused is not None:
        tenant, project, lane = paused
        find = "SELECT {0}_id FROM {0}s WHERE name = :name"
        ids = [
            connection.execute(text(find.format(kind)), {"name": name}).scalar()
            for kind, name in (("tenant", tenant), ("project", project))
        ]
        pauses.pause(connection, pauses.Target(ids[0], ids[1], lane), None, "somebody")
    waiting = monitoring.sample(connection, 15).oldest_waiting
    assert waiting.get("bulk", 0) // 100 * 100 == oldest
