"""`ingest health`: alive is not enough, and what is not ready is named."""

import json
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from threading import Thread

import pytest
from sqlalchemy import Connection, text
from tenacity import Retrying, retry_if_result, stop_after_delay, wait_fixed

from tests.conftest import Run
from tests.forks import Forks
from tests.integration.exporting import checks, get, running, scrape
from worker import broker
from worker.db import operations
from worker.errors import Exit
from worker.monitoring import health
from worker.monitoring.health import KINDS
from worker.settings import Settings, load_settings
from worker.types import Queue, TaskName

HOST = socket.gethostname()


@pytest.fixture
def environment() -> dict[str, str]:
    """Heartbeats that stay fresh while a command starts."""
    return {"HEARTBEAT_SECONDS": "60", "LEASE_SECONDS": "180"}


def beat(connection: Connection, kind: str, host: str = HOST, up: str = "1 day", age: str = "0 s") -> str:
    """Have a process of a host that began a day ago; gives its name."""
    name = f"{kind}-7@{host}"
    operations.beat_heart(connection, name, kind, 1, 7)
    connection.execute(
        text("""
            UPDATE heartbeats SET created_at = now() - CAST(:up AS interval),
                   seen_at = now() - CAST(:age AS interval) WHERE name = :name"""),
        {"name": name, "up": up, "age": age},
    )
    return name


def failing() -> dict[str, str]:
    return {check.name: check.reason for check in health.live(HOST) if not check.ok}


def batch(connection: Connection, state: str, worker: str | None = None, ago: str = "1 hour") -> None:
    connection.execute(
        text("""
            WITH t AS (INSERT INTO tenants (name) VALUES (gen_random_uuid()::text) RETURNING tenant_id)
            INSERT INTO batches (tenant_id, lane, documents, state, worker, lease_token, lease_expires_at,
                                 progress, finished_at, created_at, published_at)
            SELECT tenant_id, 'bulk', 1, :state, :worker,
                   CASE :state WHEN 'running' THEN gen_random_uuid() END,
                   CASE :state WHEN 'running' THEN now() + interval '1 min' END,
                   CASE :state WHEN 'finished' THEN 1 ELSE 0 END,
                   CASE :state WHEN 'finished' THEN now() END, now() - CAST(:ago AS interval),
                   now() - CAST(:ago AS interval) FROM t"""),
        {"state": state, "worker": worker, "ago": ago},
    )


def change(monkeypatch: pytest.MonkeyPatch, setting: str, value: str) -> None:
    monkeypatch.setenv(setting, value)
    load_settings.cache_clear()


def send(name: TaskName, queue: Queue, expires: datetime | None = None) -> None:
    from worker.app import app  # reads the settings

    app.send_task(name.value, queue=queue.value, expires=expires, ignore_result=True)


def empty(settings: Settings) -> None:
    client = broker.connect(settings)
    client.flushall()
    client.close()


LONG_AGO = datetime(2020, 1, 1, tzinfo=UTC)

# -- live ----------------------------------------------------------------------------------------------


def test_a_host_without_a_process_is_not_live(settings: Settings, connection: Connection) -> None:
    beat(connection, "ingest", host="another")
    assert failing() == {"heartbeat": f"no process has a heartbeat on {HOST}"}


def test_a_heartbeat_that_stopped_is_named_until_its_successor_beats(
    settings: Settings, connection: Connection
) -> None:
    beat(connection, "search")
    beat(connection, "ingest", age="1 hour")
    assert failing() == {"ingest heartbeat": "3600 s ago"}
    operations.beat_heart(connection, f"ingest-8@{HOST}", "ingest", 1, 8)
    assert failing() == {}


def test_a_worker_that_neither_takes_nor_finishes_batches_is_not_live(
    settings: Settings, connection: Connection
) -> None:
    name = beat(connection, "ingest")
    assert failing() == {}
    batch(connection, "queued")
    assert failing() == {}, "the broker has lost its message, which is not the worker's fault"
    send(TaskName.INGEST_BATCH, Queue.INGEST)
    assert failing() == {"ingest progress": "1 batches wait for over 780 s, and none was taken"}
    batch(connection, "running", name)
    assert failing() == {"ingest progress": "1 batches are under way for over 780 s, and none was finished"}
    batch(connection, "finished", name)
    assert failing() == {}


def test_a_worker_is_given_time(settings: Settings, connection: Connection) -> None:
    name = beat(connection, "ingest")
    send(TaskName.INGEST_BATCH, Queue.INGEST)
    batch(connection, "running", name, ago="5 min")
    batch(connection, "queued", ago="5 min")
    assert failing() == {}
    batch(connection, "running", name)
    beat(connection, "ingest", up="10 s")
    assert failing() == {}


