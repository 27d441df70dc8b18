"""What a worker's main process has open when it forks stays its own."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
from sqlalchemy import Connection, text

from tests.workers.conftest import StartWorker, Until
from tests.workers.test_delivery import texts, writes_blocked
from worker import submit
from worker.resources import Resources

WRITERS = "SELECT pid FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE '%segments%'"


def last_use(connection: Connection, backend: int) -> tuple[Any, ...]:
    """What a session did last, and when."""
    found = connection.execute(
        text("SELECT state, query, state_change FROM pg_stat_activity WHERE pid = :pid"), {"pid": backend}
    )
    return tuple(found.one())


def test_each_child_has_an_engine_of_its_own(
    start: StartWorker,
    until: Until,
    resources: Resources,
    connection: Connection,
    counts: Callable[[], dict[str, int]],
    tmp_path: Path,
) -> None:
    opened = tmp_path / "opened"
    worker = start("ingest", module="tests.workers.opened", OPENED=str(opened))
    of_the_parent = int(opened.read_text())
    before = last_use(connection, of_the_parent)

    def writers() -> set[int]:
        return set(connection.execute(text(WRITERS)).scalars())

    with writes_blocked(resources):
        submit(texts(600))
        until(lambda: len(writers()) == 2)
        assert len(psutil.Process(worker.container.process.pid).children()) >= 2
        assert of_the_parent not in writers()
    until(lambda: counts() == {"completed": 600})
    # nobody said anything over it, not even that it ends
    assert last_use(connection, of_the_parent) == before
