"""The system under test: durable embedded servers in a temporary folder, migrated, and real workers."""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
from pydantic import SecretStr
from sqlalchemy import text
from sqlalchemy.exc import OperationalError
from tenacity import retry, retry_if_exception_type, stop_after_attempt

from benchmarks.report import scale
from benchmarks.rounds import SMOKE
from worker import broker
from worker.db.engine import single_connection_engine
from worker.db.logins import PREFIX, role_urls
from worker.db.migrate import migrate
from worker.db.roles import make_roles
from worker.dispatch import fill_window, republish
from worker.embedded import start_postgres, start_valkey
from worker.resources import close_resources, resources
from worker.settings import Settings, child_environment, load_settings

START_SECONDS = 60
STOP_SECONDS = 30
SETTLE_SECONDS, REPAIR_SECONDS = 300, 10
POLL_SECONDS = 0.05
# batches first: they are few, and while one is not finished, nobody needs to look at the documents
UNSETTLED = """SELECT EXISTS (SELECT 1 FROM batches WHERE finished_at IS NULL)
    OR EXISTS (SELECT 1 FROM documents WHERE status IN ('pending', 'processing') AND deleted_at IS NULL)"""
FRESH = "seen_at > now() - interval '1 minute'"
SHOWN = (
    "embedding_provider", "embedding_dimension", "embedding_type", "embedding_batch_size", "chunk_size",
    "chunk_overlap", "batch_documents", "batch_bytes", "write_buffer_bytes", "max_document_bytes",
    "ingest_concurrency", "rows_of_segment", "segment_bytes", "most_unsealed_rows", "hnsw_ef_search",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Stack:
    """Running servers, and a folder for everything a benchmark writes."""

    folder: Path
    settings: Settings

    def versions(self) -> dict[str, str]:
        """Ask the servers who they are."""
        client = broker.connect(self.settings)
        valkey: Any = client.info("server")
        client.close()
        return {
            "postgres": str(self.ask("SHOW server_version")).split(" ", maxsplit=1)[0],
            "pgvector": str(self.ask("SELECT extversion FROM pg_extension WHERE extname = 'vector'")),
            "valkey": str(valkey.get("valkey_version") or valkey["redis_version"]),
        }

    def shown_settings(self) -> dict[str, Any]:
        """Give the settings the figures depend on, and the server's memory for pages."""
        mine = {name.upper(): getattr(self.settings, name) for name in SHOWN}
        return mine | {"SHARED_BUFFERS": self.ask("SHOW shared_buffers")}

    def ask(self, statement: str) -> Any:
        """Run a statement outside any transaction; gives its first value, if any."""
        engine = single_connection_engine(self.settings.database_url, "benchmark")
        with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            found = connection.execute(text(statement))
            return found.scalar() if found.returns_rows else None

    # A worker that has settled the last one looks for more: PostgreSQL may end either in a deadlock.
    @retry(retry=retry_if_exception_type(OperationalError), stop=stop_after_attempt(3), reraise=True)
    def empty(self) -> None:
        """Begin a round on an empty database, with nothing left to be flushed."""
        self.ask("TRUNCATE tenants CASCADE")
        self.ask("CHECKPOINT")

    def settle(self) -> None:
        """Wait until nothing waits and nothing is processed. Cheap, so as not to be what is measured."""
        engine = single_connection_engine(self.settings.database_url, "benchmark")
        limit, repair = time.monotonic() + SETTLE_SECONDS, time.monotonic() + REPAIR_SECONDS
        with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            while True:
                asked = time.monotonic()
                if not connection.execute(text(UNSETTLED)).scalar():
                    return
                if asked > repair:  # what beat does in service, which does not run here
                    republish(resources())
                    fill_window(resources())  # a stopped worker handed back what nobody has dispatched since
                    repair = asked + REPAIR_SECONDS
                if asked > limit:
                    raise RuntimeError(f"documents were not settled within {SETTLE_SECONDS} s")
                time.sleep(max(POLL_SECONDS, 20 * (time.monotonic() - asked)))

    @contextmanager
    def workers(
        self, processes: int, *, kind: str = "ingest", recycle: bool = True
    ) -> Iterator[psutil.Process]:
        """Run a worker with so many pool processes; gives its parent process.

        As `ingest worker KIND` does, where one for searches has one process, and beat has none; without
        `recycle`, no pool process of an ingest worker is ever replaced by a new one.
        """
        log = self.folder / "worker.log"
        with log.open("ab") as out:
            process = subprocess.Popen(
                _command(kind, processes, recycle=recycle),
                stdout=out,
                stderr=subprocess.STDOUT,
                env=child_environment(INGEST_CONCURRENCY=str(max(processes, 1)), LOG_LEVEL="WARNING"),
            )
        try:
            self._wait_for(process, kind, processes, log)
            yield psutil.Process(process.pid)
        finally:
            _stop(process)

    def _wait_for(self, process: "subprocess.Popen[bytes]", kind: str, slots: int, log: Path) -> None:
        limit = time.monotonic() + START_SECONDS
        while time.monotonic() < limit and process.poll() is None:
            if self.ask(f"SELECT sum(slots) = {slots} FROM heartbeats WHERE kind = '{kind}' AND {FRESH}"):
                return
            time.sleep(0.2)
        raise RuntimeError(f"the worker did not start:\n{log.read_text()[-3000:]}")


def with_search_role(settings: Settings) -> Settings:
    """Give settings whose searches go by the search role, which is made."""
    return settings.model_copy(update={"search_database_url": SecretStr(search_url(settings))})


def search_url(settings: Settings) -> str:
    """Make the roles of a database; gives where the search role finds it."""
    make_roles(settings)
    return role_urls(settings, PREFIX, {})["SEARCH_DATABASE_URL"].render_as_string(hide_password=False)


def _command(kind: str, processes: int, *, recycle: bool) -> Sequence[str]:
    if recycle:
        command = [kind] if kind == "beat" else ["worker", kind]
        return [sys.executable, "-m", "worker.cli", *command]
    plain = [sys.executable, "-m", "celery", "-A", "worker.app", "worker", "-Q", "interactive,ingest"]
    return [*plain, "-c", str(processes), "-l", "WARNING", "--max-tasks-per-child", "1000000"]


def _stop(process: "subprocess.Popen[bytes]") -> None:
    family = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
    process.terminate()
    try:
        process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    for child in psutil.wait_procs(family, timeout=5)[1]:
        child.kill()


def _set_buffers(folder: Path, size: int) -> None:
    """Have the server that is started next on a folder use so much."""
    with start_postgres(folder, version=18) as postgres:
        engine = single_connection_engine(SecretStr(postgres.url), "benchmark")
        with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.execute(text(f"ALTER SYSTEM SET shared_buffers = '{size >> 20}MB'"))


@contextmanager
def running_stack(buffers: int | None = None, /, **settings: str) -> Iterator[Stack]:
    """Start the servers and migrate; this process and its children use them by the environment.

    `buffers`: bytes of PostgreSQL's shared_buffers, where not what the stack gives them. At the scale of a
    smoke test PostgreSQL does not wait for the disk.
    Nothing is sealed unless the benchmark does: no bound on what waits for it keeps writers back.
    """
    with tempfile.TemporaryDirectory(prefix="ingest-benchmark-") as name:
        folder = Path(name).resolve()
        if buffers is not None:
            _set_buffers(folder / "postgres", buffers)
        with (
            start_postgres(folder / "postgres", version=18, durable=scale() >= SMOKE) as postgres,
            start_valkey(folder / "valkey") as valkey,
        ):
            os.environ |= {
                "DATABASE_URL": postgres.url,
                "BROKER_URL": valkey.url,
                "ALLOWED_ROOTS": "/",
                "DATA_DIR": str(folder / "data"),
                "MAX_UNSEALED_ROWS": "100000000",
                **settings,
            }
            load_settings.cache_clear()
            migrate(load_settings())
            try:
                yield Stack(folder, load_settings())
            finally:
                close_resources()