def test_a_search_worker_that_lets_searches_expire_is_not_live(
    settings: Settings, connection: Connection
) -> None:
    beat(connection, "search")
    send(TaskName.SEARCH_QUERY, Queue.SEARCH, datetime(2120, 1, 1, tzinfo=UTC))
    assert failing() == {}
    empty(settings)
    send(TaskName.SEARCH_QUERY, Queue.SEARCH, LONG_AGO)
    assert failing() == {"search progress": "searches expire before they are taken"}


@pytest.mark.parametrize("message", ["garbage", "[]", "5", '{"headers": null}', "[" * 100_000])
def test_what_is_no_message_of_ours_ends_no_look_at_the_queues(
    settings: Settings, connection: Connection, message: str
) -> None:
    beat(connection, "search")
    client = broker.connect(settings)
    client.lpush(Queue.SEARCH.value, message)
    assert failing() == {}
    assert broker.waiting(client)[Queue.SEARCH] == (1, None)
    client.close()


def test_a_maintenance_worker_that_lets_chores_expire_is_not_live_unless_all_of_it_is_busy(
    settings: Settings, connection: Connection
) -> None:
    beat(connection, "maintenance")
    send(TaskName.RESCUE, Queue.MAINTENANCE, LONG_AGO)
    assert failing() == {"maintenance progress": "chores expire before they are taken"}
    operations.open_run(connection, "compact")
    assert failing() == {}


def test_a_beat_that_sends_nothing_is_not_live(settings: Settings, connection: Connection) -> None:
    beat(connection, "beat")
    [(name, reason)] = failing().items()
    assert name == "beat progress"
    assert reason.startswith("nothing was dispatched for 86400 s")
    send(TaskName.DISPATCH, Queue.MAINTENANCE)
    assert failing() == {}, "what it has sent is the maintenance worker's"
    empty(settings)
    operations.close_run(connection, operations.open_run(connection, "dispatch"), "done", {})
    assert failing() == {}


