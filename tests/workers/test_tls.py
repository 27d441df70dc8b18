"""PostgreSQL and Redis behind TLS, and a user of Redis that may do what the processes need and no more."""

import json
import os
import re
from base64 import b64encode
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple
from urllib.request import Request, urlopen

import pytest
import redis
import trustme
from pydantic import SecretStr
from sqlalchemy import Connection, text

from tests.conftest import Run, free_port
from tests.forks import Forks
from tests.integration import exporting
from tests.tls import proxied
from tests.workers.conftest import StartWorker, Until
from worker.broker import require_broker
from worker.cli.watching import Watcher
from worker.db.engine import reach
from worker.db.grants import Role
from worker.db.logins import role_names, role_urls
from worker.db.roles import make_roles
from worker.db.schema import is_replica
from worker.embedded import RunningPostgres, RunningValkey
from worker.errors import BrokerUnavailableError, DatabaseUnavailableError, Exit
from worker.settings import Settings, read_settings
from worker.types import Queue

PREFIX = "tls_"
LOGINS = """
    SELECT usename FROM pg_stat_activity
    WHERE datname = current_database() AND pid <> pg_backend_pid() AND application_name LIKE 'ingest%'"""
KINDS = ("ingest", "interactive", "search", "maintenance", "beat")
FLOWER = {"FLOWER_PORT": str(free_port()), "FLOWER_BASIC_AUTH": "operator:what nobody guesses"}
PAGE = Path(__file__).parents[2] / "docs/operations/tls.md"


class Secured(NamedTuple):
    """Servers behind TLS: their ports, and files with the certificate that is right and one that is not."""

    postgres: int
    redis: int
    right: Path
    wrong: Path

    def database(self, settings: Settings, host: str = "localhost", root: Path | None = None) -> str:
        name = settings.database_url.get_secret_value().partition("?")[0].rpartition("/")[2]
        options = f"sslmode=verify-full&sslrootcert={root or self.right}"
        return f"postgresql://postgres@{host}:{self.postgres}/{name}?{options}"

    def broker(self, login: str, host: str = "localhost", root: Path | None = None) -> str:
        options = f"ssl_cert_reqs=required&ssl_ca_certs={root or self.right}"
        return f"rediss://{login}@{host}:{self.redis}/0?{options}"


@pytest.fixture(scope="module")
def secured(
    postgres: RunningPostgres, valkey: RunningValkey, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Secured]:
    folder = tmp_path_factory.mktemp("certificates")
    right, wrong = trustme.CA(), trustme.CA()
    right.cert_pem.write_to_path(str(folder / "right.pem"))
    wrong.cert_pem.write_to_path(str(folder / "wrong.pem"))
    certificate = right.issue_cert("localhost")
    with ExitStack() as exits:
        database, broker = (
            exits.enter_context(proxied(certificate, server.url)) for server in (postgres, valkey)
        )
        yield Secured(database, broker, folder / "right.pem", folder / "wrong.pem")


@pytest.fixture
def limited(valkey: RunningValkey) -> Iterator[Any]:
    """The server, by a login that may all, with the user that the page says."""
    client: Any = redis.Redis.from_url(valkey.url)
    for line in re.findall(r"^ACL SETUSER ingest .+$", PAGE.read_text(), re.MULTILINE):
        client.execute_command(*(">hush" if word == ">PASSWORD" else word for word in line.split()))
    client.acl_log_reset()
    yield client
    client.execute_command("ACL", "DELUSER", "ingest")
    client.close()


@pytest.mark.parametrize("fault", ["authority", "name"])
def test_certificate_that_is_not_accepted_is_said_in_a_line(
    fault: str, secured: Secured, settings: Settings, valkey: RunningValkey
) -> None:
    wrong = {"root": secured.wrong} if fault == "authority" else {"host": "127.0.0.1"}
    login = f":{valkey.password}"
    assert reach(SecretStr(secured.database(settings)), is_replica) is False
    require_broker(read_settings(broker_url=secured.broker(login)))
    with pytest.raises(DatabaseUnavailableError) as database:
        reach(SecretStr(secured.database(settings, **wrong)), is_replica)
    with pytest.raises(BrokerUnavailableError) as broker:
        require_broker(read_settings(broker_url=secured.broker(login, **wrong)))
    with pytest.raises(BrokerUnavailableError, match="certificate"):
        require_broker(
            read_settings(broker_url=secured.broker(login, **wrong).replace("required", "optional"))
        )
    for caught, option in ((database, "sslrootcert"), (broker, "ssl_ca_certs")):
        said = str(caught.value)
        assert "certificate" in said
        assert option in caught.value.hint
        assert "\n" not in said
        assert valkey.password not in said


