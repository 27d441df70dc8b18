"""Each process connects as its own role, by the settings alone, and the embedded stack sets them."""

import json
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from dotenv import dotenv_values
from pydantic import SecretStr
from sqlalchemy import Connection, text
from tenacity import Retrying, retry_if_result, stop_after_delay, wait_fixed

from tests.conftest import Run, command
from tests.forks import Forks
from worker.cli.startup import as_role
from worker.db.engine import single_connection_engine
from worker.db.grants import Role
from worker.db.logins import role_urls
from worker.db.roles import make_roles
from worker.embedded import RunningPostgres
from worker.errors import Exit
from worker.settings import Settings, export, load_settings

PREFIX = "own_"


def until(condition: object, seconds: float = 60) -> None:
    assert callable(condition)
    Retrying(
        stop=stop_after_delay(seconds), wait=wait_fixed(0.05), retry=retry_if_result(lambda found: not found)
    )(condition)


@pytest.fixture
def in_roles(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """The settings that `ingest roles` says, in the environment."""
    make_roles(settings, PREFIX)
    for name, url in role_urls(settings, PREFIX, {}).items():
        monkeypatch.setenv(name, str(url))
    load_settings.cache_clear()
    return load_settings()


@pytest.fixture
def logged(postgres: RunningPostgres, connection: Connection) -> Iterator[None]:
    """Have the server log who connects."""
    connection.execute(text("ALTER SYSTEM SET log_connections = 'on'"))
    connection.execute(text("SELECT pg_reload_conf()"))
    yield
    connection.execute(text("ALTER SYSTEM RESET log_connections"))
    connection.execute(text("SELECT pg_reload_conf()"))


def connected(postgres: RunningPostgres, database: str) -> set[tuple[str, str]]:
    """Who connected to a database: (role, what it calls itself)."""
    found = re.findall(
        rf"connection authorized: user=(\S+) database={database} application_name=(.*)",
        postgres.log.read_text(),
    )
    return {(role, name.split(" SSL")[0]) for role, name in found if role.startswith(PREFIX)}


@pytest.mark.parametrize(
    ("kind", "role"),
    [("ingest", Role.INGEST), ("search", Role.SEARCH), ("maintenance", Role.MAINTENANCE)],
)
@pytest.mark.usefixtures("logged")
def test_a_worker_connects_as_its_own_role(
    kind: str,
    role: Role,
    in_roles: Settings,
    postgres: RunningPostgres,
    connection: Connection,
    forks: Forks,
    tmp_path: Path,
) -> None:
    database = connection.execute(text("SELECT current_database()")).scalar_one()
    worker = forks.start(["worker", kind], tmp_path, os.environ, {})
    alive = text(f"SELECT count(*) FROM heartbeats WHERE kind = '{kind}'")
    until(lambda: worker.poll() is not None or connection.execute(alive).scalar_one())
    worker.terminate()
    assert worker.wait(timeout=30) == Exit.OK
    seen = connected(postgres, database)
    assert {user for user, name in seen if name == "ingest heartbeat"} == {f"{PREFIX}{role}"}


@pytest.mark.usefixtures("logged")
def test_a_chore_by_hand_is_done_as_maintenance(
    in_roles: Settings, postgres: RunningPostgres, connection: Connection, ingest: Run
) -> None:
    database = connection.execute(text("SELECT current_database()")).scalar_one()
    for chore in ("seal", "rescue"):
        done = ingest("maintain", chore)
        assert done.returncode == Exit.OK, done.stderr
    assert {user for user, _ in connected(postgres, database)} == {f"{PREFIX}maintenance"}


def test_where_one_role_does_everything_nothing_changes(settings: Settings) -> None:
    before = os.environ["DATABASE_URL"]
    assert as_role(settings.search_database_url) == settings
    assert os.environ["DATABASE_URL"] == before


@pytest.fixture
def replica(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningPostgres]:
    """A server that waits for changes of another for ever."""
    server = RunningPostgres(tmp_path_factory.mktemp("replica") / "data", version=18, durable=False)
    with server.start():
        pass
    (server.folder / "standby.signal").touch()
    if os.geteuid() == 0:
        shutil.chown(server.folder / "standby.signal", server.folder.stat().st_uid)
    with server.start():
        yield server


@pytest.mark.usefixtures("settings")
def test_a_search_worker_whose_searches_go_to_a_replica_lives_where_it_can_write(
    replica: RunningPostgres,
) -> None:
    mine = load_settings().database_url
    assert as_role(SecretStr(replica.url)).database_url == mine
    export({"DATABASE_URL": mine.get_secret_value()})


KINDS = {"ingest", "interactive", "search", "maintenance", "beat"}


def test_the_embedded_stack_has_roles_and_its_processes_use_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, forks: Forks
) -> None:
    for name in ("DATABASE_URL", "BROKER_URL"):
        monkeypatch.delenv(name, raising=False)
    data, log = tmp_path / "data", tmp_path / "up.log"
    monkeypatch.setenv("DATA_DIR", str(data))
    monkeypatch.setenv("FLOWER_PORT", free_port())
    monkeypatch.chdir(tmp_path)
    with log.open("wb") as output:
        up = subprocess.Popen(command("up"), stdout=output, stderr=output)

    def left() -> dict[str, str | None]:
        return dotenv_values(data / "stack.env")

    def kinds() -> set[str]:
        with single_connection_engine(SecretStr(str(left()["DATABASE_URL"]))).connect() as connection:
            return set(connection.execute(text("SELECT kind FROM heartbeats")).scalars())

    try:
        until(lambda: up.poll() is not None or "SEARCH_DATABASE_URL" in left(), 120)
        until(lambda: up.poll() is not None or kinds() == KINDS, 120)
        assert up.poll() is None, log.read_text()
        users = {name: str(url).partition("://")[2].partition("@")[0] for name, url in left().items()}
        assert users["DATABASE_URL"] == "ingest_ingest"
        assert users["SEARCH_DATABASE_URL"] == "ingest_search"
        assert users["MAINTENANCE_DATABASE_URL"] == "ingest_maintenance"
        assert users["DIRECT_DATABASE_URL"] == "ingest_owner"
        secrets = {
            secret for value in left().values() for secret in re.findall(r":([^:@/]{8,})(?:@|$)", str(value))
        }
        assert len(secrets) == 2, "of Redis and of Flower: the socket of PostgreSQL asks for none"
        titles = [title for process in family(up.pid) if (title := title_of(process))]
        assert len(titles) > len(KINDS)
        assert not [title for title in titles if any(secret in title for secret in secrets)]
        examined = forks.run(["doctor", "--json"], b"", tmp_path, os.environ)
        found = {finding["name"]: finding["state"] for finding in json.loads(examined.stdout)["findings"]}
        assert found["search role"] == found["search worker"] == "ok"
        for arguments in (["status"], ["roles"], ["maintain", "vacuum"], ["migrate"]):
            done = forks.run(arguments, b"", tmp_path, os.environ)
            assert done.returncode == Exit.OK, done.stderr
    finally:
        up.send_signal(signal.SIGINT)
        assert up.wait(timeout=30) == Exit.OK, log.read_text()


def family(pid: int) -> list[psutil.Process]:
    process = psutil.Process(pid)
    return [process, *process.children(recursive=True)]


def title_of(process: psutil.Process) -> str:
    """Give what everybody on the machine can read of a process; nothing of one that is gone."""
    try:
        return " ".join([process.name(), *process.cmdline()])
    except psutil.NoSuchProcess:
        return ""


def free_port() -> str:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])
