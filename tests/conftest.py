"""Real servers for every test: PostgreSQL + pgvector and Valkey, started here, from wheels.

The schema is migrated once into a template database; each test that writes gets a copy of it.
"""

import itertools
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path
from typing import Any
from uuid import UUID

import hypothesis
import pytest
from pydantic import SecretStr
from sqlalchemy import Connection, create_engine, pool, text

from tests.forks import Forks
from worker import broker
from worker.db.engine import driver_url, single_connection_engine
from worker.db.migrate import migrate
from worker.dispatch import dispatch
from worker.embedded import RunningPostgres, RunningValkey, start_postgres, start_valkey
from worker.ingest import ingest_batch
from worker.resources import Resources, close_resources
from worker.settings import Settings, load_settings, read_settings

POSTGRES_VERSION = int(os.environ.get("POSTGRES_VERSION") or 18)
_numbers = itertools.count(1)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


# Stacks and exporters of this process of the suite; another has a port of its own.
os.environ["METRICS_PORT"] = str(free_port())

# `short` tries the same at each run: what fails has been changed. `long` looks for what nobody has tried yet.
hypothesis.settings.register_profile("short", derandomize=True, deadline=None, stateful_step_count=50)
hypothesis.settings.register_profile("long", deadline=None, max_examples=2_000, stateful_step_count=60)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE") or "short")

Run = Callable[..., subprocess.CompletedProcess[bytes]]

# Who runs the suite under `nohup` or in the background of a shell ignores these, and processes inherit that.
signal.signal(signal.SIGHUP, signal.SIG_DFL)
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningPostgres]:
    assert POSTGRES_VERSION in (16, 18)
    with start_postgres(
        tmp_path_factory.mktemp("postgres") / "data",
        version=POSTGRES_VERSION,  # type: ignore[arg-type] # asserted above
        durable=False,
    ) as server:
        yield server


@pytest.fixture(scope="session")
def valkey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningValkey]:
    with start_valkey(tmp_path_factory.mktemp("valkey"), durable=False) as server:
        yield server


@pytest.fixture(scope="session")
def administrate(postgres: RunningPostgres) -> Callable[[str], None]:
    """Run a statement on the server, outside any test's database."""

    def run(statement: str) -> None:
        engine = create_engine(driver_url(SecretStr(postgres.url)), poolclass=pool.NullPool)
        with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.execute(text(statement))

    return run


@pytest.fixture(scope="session")
def new_database(
    postgres: RunningPostgres, administrate: Callable[[str], None]
) -> Callable[[str | None], str]:
    """Make a database, empty or a copy of another; give its URL."""

    def make(template: str | None = None) -> str:
        name = f"test_{next(_numbers)}"
        administrate(
            f"CREATE DATABASE {name}" + (f" TEMPLATE {template} STRATEGY file_copy" if template else "")
        )
        return postgres.url.replace("/ingest?", f"/{name}?")

    return make


@pytest.fixture(scope="session")
def copied(
    new_database: Callable[[str | None], str], administrate: Callable[[str], None]
) -> Callable[[str], AbstractContextManager[str]]:
    """Have a copy of a database for a while; its URL."""

    @contextmanager
    def have(template: str) -> Iterator[str]:
        url = new_database(template)
        yield url
        # A thousand of them would take 12 GB of the machine.
        administrate(f"DROP DATABASE {driver_url(SecretStr(url)).database} WITH (FORCE)")

    return have


@pytest.fixture(scope="session")
def template(new_database: Callable[[str | None], str], valkey: RunningValkey) -> str:
    url = new_database(None)
    migrate(read_settings(database_url=url, broker_url=valkey.url))
    return driver_url(SecretStr(url)).database or ""


@pytest.fixture
def database(copied: Callable[[str], AbstractContextManager[str]], template: str) -> Iterator[str]:
    """Where the database of the test is."""
    with copied(template) as url:
        yield url


@pytest.fixture
def environment() -> dict[str, str]:
    """Settings a test folder wants on top of the usual ones."""
    return {}


@pytest.fixture
def settings(
    environment: dict[str, str],
    database: str,
    valkey: RunningValkey,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Settings]:
    """Settings of a migrated, empty database and an empty broker; also what `load_settings` gives."""
    usual = {
        "DATABASE_URL": database,
        "BROKER_URL": valkey.url,
        "ALLOWED_ROOTS": str(tmp_path),
        "DATA_DIR": str(tmp_path / "data"),
        "HEARTBEAT_SECONDS": "1",
        "LEASE_SECONDS": "3",
    }
    for name, value in {**usual, **environment}.items():
        monkeypatch.setenv(name, value)
    load_settings.cache_clear()
    client = broker.connect(load_settings())
    client.flushall()
    client.close()
    yield load_settings()
    close_resources()
    load_settings.cache_clear()


@pytest.fixture
def resources(settings: Settings) -> Iterator[Resources]:
    mine = Resources(settings)
    yield mine
    mine.close()


@pytest.fixture
def connection(resources: Resources) -> Iterator[Connection]:
    """An autocommit connection to look at what was committed."""
    with resources.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as opened:
        yield opened


@pytest.fixture
def other(settings: Settings) -> Iterator[Connection]:
    """A second session, to hold what the work under test wants or waits for."""
    with single_connection_engine(settings.database_url, "another session").connect() as opened:
        yield opened
        opened.rollback()


@pytest.fixture
def drain(resources: Resources) -> Callable[[], dict[str, int]]:
    """Dispatch and process, in this process, until nothing is ready; give the counts by status."""
    return partial(drained, resources)


def drained(resources: Resources) -> dict[str, int]:
    """Dispatch and process until nothing is ready; give the counts by status."""
    total: dict[str, int] = {}
    dispatch(resources)
    while batch_ids := _queued(resources):
        for batch_id in batch_ids:
            for status, count in (ingest_batch(resources, batch_id, "test") or {}).items():
                total[status] = total.get(status, 0) + count
        dispatch(resources)
    return total


def _queued(resources: Resources) -> list[UUID]:
    with resources.engine.begin() as connection:
        found = connection.execute(
            text("SELECT batch_id FROM batches WHERE state = 'queued' ORDER BY created_at")
        )
        return list(found.scalars())


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "worker.cli", *arguments]


@pytest.fixture(scope="session")
def forks() -> Iterator[Forks]:
    with Forks() as running:
        yield running


@pytest.fixture
def ingest(settings: Settings, tmp_path: Path, forks: Forks) -> Run:
    """Run a command of `ingest` to its end, in the folder of the test."""

    def run(*arguments: str | Path, stdin: bytes = b"", **environment: str) -> Any:
        done = forks.run([*map(str, arguments)], stdin, tmp_path, {**os.environ, **environment})
        assert b"Traceback" not in done.stderr, done.stderr.decode()
        return done

    return run