@pytest.fixture
def in_roles(secured: Secured, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """Settings of which every URL goes through TLS, each as the login that may least."""
    monkeypatch.setenv("DATABASE_URL", secured.database(settings))
    monkeypatch.setenv("BROKER_URL", secured.broker("ingest:hush"))
    way = read_settings()
    make_roles(way, PREFIX)
    for name, url in role_urls(way, PREFIX, {}).items():
        monkeypatch.setenv(name, str(url))
    for name, value in FLOWER.items():
        monkeypatch.setenv(name, value)
    return read_settings()


@contextmanager
def flower(forks: Forks, folder: Path) -> Iterator[None]:
    """Run Flower for a while."""
    process = forks.start(["flower"], folder, os.environ, {"stderr": folder / "flower.log"})
    try:
        yield
    finally:
        process.kill()
        process.wait()


def column(connection: Connection, query: str) -> set[Any]:
    return set(connection.execute(text(query)).scalars())


def queues_shown() -> set[str]:
    """The queues that Flower's page of the broker has a line for."""
    asked = Request(f"http://127.0.0.1:{FLOWER['FLOWER_PORT']}/broker")
    asked.add_header("Authorization", f"Basic {b64encode(FLOWER['FLOWER_BASIC_AUTH'].encode()).decode()}")
    with urlopen(asked, timeout=30) as answer:
        return set(re.findall(r'<tr id="(.*?)"', answer.read().decode()))


def test_all_processes_go_through_tls_as_users_that_may_little(
    in_roles: Settings,
    limited: Any,
    start: StartWorker,
    until: Until,
    forks: Forks,
    ingest: Run,
    connection: Connection,
    tmp_path: Path,
) -> None:
    with flower(forks, tmp_path), exporting.running(forks, tmp_path) as exporter:
        with ThreadPoolExecutor() as together:
            list(together.map(start, KINDS))
        (tmp_path / "a.txt").write_text("Ships sail by TLS.")
        (tmp_path / "b.txt").write_text("Somebody waits for this.")
        for arguments in (["a.txt"], ["b.txt", "--interactive"]):
            added = ingest("add", *arguments, "--wait", "--timeout", "30")
            assert added.returncode == Exit.OK, (added.stderr, limited.acl_log())
        assert b"a.txt" in ingest("search", "what sails?").stdout
        until(lambda: column(connection, "SELECT chore FROM maintenance_runs") >= {"dispatch", "rescue"})
        assert column(connection, "SELECT kind FROM heartbeats") == set(KINDS)
        samples = exporting.scrape(exporter)
        assert samples["ingest_documents"]["status=completed"] == 2
        assert exporting.checks(exporter, "ready")[0] == 200
        until(lambda: queues_shown() == set(Queue))
        assert Watcher(in_roles, 1).look().trouble == ()
        examined = json.loads(ingest("doctor", "--json").stdout)["findings"]
        # the servers of the suite keep nothing
        assert {finding["name"] for finding in examined if finding["state"] != "ok"} == {"broker persistence"}
        names = role_names(PREFIX)
        assert column(connection, LOGINS) == {names[role] for role in Role} - {names[Role.OWNER]}
    assert limited.acl_log() == []


def test_user_of_redis_may_little(in_roles: Settings, limited: Any) -> None:
    mine: Any = redis.Redis.from_url(in_roles.broker_url.get_secret_value())
    for forbidden in (
        ["FLUSHALL"],
        ["KEYS", "*"],
        ["CONFIG", "GET", "*"],
        ["GET", "somebody else's"],
        ["ACL", "LIST"],
    ):
        with pytest.raises(redis.exceptions.NoPermissionError):
            mine.execute_command(*forbidden)
    mine.close()
