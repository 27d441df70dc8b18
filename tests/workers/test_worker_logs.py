"""The log of real processes, in both formats: every line a record, and nothing of what documents say."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pytest_celery import RedisTestBroker
from sqlalchemy import Connection, text

from tests.conftest import Run
from tests.workers.conftest import StartWorker, Until
from worker import Document, GivenChunk, submit
from worker.db.engine import driver_url
from worker.embedded import RunningValkey
from worker.errors import Exit, IngestError
from worker.producer import search, wait
from worker.settings import Settings
from worker.types import LogFormat, Queue, TaskName

MARK = "xylophonic"
PASSWORD = "of-the-database-9f2c"
FORGED = "two\nERROR worker.tasks batch.done batch=forged"
CONSOLE = re.compile(r"(DEBUG|INFO|WARNING|ERROR|CRITICAL) [\w.]+ \S.*|    .*")
POISON = f"""
    CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        IF NEW.text LIKE '%refused%' THEN RAISE EXCEPTION 'not this: {MARK} %', NEW.text; END IF;
        RETURN NEW; END $$;
    CREATE TRIGGER refuse BEFORE INSERT ON chunks_s000001 FOR EACH ROW EXECUTE FUNCTION refuse()"""


def marked() -> list[Document]:
    """Documents of every outcome, whose contents and metadata bear the mark."""
    meta = {"secret": MARK}
    return [
        Document.text(f"# {MARK}\n\nThe {MARK} ship sails.", source_path="a.md", metadata=meta),
        Document.text(f"# {MARK}\n\nThe {MARK} ship sails.", source_path="b.md", metadata=meta),
        Document.text(f"{MARK} refused", source_path="c.txt", metadata=meta),
        Document.text(f"{MARK} forges", source_path=FORGED, metadata=meta),
        Document.text(" ", source_path="d.txt", metadata=meta),
        Document.chunks([GivenChunk(MARK, vector=[0.0] * 256)], source_path="e", metadata=meta),
        Document.uri("s3://key:hush@bucket/f.txt?signature=hush hush'hush", metadata=meta),
        Document.text(f"{MARK} is traced", source_path="g.txt", trace="mine-7"),
    ]


def records(lines: list[str]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in lines]


def with_password(settings: Settings) -> str:
    """The database's URL with a password in it, which a server of the suite does not ask for."""
    return settings.database_url.get_secret_value().replace("postgres@", f"postgres:{PASSWORD}@", 1)


def search_all(mark: str) -> None:
    """Search well, wrongly, and with what no worker can read."""
    from worker.app import app

    assert search(f"the {mark} ship", mode="keyword", k=3).hits
    search(f"{mark} that is nowhere", mode="vector")
    with pytest.raises(IngestError):
        search(mark, tenant=mark)
    app.send_task(f"no.{mark[:3]}", kwargs={"query": mark}, queue=Queue.SEARCH.value)
    app.send_task(TaskName.SEARCH_QUERY.value, kwargs={mark: mark}, queue=Queue.SEARCH.value)


@pytest.mark.parametrize("log_format", LogFormat)
def test_real_workers_log_lines_without_contents(
    start: StartWorker,
    until: Until,
    connection: Connection,
    settings: Settings,
    valkey: RunningValkey,
    log_format: LogFormat,
) -> None:
    connection.execute(text(POISON))
    chosen = {"LOG_FORMAT": log_format.value, "LOG_LEVEL": "DEBUG", "DATABASE_URL": with_password(settings)}
    workers = [start("ingest", **chosen), start("search", **chosen)]
    receipt = submit(marked(), trace="import-1")
    outcome = wait(receipt.document_ids, timeout_seconds=60)
    assert (outcome.completed, outcome.duplicate, outcome.skipped, outcome.failed) == (3, 1, 1, 3)
    search_all(MARK)
    until(lambda: "raised unexpected" in workers[1].logs())
    for worker in workers:
        worker.kill("SIGTERM")
    until(lambda: all(worker.container.process.poll() is not None for worker in workers))
    written = "".join(worker.logs() for worker in workers)
    assert MARK not in written
    assert "hush" not in written
    assert PASSWORD not in written
    assert valkey.password not in written
    assert "Received unregistered task of type" in written
    lines = written.splitlines()
    if log_format is LogFormat.CONSOLE:
        assert [line for line in lines if not CONSOLE.fullmatch(line)] == []
        assert not any(line.startswith("ERROR worker.tasks") for line in lines)
    else:
        check_records(records(lines), str(receipt.trace))


