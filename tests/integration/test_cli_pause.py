"""`ingest pause`, `resume`, `cancel --batch`, and a full backlog, as a user meets them."""

import json
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, text

from tests.conftest import Run
from worker.errors import Exit


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    files = tmp_path / "files"
    files.mkdir()
    for number in range(3):
        (files / f"{number}.txt").write_text(f"ship {number}")
    return files


def said(done: Any) -> str:
    return str(done.stdout.decode())


def test_what_is_paused_is_never_a_mystery(ingest: Run, folder: Path, connection: Connection) -> None:
    assert said(ingest("pause")) == "nothing is paused\n"
    assert ingest("add", folder / "0.txt", "--tenant", "acme").returncode == Exit.OK
    done = ingest("pause", "--tenant", "acme", "--queue", "ingest", "--reason", "the disk is full")
    assert done.returncode == Exit.OK
    assert said(done).startswith("paused\npaused\n  tenant acme, queue bulk, for 0 s, by ")
    assert said(done).endswith(
        ": the disk is full\n      `ingest resume --tenant acme --queue bulk` ends it\n"
    )
    added = ingest("add", folder, "--tenant", "acme", "--wait", "--timeout", "0")
    assert added.returncode == Exit.TIMEOUT
    assert "waiting: tenant acme, queue bulk is paused since " in added.stderr.decode()
    assert "waiting: tenant acme, queue bulk is paused" in said(ingest("add", folder, "--tenant", "acme"))
    [status] = json.loads(ingest("status", "--json").stdout)["paused"]
    assert (status["tenant"], status["lane"], status["reason"]) == ("acme", "bulk", "the disk is full")
    findings = json.loads(ingest("doctor", "--json").stdout)["findings"]
    [found] = [finding for finding in findings if finding["name"] == "paused"]
    assert (found["state"], "the disk is full" in found["seen"]) == ("warning", True)
    assert json.loads(ingest("pause", "--json").stdout) == [status | {"seconds": pytest.approx(60, abs=60)}]
    again = ingest("pause", "--tenant", "acme", "--queue", "bulk")
    assert (again.returncode, said(again).splitlines()[0]) == (Exit.OK, "it is paused already")
    assert said(ingest("resume", "--tenant", "acme", "--queue", "bulk")) == "resumed\n"
    assert ingest("resume", "--tenant", "acme", "--queue", "bulk").returncode == Exit.FINDINGS
    assert connection.execute(text("SELECT count(*) FROM pauses")).scalar_one() == 0


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["pause", "--queue", "search"], "the queue search cannot be paused → searches are not paused: stop"),
        (["pause", "--queue", "fast"], "there is no queue 'fast' → one of interactive, bulk"),
        (["pause", "--tenant", "nobody"], "there is no tenant 'nobody' → `ingest status` lists"),
        (["resume"], "name what to resume, or choose --all → `ingest pause` lists what is paused"),
        (["cancel", "--batch", "x"], "'x' is not the id of a batch → it is a UUID"),
        (["cancel", "--all", "--requeue"], "--batch stands alone, and --requeue is for it → see --help"),
    ],
)
def test_a_mistake_is_one_line(ingest: Run, arguments: list[str], line: str) -> None:
    done = ingest(*arguments)
    assert done.returncode == Exit.USAGE
    assert done.stderr.decode().startswith(f"error: {line}")
    assert len(done.stderr.splitlines()) == 1


def test_a_batch_is_cancelled_by_its_id(ingest: Run, folder: Path, connection: Connection) -> None:
    ingest("add", folder)
    [shown] = json.loads(ingest("status", folder / "0.txt", "--json").stdout)
    batch_id = shown["batch_id"]
    assert (
        said(ingest("cancel", "--batch", batch_id, "--requeue")) == "3 documents went back into the queue\n"
    )
    ended = ingest("cancel", "--batch", batch_id)
    assert ended.returncode == Exit.FINDINGS
    assert ended.stderr.decode().startswith(f"error: nothing cancelled: batch {batch_id} has ended")
    [batch_id] = connection.execute(text("SELECT batch_id FROM batches WHERE state = 'queued'")).scalars()
    assert json.loads(ingest("cancel", "--batch", str(batch_id), "--json").stdout) == {"documents": 3}
    assert set(connection.execute(text("SELECT status FROM documents")).scalars()) == {"cancelled"}


def test_a_full_backlog_refuses_with_a_code_of_its_own(ingest: Run, folder: Path) -> None:
    full = {"MAX_BACKLOG_DOCUMENTS": "1", "BATCH_DOCUMENTS": "1"}
    assert ingest("add", folder, "--when-full", "refuse", **full).returncode == Exit.OK
    done = ingest("add", folder, "--name", "x", "--checksum", "--when-full", "refuse", **full)
    assert done.returncode == Exit.FULL
    assert done.stderr.decode().startswith("error: the backlog is full: 1 bulk documents in all wait already")
