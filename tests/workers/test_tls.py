"""PostgreSQL and Redis behind TLS, and a user of Redis that may do what the processes need and no more."""

import os
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import redis
import trustme
from pydantic import SecretStr

from tests.conftest import Run
from tests.tls import proxied
from tests.workers.conftest import StartWorker
from worker.broker import require_broker
from worker.db.engine import reach
from worker.db.schema import is_replica
from worker.embedded import RunningPostgres, RunningValkey
from worker.errors import BrokerUnavailableError, DatabaseUnavailableError, Exit
from worker.settings import Settings, read_settings

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


def test_documents_and_searches_go_through_tls_as_a_user_that_may_little(
    secured: Secured,
    settings: Settings,
    limited: Any,
    start: StartWorker,
    monkeypatch: pytest.MonkeyPatch,
    ingest: Run,
    tmp_path: Path,
) -> None:
    monkeypatch.setenv("DATABASE_URL", secured.database(settings))
    monkeypatch.setenv("BROKER_URL", secured.broker("ingest:hush"))
    with ThreadPoolExecutor() as both:
        list(both.map(start, ("ingest", "search")))
    (tmp_path / "a.txt").write_text("Ships sail by TLS.")
    assert ingest("add", "a.txt", "--wait", "--timeout", "30").returncode == Exit.OK, limited.acl_log()
    assert b"a.txt" in ingest("search", "what sails?").stdout
    assert limited.acl_log() == []
    mine: Any = redis.Redis.from_url(os.environ["BROKER_URL"])
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