def check_records(found: list[dict[str, Any]], trace: str) -> None:
    outcomes = [record for record in found if record["event"] == "document.settled"]
    assert sorted(record["status"] for record in outcomes) == [
        *["completed"] * 3, "duplicate", *["failed"] * 3, "skipped",
    ]  # fmt: skip
    assert sorted({record["trace"] for record in outcomes}) == [trace, "mine-7"]
    [batch] = [record for record in found if record["event"] == "batch.done"]
    for record in outcomes:
        assert {"document", "path", "bytes", "ms", "attempt", "embedded", "reused"} - record.keys() <= {
            "bytes"
        }
        assert record["batch"] == batch["batch"]
        assert record["task_id"] == batch["task_id"]
        assert record["worker"].startswith("ingest-")
    assert batch["outcomes"] == {"completed": 3, "duplicate": 1, "skipped": 1, "failed": 3}
    assert batch["embedded"] == sum(record["embedded"] for record in outcomes)
    answered = [record for record in found if record["event"] == "search.done"]
    assert [record["mode"] for record in answered] == ["keyword", "vector"]
    assert {"select", "present"} <= answered[0]["stages"].keys()
    assert all("Traceback" not in record["event"] for record in found)
    [crash] = [record for record in found if "raised unexpected" in record["event"]]
    assert "TypeError" in crash["exception"]


def test_who_loses_both_servers_logs_no_password_of_theirs(
    start: StartWorker,
    until: Until,
    settings: Settings,
    broker_node: RedisTestBroker,
    administrate: Callable[[str], None],
) -> None:
    chosen = {"LOG_FORMAT": "json", "LOG_LEVEL": "DEBUG", "DATABASE_URL": with_password(settings)}
    nodes = [start(kind, **chosen) for kind in ("ingest", "search", "beat")]
    broker_node.kill("SIGKILL")
    name = driver_url(settings.database_url).database
    administrate(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
    administrate(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'")
    until(lambda: all("not currently accepting connections" in node.logs() for node in nodes))
    until(lambda: all("Connection refused.. Trying again" in node.logs() for node in nodes))
    written = "".join(node.logs() for node in nodes)
    assert PASSWORD not in written
    assert broker_node.container.server.password not in written


@pytest.mark.parametrize(
    ("away", "code"),
    [
        ({"BROKER_URL": "redis://:hush@127.0.0.1:1/0"}, Exit.BROKER),
        ({"BROKER_URL": "redis://:hush@{server}"}, Exit.BROKER),
        ({"DATABASE_URL": "postgresql://u:hush@127.0.0.1:1/d"}, Exit.DATABASE),
    ],
    ids=["no broker", "a broker that has another password", "no database"],
)
def test_process_that_cannot_start_says_so_in_json(
    ingest: Run, settings: Settings, away: dict[str, str], code: Exit
) -> None:
    server = settings.broker_url.get_secret_value().rpartition("@")[2]
    urls = {name: url.replace("{server}", server) for name, url in away.items()}
    done = ingest("worker", "search", LOG_FORMAT="json", STARTUP_PATIENCE_SECONDS="1", **urls)
    found = records(done.stderr.decode().splitlines())
    assert [record["event"] for record in found] == ["servers.awaited"] * (len(found) - 1) + [
        "process.refused"
    ]
    assert found[-1]["code"] == done.returncode == code
    assert "hush" not in done.stderr.decode()


def test_beat_and_maintenance_log_json_too(
    start: StartWorker, until: Until, settings: Settings, tmp_path: Path
) -> None:
    nodes = [start(kind, LOG_FORMAT="json") for kind in ("maintenance", "beat")]
    until(lambda: '"chore.done"' in nodes[0].logs())
    found = [record for node in nodes for record in records(node.logs().splitlines())]
    [first, *_] = [record for record in found if record["event"] == "chore.done"]
    assert (first["chore"], first["task"]) in {(n, f"maintain.{n}") for n in ("dispatch", "rescue")}
    assert {record["logger"] for record in found} >= {"celery.beat", "celery.worker.strategy"}


def test_beat_writes_a_line_for_each_chore_while_the_broker_is_away(
    start: StartWorker, until: Until, broker_node: RedisTestBroker, connection: Connection
) -> None:
    beat = start("beat", LOG_FORMAT="json")
    until(lambda: "Sending due task maintain.dispatch" in beat.logs())
    broker_node.kill("SIGKILL")
    until(lambda: {"dispatch", "rescue"} <= {record.get("chore") for record in unsent(beat.logs())})
    found = records(beat.logs().splitlines())
    assert [record for record in found if "exception" in record or "Traceback" in record["event"]] == []
    broker_node.restart()
    start("maintenance")
    until(lambda: connection.execute(text("SELECT count(*) FROM maintenance_runs")).scalar_one())


def unsent(written: str) -> list[dict[str, Any]]:
    whole = written[: written.rfind("\n") + 1].splitlines()
    return [record for record in records(whole) if record["event"] == "chore.unsent"]
