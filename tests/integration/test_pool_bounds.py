"""200 callers at once on one pool: its limit, its waits, its metrics, and a server that is restarted."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

import pytest
from sqlalchemy import Connection, text
from tenacity import retry, retry_if_exception_type, stop_after_delay, wait_fixed

from worker import producer
from worker.cli import _explained
from worker.db.engine import single_connection_engine
from worker.db.pooling import NoFreeConnectionError
from worker.embedded import RunningPostgres
from worker.errors import DatabaseUnavailableError, Exit
from worker.metrics import PROCESS_METRICS
from worker.resources import Resources, close_resources, resources
from worker.settings import Settings, load_settings

CALLERS, POOL_SIZE, MOST = 200, 2, 3
# Of a caller that is in the server: how many of them it sees, and since when it has been running.
LOOK = """SELECT count(*) FILTER (WHERE application_name = 'ingest'),
    (SELECT pg_postmaster_start_time() FROM pg_sleep(0.005))
    FROM pg_stat_activity WHERE datname = current_database()"""
SHOWN = ("size", "limit", "checked_out", "overflow", "waiting")


@pytest.fixture
def environment(request: pytest.FixtureRequest) -> dict[str, str]:
    return {"DATABASE_POOL_TIMEOUT": "60", **getattr(request, "param", {})}


@pytest.fixture
def callers() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(CALLERS) as threads:
        yield threads


@pytest.fixture
def all_held(resources: Resources) -> Iterator[ExitStack]:
    """Hold every connection there is, until it is closed."""
    with ExitStack() as held:
        for _ in range(MOST):
            held.enter_context(resources.engine.connect())
        yield held


def look(connection: Connection) -> Any:
    return connection.execute(text(LOOK)).one()


def shown(metric: str) -> float | None:
    return PROCESS_METRICS.get_sample_value(f"ingest_database_pool_{metric}", {"pool": "ingest"})


def all_shown() -> tuple[float | None, ...]:
    return tuple(shown(name) for name in SHOWN)


@retry(retry=retry_if_exception_type(AssertionError), stop=stop_after_delay(60), wait=wait_fixed(0.01))
def until(condition: Callable[[], object]) -> None:
    assert condition()


def test_callers_share_the_connections_there_are_and_the_metrics_say_so(
    resources: Resources, callers: ThreadPoolExecutor, all_held: ExitStack
) -> None:
    waiting = [callers.submit(resources.transact, look) for _ in range(CALLERS)]
    until(lambda: shown("waiting") == CALLERS)
    assert all_shown() == (POOL_SIZE, MOST, MOST, MOST - POOL_SIZE, CALLERS)
    all_held.close()
    seen = [future.result()[0] for future in waiting]
    assert len(seen) == CALLERS
    assert 1 < max(seen) <= MOST
    assert all_shown() == (POOL_SIZE, MOST, 0, 0, 0)
    with resources.engine.connect():
        assert all_shown() == (POOL_SIZE, MOST, 1, 0, 0)


@pytest.mark.parametrize("environment", [{"DATABASE_POOL_TIMEOUT": "1"}], indirect=True)
def test_a_wait_that_is_too_long_says_which_setting_ends_it_and_is_counted_once(
    resources: Resources, callers: ThreadPoolExecutor, all_held: ExitStack, settings: Settings
) -> None:
    before = PROCESS_METRICS.get_sample_value("ingest_database_pool_timeouts_total", {"pool": "ingest"}) or 0
    waiting = [callers.submit(resources.transact, look) for _ in range(CALLERS)]
    errors = [future.exception() for future in waiting]
    with pytest.raises(NoFreeConnectionError) as caught:
        resources.engine.connect()
    for error in (*errors, _explained(caught.value)):
        assert isinstance(error, DatabaseUnavailableError)
        assert error.exit_code == Exit.DATABASE
        assert "all 3 connections of the pool 'ingest' were in use for 1 s" in error.message
        assert "DATABASE_POOL_SIZE" in error.hint
        assert "\n" not in str(error)
    assert shown("timeouts_total") == before + CALLERS + 1
    assert shown("waiting") == 0


def test_callers_that_are_the_first_ones_all_get_the_same_pool(
    callers: ThreadPoolExecutor, settings: Settings
) -> None:
    close_resources()
    load_settings.cache_clear()  # which they read first, all of them
    together = threading.Barrier(CALLERS)

    def first_call() -> tuple[Any, int]:
        together.wait()
        engine = resources().engine
        producer.status()
        return engine, resources().transact(look)[0]

    try:
        found = [future.result() for future in [callers.submit(first_call) for _ in range(CALLERS)]]
    finally:
        close_resources()
    assert len({id(engine) for engine, _ in found}) == 1
    assert max(seen for _, seen in found) <= MOST


def test_callers_go_on_after_a_restart_of_the_server_within_the_same_limit(
    resources: Resources, callers: ThreadPoolExecutor, postgres: RunningPostgres
) -> None:
    restarted = threading.Event()
    asked = threading.Semaphore(0)
    started = resources.transact(look)[1]
    said: list[str] = []

    def until_the_new_server_answers() -> int:
        while True:
            try:
                seen, since = resources.transact(look)
            except DatabaseUnavailableError as error:
                said.append(str(error))  # and asks again
                continue
            asked.release()
            if restarted.is_set() and since > started:
                return int(seen)

    going: list[Future[int]] = [callers.submit(until_the_new_server_answers) for _ in range(CALLERS)]
    for _ in range(CALLERS):
        asked.acquire()
    postgres.stop()
    postgres.start()
    restarted.set()
    assert max(future.result(timeout=60) for future in going) <= MOST
    assert all("\n" not in line for line in said)
    assert all_shown() == (POOL_SIZE, MOST, 0, 0, 0)
    other = single_connection_engine(resources.settings.database_url, "another")

    def left() -> int:
        with other.connect() as connection:
            return int(look(connection)[0])

    until(lambda: left() == POOL_SIZE)
