"""Flower as the stack runs it, asked over HTTP."""

import base64
import json
import re
import subprocess
import urllib.error
import urllib.request
from collections.abc import Callable
from typing import Any

import pytest

from tests.operations.stack import DATABASE_PASSWORD, HASTE, Stack, until
from tests.operations.test_runbooks import ALL, session
from worker.errors import Exit

LOGIN = HASTE["FLOWER_BASIC_AUTH"]
# Ways to change something, by what Flower calls them; `{}` is a worker, a task or the name of one.
CONTROLS = (
    "worker/shutdown/{}", "worker/pool/restart/{}", "worker/pool/grow/{}", "worker/pool/shrink/{}",
    "worker/pool/autoscale/{}", "worker/queue/add-consumer/{}", "worker/queue/cancel-consumer/{}",
    "task/apply/{}", "task/async-apply/{}", "task/send-task/{}", "task/abort/{}", "task/timeout/{}",
    "task/rate-limit/{}", "task/revoke/{}",
)  # fmt: skip
OPEN = {"/healthcheck", "/logout"}


class Flower:
    """The running Flower; asked with its login, unless told otherwise."""

    def __init__(self, port: str) -> None:
        self._port = port

    def ask(self, path: str, login: str | None = LOGIN, data: bytes | None = None) -> tuple[int, str]:
        """Give status and body of a page; a POST where there are data."""
        request = urllib.request.Request(f"http://127.0.0.1:{self._port}{path}", data)
        if login is not None:
            request.add_header("Authorization", f"Basic {base64.b64encode(login.encode()).decode()}")
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    def tasks(self, name: str, *states: str) -> list[dict[str, Any]]:
        """Give the tasks of a name in these states, with their ids."""
        found = json.loads(self.ask(f"/api/tasks?taskname={name}")[1])
        return [{"id": task_id, **task} for task_id, task in found.items() if task["state"] in states]

    def answers(self) -> bool:
        """Tell whether it has begun to."""
        try:
            return self.ask("/healthcheck")[0] == 200
        except OSError:
            return False


@pytest.fixture
def start_flower(stack: Stack) -> Callable[..., Flower]:
    def run(*others: str, **settings: str) -> Flower:
        stack.whole(*others)
        stack.start("flower", **settings)
        flower = Flower(stack.environment["FLOWER_PORT"])
        until(lambda: stack.processes["flower"].poll() is not None or flower.answers())
        assert stack.processes["flower"].poll() is None, stack.log("flower")
        return flower

    return run


def pages_of(handlers: list[Any]) -> set[str]:
    """Give an address for each of Flower's patterns, which are tornado's own or tuples."""
    patterns = [getattr(given, "regex", None) or given[0] for given in handlers]
    paths = [str(getattr(pattern, "pattern", pattern)) for pattern in patterns]
    return {re.sub(r"\(\.[+*]\)", "anything", path.removesuffix("$").replace("/?", "")) for path in paths}


def test_every_page_but_one_asks_for_the_login_and_reading_changes_nothing(
    start_flower: Callable[..., Flower],
) -> None:
    from flower.urls import handlers

    flower = start_flower(FLOWER_READ_ONLY="true", FLOWER_UNAUTHENTICATED_API="true")
    pages = pages_of(handlers)
    assert {"/", "/tasks", "/metrics", "/api/workers", "/api/task/result/anything"} <= pages
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
    answers = {page: flower.ask(page, data=b"") for page in controls}
    assert answers == dict.fromkeys(controls, (403, "Read only mode is enabled"))


def test_flower_below_a_prefix_is_found_where_it_is(stack: Stack) -> None:
    stack.whole()
    stack.start("flower", FLOWER_URL_PREFIX="/flower/")
    address = f"http://127.0.0.1:{stack.environment['FLOWER_PORT']}"
    asked = "ingest health live flower"
    until(
        lambda: (
            stack.shell(asked, FLOWER_URL_PREFIX="/flower/")
            == f"ok  flower  {address}/flower/healthcheck answers\n"
        )
    )
    assert "Not Found" in stack.shell(asked)


