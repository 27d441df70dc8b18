"""`ingest pause`, `resume`, `cancel --batch`, and a full backlog, as a user meets them."""

import json
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, text
from typer.testing import CliRunner, Result

from tests.conftest import Run
from worker import pause, submit
from worker.cli.commands import application
from worker.errors import Exit, IngestError
from worker.producer import Document
from worker.settings import Settings


@pytest.fixture(autouse=True)
def _use_settings(settings: Settings) -> None:
    """The commands use the process's settings: those of this test."""


BATCH = "6f1c2f7e-3d0a-4c55-9a52-0f6a3c1f9b10"


def ran(*arguments: str | Path) -> Result:
    return CliRunner().invoke(application(), list(map(str, arguments)))


def told(*arguments: str) -> Any:
    return json.loads(ran(*arguments, "--json").stdout)


def documents(count: int = 3) -> list[Document]:
    return [Document.text(f"ship {n}", source_path=f"/{n}.txt") for n in range(count)]


def test_what_is_paused_is_listed_until_it_is_resumed() -> None:
    assert ran("pause").stdout == "nothing is paused\n"
    submit(documents(), tenant="acme")
    done = ran("pause", "--tenant", "acme", "--queue", "ingest", "--reason", "the disk is full").stdout
    first, second, third = done.splitlines()
    assert (first, third) == ("paused", "      `ingest resume --tenant acme --queue bulk` ends it")
    assert second.startswith("  tenant acme, queue bulk, for 0 s, by ")
    assert second.endswith(": the disk is full")
    assert (
        ran("pause", "--tenant", "acme", "--queue", "bulk").stdout.splitlines()[0] == "it is paused already"
    )
    ran("pause", "--all")
    assert [one["tenant"] for one in told("pause")] == ["acme", None]
    resumed = ran("resume", "--all").stdout.splitlines()
    assert (resumed[:2], len(resumed)) == (["resumed", "still paused"], 4)
    assert told("resume", "--tenant", "acme", "--queue", "bulk") == {"changed": True, "paused": []}
    again = ran("resume", "--tenant", "acme", "--queue", "bulk")
    assert (again.exit_code, again.stdout) == (Exit.FINDINGS, "nothing resumed: this was not paused\n")


def test_a_paused_backlog_is_no_mystery(ingest: Run, tmp_path: Path) -> None:
    submit(documents(), tenant="acme")
    pause(tenant="acme", reason="the disk is full", by="ann")
    (tmp_path / "new.txt").write_text("a new ship")
    added = ingest("add", "new.txt", "--tenant", "acme", "--wait", "--timeout", "0")
    assert added.returncode == Exit.TIMEOUT
    assert added.stderr.decode().startswith("waiting: tenant acme is paused since ")
    assert "waiting: tenant acme is paused" in ran("add", tmp_path / "new.txt", "--tenant", "acme").stdout
    [status] = told("status")["paused"]
    assert (status["tenant"], status["lane"], status["reason"]) == ("acme", None, "the disk is full")
    assert "by ann: the disk is full\n      `ingest resume --tenant acme` ends it" in ran("status").stdout
    [found] = [one for one in told("doctor")["findings"] if one["name"] == "paused"]
    assert found["state"] == "warning"
    assert found["seen"].endswith("by ann: the disk is full")


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["pause", "--queue", "search"], "the queue search cannot be paused → searches are not paused: stop"),
        (["pause", "--queue", "fast"], "there is no queue 'fast' → one of interactive, bulk"),
        (["pause", "--queue", ""], "there is no queue '' → one of interactive, bulk"),
        (["pause", "--tenant", ""], "there is no tenant '' → `ingest status` lists"),
        (["pause", "--reason", "why"], "name what to pause, or choose --all → see --help"),
        (["pause", "--tenant", "nobody"], "there is no tenant 'nobody' → `ingest status` lists"),
        (["resume"], "name what to resume, or choose --all → `ingest pause` lists what is paused"),
        (["cancel", "--batch", "x"], "'x' is not the id of a batch → it is a UUID"),
        (["cancel", "--requeue"], "--batch stands alone, and --requeue is for it → see --help"),
        (["cancel", "--batch", BATCH, "--tenant", "acme"], "a batch is of one tenant: --batch goes without"),
        (["cancel", "--batch", BATCH, "--project", "p"], "a batch is of one tenant: --batch goes without"),
        (["cancel", "--all", "--requeue"], "--batch stands alone, and --requeue is for it → see --help"),
    ],
)
def test_a_mistake_is_one_line(arguments: list[str], line: str) -> None:
    failed = ran(*arguments).exception
    assert isinstance(failed, IngestError)
    assert failed.exit_code == Exit.USAGE
    assert str(failed).startswith(line)


def test_a_batch_is_cancelled_by_its_id(connection: Connection) -> None:
    submit(documents())
    batch_id = told("status", "/0.txt")[0]["batch_id"]
    assert ran("cancel", "--batch", batch_id, "--requeue").stdout == "3 documents went back into the queue\n"
    ended = ran("cancel", "--batch", batch_id).exception
    assert isinstance(ended, IngestError)
    assert (ended.exit_code, ended.message) == (
        Exit.FINDINGS,
        f"nothing cancelled: batch {batch_id} has ended",
    )
    [batch_id] = connection.execute(text("SELECT batch_id FROM batches WHERE state = 'queued'")).scalars()
    assert told("cancel", "--batch", str(batch_id)) == {"documents": 3}
    assert set(connection.execute(text("SELECT status FROM documents")).scalars()) == {"cancelled"}


def test_a_full_backlog_refuses_with_a_code_of_its_own(ingest: Run, tmp_path: Path) -> None:
    pause(everything=True)
    submit(documents())
    (tmp_path / "new.txt").write_text("a new ship")
    done = ingest("add", "new.txt", "--when-full", "refuse", MAX_BACKLOG_DOCUMENTS="3")
    assert done.returncode == Exit.FULL
    assert done.stderr.decode().startswith("error: the backlog is full: 3 bulk documents in all wait already")
