"""Flower as `ingest flower` runs it, asked over HTTP."""

import base64
import json
import os
import re
import socket
import subprocess
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, text

from tests.conftest import command
from tests.workers.conftest import StartWorker, Until
from tests.workers.test_delivery import texts, waiting_writers, writes_blocked
from worker import submit
from worker.errors import Exit
from worker.producer import search
from worker.resources import Resources
from worker.settings import Settings

LOGIN = "operator:what nobody guesses"
# Ways to change something, by what Flower calls them; `{}` is a worker, a task or the name of one.
CONTROLS = (
    "worker/shutdown/{}", "worker/pool/restart/{}", "worker/pool/grow/{}", "worker/pool/shrink/{}",
    "worker/pool/autoscale/{}", "worker/queue/add-consumer/{}", "worker/queue/cancel-consumer/{}",
    "task/apply/{}", "task/async-apply/{}", "task/send-task/{}", "task/abort/{}", "task/timeout/{}",
    "task/rate-limit/{}", "task/revoke/{}",
)  # fmt: skip
OPEN = {"/healthcheck", "/logout"}


Counts = Callable[[], dict[str, int]]


class Flower:
    """A running Flower; asked with its login, unless told otherwise."""

    def __init__(self, port: int, log: Path) -> None:
        self.port, self.log = port, log

    def ask(self, path: str, login: str | None = LOGIN, data: bytes | None = None) -> tuple[int, str]:
        """Give status and body of a page; a POST where there are data."""
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}", data)
        if login is not None:
            request.add_header("Authorization", f"Basic {base64.b64encode(login.encode()).decode()}")
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    def tasks(self, name: str) -> list[dict[str, Any]]:
        """Give the tasks of a name, with their ids."""
        found = json.loads(self.ask(f"/api/tasks?taskname={name}")[1])
        return [{"id": task_id, **task} for task_id, task in found.items()]

    def answers(self) -> bool:
        """Tell whether it has begun to."""
        try:
            return self.ask("/healthcheck")[0] == 200
        except OSError:
            return False


StartFlower = Callable[..., Flower]


@pytest.fixture
def start_flower(settings: Settings, tmp_path: Path, until: Until) -> Iterator[StartFlower]:
    running: list[subprocess.Popen[bytes]] = []

    def run(**environment: str) -> Flower:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        given = {"FLOWER_PORT": str(port), "FLOWER_BASIC_AUTH": LOGIN, **environment}
        flower = Flower(port, tmp_path / f"flower-{port}.log")
        with flower.log.open("wb") as log:
            running.append(
                subprocess.Popen(command("flower"), stdout=log, stderr=log, env={**os.environ, **given})
            )
        until(lambda: running[-1].poll() is not None or flower.answers())
        assert running[-1].poll() is None, flower.log.read_text()
        return flower

    yield run
    for process in running:
        process.terminate()
        assert process.wait(timeout=30) == Exit.OK


def pages_of(paths: list[str]) -> list[str]:
    """Give an address for each of Flower's patterns."""
    return [re.sub(r"\(\.[+*]\)", "anything", path.removesuffix("$").replace("/?", "")) for path in paths]


def test_every_page_but_one_asks_for_the_login_and_reading_changes_nothing(start_flower: StartFlower) -> None:
    from flower.urls import handlers

    flower = start_flower(FLOWER_READ_ONLY="true", FLOWER_UNAUTHENTICATED_API="true")
    patterns = [getattr(given, "regex", None) or given[0] for given in handlers]  # tornado's own, or a tuple
    pages = pages_of([str(getattr(pattern, "pattern", pattern)) for pattern in patterns])
    assert {"/", "/tasks", "/metrics", "/api/workers", "/api/task/result/anything"} <= set(pages)
    closed = {page for page in pages if not page.startswith(("/static", "/login", ".*"))} - OPEN
    for login in (None, "operator:wrong", LOGIN.partition(":")[0], ":"):
        asked = {page: {flower.ask(page, login)[0], flower.ask(page, login, data=b"")[0]} for page in closed}
        assert {page for page, codes in asked.items() if not codes <= {401, 405}} == set()
    assert flower.ask("/healthcheck", login=None) == (200, "OK")
    assert "flower_" in flower.ask("/metrics")[1]
    assert flower.ask("/tasks")[0] == 200
    controls = {f"/api/{control.format('anything')}" for control in CONTROLS}
    posts = {page for page in closed if flower.ask(page, data=b"")[0] != 405}
    assert posts == controls | {"/tasks/datatable"}
    assert {page: flower.ask(page, data=b"") for page in controls} == dict.fromkeys(
        controls, (403, "Read only mode is enabled")
    )


