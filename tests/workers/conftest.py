"""Workers as processes, a broker of their own, and what the tests wait for."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from pytest_celery import CeleryTestWorker, RedisTestBroker
from sqlalchemy import Connection, text
from tenacity import Retrying, stop_after_delay, wait_fixed

from tests.forks import Forks
from tests.workers.nodes import start_broker, start_worker
from worker.embedded import RunningValkey
from worker.settings import Settings

StartWorker = Callable[..., CeleryTestWorker]
Until = Callable[[Callable[[], Any]], Any]


@pytest.fixture
def environment() -> dict[str, str]:
    """The schedule in seconds, so that what beat mends is mended while a test waits; few attempts."""
    seconds = dict.fromkeys(("RESCUE_SCHEDULE", "DISPATCH_SCHEDULE", "REPUBLISH_SECONDS"), "1")
    return {**seconds, "MAX_ATTEMPTS": "2"}


@pytest.fixture
def broker_node(valkey: RunningValkey) -> Iterator[RedisTestBroker]:
    """The broker as a node, to be killed and restarted; it runs again when the test ends."""
    node = start_broker(valkey)
    yield node
    if node.container.status != "running":
        node.restart()


@pytest.fixture
def start(settings: Settings, tmp_path: Path, forks: Forks) -> Iterator[StartWorker]:
    """Start a worker of a kind; all are killed at the end."""
    nodes: list[CeleryTestWorker] = []

    def run(kind: str = "ingest", **overrides: str) -> CeleryTestWorker:
        nodes.append(start_worker(forks, kind, tmp_path, **overrides))
        return nodes[-1]

    yield run
    for node in nodes:
        node.teardown()


@pytest.fixture
def until() -> Until:
    """Wait until a condition holds; give what it gave."""

    def wait(condition: Callable[[], Any], seconds: float = 60) -> Any:
        for attempt in Retrying(stop=stop_after_delay(seconds), wait=wait_fixed(0.05), reraise=True):
            with attempt:
                found = condition()
                assert found, "the condition did not come true"
        return found

    return wait


@pytest.fixture
def counts(connection: Connection) -> Callable[[], dict[str, int]]:
    """Count the documents by status."""

    def run() -> dict[str, int]:
        found = connection.execute(
            text(
                "SELECT status, count(*) AS documents FROM documents WHERE deleted_at IS NULL GROUP BY status"
            )
        )
        return {row.status: row.documents for row in found}

    return run


@pytest.fixture
def embedded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], int]:
    """Sum up the texts that the model of all workers was given, by what became of it."""
    log = tmp_path / "embedded"
    monkeypatch.setenv("MODEL_LOG", str(log))

    def run(answered: str = "embedded") -> int:
        lines = log.read_text().splitlines() if log.exists() else []
        return sum(int(line.split()[1]) for line in lines if line.startswith(answered))

    return run
