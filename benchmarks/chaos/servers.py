"""PostgreSQL and Valkey, a proxy before each, and the settings of those who go through the proxies."""

import asyncio
import os
import shutil
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self
from urllib.parse import unquote

import psycopg2
import redis
from pydantic import SecretStr
from tenacity import Retrying, retry_if_exception_type, stop_after_delay, wait_fixed

from benchmarks.chaos.proxy import Proxy
from worker.db.engine import driver_url
from worker.db.logins import PREFIX, role_urls
from worker.db.migrate import migrate
from worker.db.roles import make_roles
from worker.embedded import RunningPostgres, RunningValkey
from worker.settings import load_settings

# What takes minutes in production, in seconds; few rows a segment, so that chores have work.
HASTE = {
    "HEARTBEAT_SECONDS": "1",
    "LEASE_SECONDS": "4",
    "RETRY_BASE_SECONDS": "1",
    "RETRY_MAX_SECONDS": "4",
    "REPUBLISH_SECONDS": "2",
    "TASK_SOFT_TIME_LIMIT": "20",
    "TASK_TIME_LIMIT": "30",
    "VISIBILITY_TIMEOUT": "60",
    "MAX_ATTEMPTS": "20",
    "SEARCH_TIMEOUT_SECONDS": "5",
    "BATCH_DOCUMENTS": "32",
    "EMBEDDING_BATCH_SIZE": "16",
    "SEGMENT_ROWS": "4000",
    "MAX_UNSEALED_ROWS": "20000",
    "DISPATCH_SCHEDULE": "1",
    "RESCUE_SCHEDULE": "2",
    "SEAL_SCHEDULE": "4",
    "COMPACT_SCHEDULE": "20",
    "SPARES_SCHEDULE": "10",
    "INDEXES_SCHEDULE": "15",
    "VACUUM_SCHEDULE": "30",
    "REINDEX_SCHEDULE": "45",
    "PURGE_SCHEDULE": "30",
    "RECONCILE_SCHEDULE": "30",
    "SCHEDULE_JITTER": "0",
    "INGEST_CONCURRENCY": "2",
    "LOG_LEVEL": "WARNING",
    "ALLOWED_ROOTS": "/",
}


class Servers:
    """Both servers, each to be killed and started again, and a way to ask each of them past its proxy.

    They are started by the main thread only: a server dies with the thread that started it.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.postgres = RunningPostgres(folder / "postgres", version=18)
        self.valkey = RunningValkey(folder / "valkey")
        self._direct: Any = None

    def __enter__(self) -> Self:
        self.postgres.start()
        self.valkey.start()
        socket = Path(unquote(self.postgres.url.partition("host=")[2].partition("&")[0])) / ".s.PGSQL.5432"
        self.postgres_proxy = Proxy(lambda: asyncio.open_unix_connection(str(socket)))
        self.valkey_proxy = Proxy(lambda: asyncio.open_connection("127.0.0.1", self.valkey.port))
        return self

    def __exit__(self, *_: object) -> None:
        self.valkey.stop()
        self.postgres.stop()

    def use(self, database: str, data: Path) -> None:
        """Have this process use a database, which is made and migrated, and both servers directly."""
        connection = connected(SecretStr(self.postgres.url))
        connection.cursor().execute(f"CREATE DATABASE {database}")
        connection.close()
        os.environ |= {
            **HASTE,
            "DATABASE_URL": self.postgres.url.replace("/ingest?", f"/{database}?"),
            "BROKER_URL": self.valkey.url,
            "DATA_DIR": str(data),
        }
        load_settings.cache_clear()
        self._direct = None
        migrate(load_settings())

    def proxied(self) -> dict[str, str]:
        """Make the roles of the database that is used; gives the settings of who comes as them, by proxy."""
        settings = load_settings()
        make_roles(settings)
        urls = role_urls(settings, PREFIX, {})
        mine = ("DATABASE_URL", "SEARCH_DATABASE_URL", "MAINTENANCE_DATABASE_URL")
        port = self.postgres_proxy.port
        ways = {name: urls[name].set(host="127.0.0.1", port=port, query={}) for name in mine}
        broker = self.valkey.url.replace(f":{self.valkey.port}/", f":{self.valkey_proxy.port}/")
        shown = {name: url.render_as_string(hide_password=False) for name, url in ways.items()}
        return {**shown, "BROKER_URL": broker}

    def ask(self, statement: str, *parameters: Any) -> list[tuple[Any, ...]]:
        """Ask PostgreSQL as its owner, outside any transaction; while it is away, again."""
        lost = retry_if_exception_type(psycopg2.Error)
        asking = Retrying(retry=lost, stop=stop_after_delay(60), wait=wait_fixed(0.1), reraise=True)
        found: list[tuple[Any, ...]] = asking(self._ask, statement, parameters)
        return found

    def _ask(self, statement: str, parameters: Sequence[Any]) -> list[tuple[Any, ...]]:
        try:
            self._direct = self._direct or connected(load_settings().database_url)
            with self._direct.cursor() as cursor:
                cursor.execute(statement, parameters or None)
                return cursor.fetchall() if cursor.description else []
        except psycopg2.Error:
            self._direct = None
            raise

    def count(self, statement: str, *parameters: Any) -> int:
        """Ask for a number."""
        return int(self.ask(statement, *parameters)[0][0] or 0)

    def versions(self) -> dict[str, str]:
        """Ask the servers who they are."""
        [[postgres, pgvector]] = self.ask(
            "SELECT current_setting('server_version'), extversion FROM pg_extension WHERE extname = 'vector'"
        )
        valkey: Any = self.redis().info("server")
        return {"postgres": postgres.split()[0], "pgvector": pgvector, "valkey": valkey["valkey_version"]}

    def redis(self) -> "redis.Redis":
        """Give a client past the proxy."""
        return redis.Redis.from_url(self.valkey.url, socket_timeout=10)

    def restart_postgres(self) -> None:
        """Kill the postmaster, and start it again at once."""
        os.kill(self.postgres.pid, signal.SIGKILL)
        self.postgres.start()

    def restart_valkey(self, *, lose: bool) -> None:
        """Kill the server, and start it again at once; with what it had written thrown away, or not."""
        os.kill(self.valkey.pid, signal.SIGKILL)
        if lose:
            shutil.rmtree(self.valkey.folder)
        self.valkey.start()


def connected(url: SecretStr) -> Any:
    """Open a connection in autocommit."""
    where = driver_url(url).set(drivername="postgresql").render_as_string(hide_password=False)
    connection = psycopg2.connect(where, application_name="chaos")
    connection.autocommit = True
    return connection