def test_flower_without_a_login_does_not_start(settings: Settings, tmp_path: Path) -> None:
    done = subprocess.run(
        command("flower"),
        env={**os.environ, "FLOWER_BASIC_AUTH": ""},
        capture_output=True,
        cwd=tmp_path,
        check=False,
    )
    assert done.returncode == Exit.SETTINGS
    assert done.stderr.decode() == (
        "error: Flower would be open to everybody → set FLOWER_BASIC_AUTH=user:password\n"
    )


@pytest.fixture
def environment(environment: dict[str, str]) -> dict[str, str]:
    return environment | {"BATCH_DOCUMENTS": "5"}


def test_what_is_shown_is_read_at_a_glance_and_holds_no_text_and_no_secret(
    start: StartWorker, start_flower: StartFlower, until: Until, settings: Settings, counts: Counts
) -> None:
    flower = start_flower()
    workers = [start(kind) for kind in ("ingest", "search", "maintenance")]
    start("beat")
    submit(texts(3))
    until(lambda: counts() == {"completed": 3})
    assert search("which ship is number 2?").hits
    (batch,) = until(lambda: [task for task in flower.tasks("ingest.batch") if task["state"] == "SUCCESS"])
    assert re.fullmatch(r"\(default: 3 documents, [0-9a-f-]{36}\)", batch["args"])
    assert batch["result"] == "3 completed"
    (asked,) = until(lambda: [task for task in flower.tasks("search.query") if task["state"] == "SUCCESS"])
    shown = (asked["args"], asked["kwargs"], asked["result"])
    assert shown == ("(default: hybrid, 10 results)", "not shown", "3 hits, hybrid")
    chores = until(lambda: [task for task in flower.tasks("maintain.rescue") if task["state"] == "SUCCESS"])
    assert chores[0]["result"] in {"done", "just done"}
    names = json.loads(flower.ask("/api/workers?refresh=true")[1])
    assert len(names) == len(workers)
    pages = ["/workers", "/broker", "/api/tasks", "/api/workers", *(f"/worker/{name}" for name in names)]
    seen = "".join(flower.ask(page)[1] for page in [*pages, *(f"/task/{t['id']}" for t in (batch, asked))])
    password = re.search(r":([^:@]+)@", settings.broker_url.get_secret_value())
    assert password is not None
    assert not re.search(rf"{re.escape(password[1])}|tells of ship|which ship", seen)


def test_a_batch_revoked_or_terminated_in_flower_is_done_all_the_same(
    start: StartWorker,
    start_flower: StartFlower,
    until: Until,
    resources: Resources,
    connection: Connection,
    counts: Counts,
) -> None:
    flower = start_flower()
    for kind in ("ingest", "maintenance", "beat"):
        start(kind)

    def batches(*states: str) -> list[str]:
        return [task["id"] for task in flower.tasks("ingest.batch") if task["state"] in states]

    with writes_blocked(resources):
        submit(texts(20))
        until(lambda: waiting_writers(connection) == 2 and len(batches("STARTED")) == 2)
        (waiting, *_) = until(lambda: batches("PENDING", "RECEIVED"))
        obeys, does_not = batches("STARTED")
        for task, how in (
            (waiting, ""),
            (does_not, "?terminate=true"),
            (obeys, "?terminate=true&signal=SIGKILL"),
        ):
            assert flower.ask(f"/api/task/revoke/{task}{how}", data=b"")[0] == 200
        until(lambda: waiting_writers(connection) == 1)
    until(lambda: counts() == {"completed": 20})
    assert waiting in until(lambda: batches("REVOKED"))
    charged = connection.execute(text("SELECT attempts, count(*) FROM documents GROUP BY 1 ORDER BY 1")).all()
    assert charged == [(1, 15), (2, 5)]