def test_a_broker_that_is_away_is_held_against_nobody(
    settings: Settings, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    for kind in KINDS:
        beat(connection, kind)
    batch(connection, "queued")
    change(monkeypatch, "BROKER_URL", "redis://127.0.0.1:1/0")
    assert failing() == {}


# -- ready ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("arguments", [("ready", "flower"), ("live", "--need", "beat")])
def test_what_does_not_go_together_is_refused(ingest: Run, arguments: tuple[str, ...]) -> None:
    done = ingest("health", *arguments)
    assert done.returncode == Exit.USAGE
    assert done.stderr.decode() == "error: a process is named with live, --need with ready → see --help\n"


def test_it_is_ready_once_each_kind_of_process_lives(
    ingest: Run, settings: Settings, connection: Connection
) -> None:
    missing = list(KINDS)
    while missing:
        assert [check.name for check in health.ready() if not check.ok] == missing
        beat(connection, missing.pop(0), host="anywhere")
    done = ingest("health", "ready")
    assert done.returncode == Exit.OK, done.stdout
    assert b"ok  migrations" in done.stdout
    connection.execute(text("DELETE FROM heartbeats WHERE kind = 'search'"))
    done = ingest("health", "ready", "--json")
    assert done.returncode == Exit.FINDINGS
    assert json.loads(done.stdout)["ok"] is False
    assert ingest("health", "ready", "--need", "ingest", "--need", "beat").returncode == Exit.OK


def test_a_database_that_is_away_is_no_reason_to_restart_anything(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    change(monkeypatch, "DATABASE_URL", "postgresql://u:hush@127.0.0.1:1/x")
    [check] = health.live("here")
    assert check.ok
    assert check.reason.startswith("nothing is known while it is away: PostgreSQL at")
    assert "hush" not in check.reason


@pytest.mark.parametrize(
    ("setting", "value", "check"),
    [
        ("CHUNK_SIZE", "1", "settings"),
        ("DATABASE_URL", "postgresql://u:hush@127.0.0.1:1/x", "database"),
        ("BROKER_URL", "redis://:hush@127.0.0.1:1/0", "broker"),
        ("EMBEDDING_METRIC", "l2", "migrations"),
    ],
)
def test_what_is_not_ready_is_named_with_what_to_do(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, setting: str, value: str, check: str
) -> None:
    change(monkeypatch, setting, value)
    reasons = {check.name: check.reason for check in health.ready() if not check.ok}
    assert "→" in reasons[check]
    assert "hush" not in str(reasons)


def test_a_database_without_tables_is_not_ready(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, new_database: Callable[[str | None], str]
) -> None:
    change(monkeypatch, "DATABASE_URL", new_database(None))
    reasons = {check.name: check.reason for check in health.ready() if not check.ok}
    assert reasons["migrations"] == "the database is not migrated → run `ingest migrate`"


def test_a_broker_that_answers_and_takes_nothing_is_not_ready(
    settings: Settings, forks: Forks, tmp_path: Path
) -> None:
    client = broker.connect(settings)
    limit = client.config_get("maxmemory")["maxmemory"] or 0
    client.config_set("maxmemory", 1)
    try:
        with running(forks, tmp_path) as address:
            assert scrape(address)["ingest_broker_up"] == {"": 0}
        reasons = {check.name: check.reason for check in health.ready() if not check.ok}
    finally:
        client.config_set("maxmemory", limit)
    assert "→ raise maxmemory" in reasons["broker"]
    assert {check.name: check.ok for check in health.ready()}["broker"]
    until(lambda: not client.keys("*probe*"))
    client.close()


# -- over HTTP -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("said", [b"-ERR what is GET?\r\n", b"HTTP/1.1 ?\r\n", b"\x00\xff\n\n", b""])
def test_another_program_on_its_port_is_no_answer(ingest: Run, settings: Settings, said: bytes) -> None:
    with _stranger(said) as port:
        done = ingest("health", "live", "flower", FLOWER_PORT=port)
    assert (done.returncode, done.stderr) == (Exit.FINDINGS, b"")
    [line] = done.stdout.decode().splitlines()
    assert line.startswith("failed  flower  http://127.0.0.1:")


def test_the_exporter_answers_the_same(
    ingest: Run, settings: Settings, connection: Connection, forks: Forks, tmp_path: Path
) -> None:
    with running(forks, tmp_path) as address:
        assert checks(address, "live") == (200, {}), "no other process is here"
        assert checks(address, "ready") == (503, dict.fromkeys(KINDS, "none lives"))
        assert checks(address, "ready?need=beat&need=search")[1].keys() == {"beat", "search"}
        for kind in KINDS:
            beat(connection, kind, up="1 s")
        send(TaskName.SEARCH_QUERY, Queue.SEARCH, LONG_AGO)
        until(lambda: checks(address, "ready") == (200, {}))  # an answer is kept for a moment
        until(lambda: checks(address, "live")[0] == 503)
        assert checks(address, "live")[1] == {"search progress": "searches expire before they are taken"}
        assert get(f"{address}/health")[0] == 404
        for wrong in ("need=interactiv", "ned=search"):
            assert get(f"{address}/health/ready?{wrong}")[0] == 400
        # who has no heartbeat is asked over HTTP
        done = ingest("health", "live", "exporter", METRICS_ADDRESS="0.0.0.0")
        assert done.returncode == Exit.OK, done.stdout
    done = ingest("health", "live", "exporter", "--json")
    assert done.returncode == Exit.FINDINGS
    assert "does not answer" in json.loads(done.stdout)["checks"][0]["reason"]


def test_a_proxy_is_not_asked_and_who_speaks_another_language_is_named_in_one_line(
    ingest: Run, settings: Settings, forks: Forks, tmp_path: Path
) -> None:
    with running(forks, tmp_path):
        done = ingest("health", "live", "exporter", http_proxy="http://127.0.0.1:1")
        assert done.returncode == Exit.OK, done.stdout
    with _stranger(b"SSH-2.0-some\r\n") as port:
        done = ingest("health", "live", "exporter", METRICS_PORT=port)
    assert done.returncode == Exit.FINDINGS, done.stderr
    assert b"does not answer: SSH" in done.stdout


@contextmanager
def _stranger(said: bytes) -> Iterator[str]:
    """Answer one caller as a server does that is not asked over HTTP; gives its port."""

    def answer() -> None:
        caller, _ = listening.accept()
        with caller:
            caller.sendall(said)
            caller.recv(4096)

    with socket.create_server(("127.0.0.1", 0)) as listening:
        Thread(target=answer, daemon=True).start()
        yield str(listening.getsockname()[1])


def until(condition: Callable[[], bool]) -> None:
    wait = Retrying(
        stop=stop_after_delay(60), wait=wait_fixed(0.1), retry=retry_if_result(lambda found: not found)
    )
    wait(condition)