def test_flower_without_a_login_does_not_start(stack: Stack) -> None:
    environment = {**stack.environment, "FLOWER_BASIC_AUTH": ""}
    done = subprocess.run(["ingest", "flower"], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == Exit.SETTINGS
    said = "error: Flower would be open to everybody → set FLOWER_BASIC_AUTH=user:password\n"
    assert done.stderr == said


def test_what_is_shown_is_read_at_a_glance_and_holds_no_text_and_no_secret(
    stack: Stack, start_flower: Callable[..., Flower]
) -> None:
    flower = start_flower(*ALL)
    stack.write("shown", 3)
    until(lambda: stack.counts("shown") == {"completed": 3})
    stack.shell("ingest search 'which ship is secret?' --tenant shown")
    (batch,) = until(lambda: shown(flower.tasks("ingest.batch", "SUCCESS")))
    assert re.fullmatch(r"\(shown: 3 documents, trace [0-9a-f]{32}, [0-9a-f-]{36}\)", batch["args"])
    assert batch["result"] == "3 completed"
    (asked,) = until(lambda: shown(flower.tasks("search.query", "SUCCESS")))
    seen = (asked["args"], asked["kwargs"], asked["result"])
    assert seen == ("(shown: hybrid, 10 results)", "not shown", "3 hits, hybrid")
    chore = until(lambda: flower.tasks("maintain.dispatch", "SUCCESS"))[0]
    assert re.fullmatch(r"locked|just done|done(: [a-z ]+ \d+(, [a-z ]+ \d+)*)?", chore["result"])

    names = json.loads(flower.ask("/api/workers?refresh=true")[1])
    assert len(names) == 3
    pages = ["/workers", "/broker", "/api/tasks", "/api/workers", *(f"/worker/{name}" for name in names)]
    pages += [f"/task/{task['id']}" for task in (batch, asked, chore)]
    everything = "".join(flower.ask(page)[1] for page in pages)
    password = re.search(r":([^:@]+)@", stack.environment["BROKER_URL"])
    assert password is not None
    secrets = rf"{re.escape(password[1])}|{DATABASE_PASSWORD}|what nobody guesses|sails to|is secret"
    assert not re.search(secrets, everything)


def shown(tasks: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [task for task in tasks if task["args"].startswith("(shown:")]


def test_a_batch_revoked_or_terminated_in_flower_is_done_all_the_same(
    stack: Stack, start_flower: Callable[..., Flower]
) -> None:
    flower = start_flower(*ALL)

    def batches(*states: str) -> list[str]:
        found = flower.tasks("ingest.batch", *states)
        return [task["id"] for task in found if task["args"].startswith("(revoked:")]

    with session(stack, "SELECT 1 FROM segments WHERE state = 'open' FOR UPDATE"):
        stack.write("revoked", 20)
        until(lambda: len(batches("STARTED")) == 2)
        (waiting, *_) = until(lambda: batches("PENDING", "RECEIVED"))
        stays, dies = batches("STARTED")
        told = {waiting: "", stays: "?terminate=true", dies: "?terminate=true&signal=SIGKILL"}
        for task, how in told.items():
            assert flower.ask(f"/api/task/revoke/{task}{how}", data=b"")[0] == 200
        until(lambda: charged_twice(stack) == 5)
    until(lambda: stack.counts("revoked") == {"completed": 20})
    assert waiting in until(lambda: batches("REVOKED"))


def charged_twice(stack: Stack) -> int:
    """Count the documents whose worker was lost and which are tried again, alone."""
    found = stack.ask(
        "SELECT count(*) FROM documents JOIN tenants USING (tenant_id) WHERE name = 'revoked' AND isolated"
    )
    return int(found[0][0])
