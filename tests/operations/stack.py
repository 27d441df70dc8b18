"""A stack that incidents are played on: servers and processes of its own, each killed and started alone."""

import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import psutil
import psycopg2
from tenacity import Retrying, retry_if_exception_type, stop_after_delay, wait_fixed

from tests.forks import Fork, Forks
from worker.embedded import RunningPostgres, RunningValkey
from worker.embedded.postgres import _binaries
from worker.errors import Exit

# What takes minutes in production, in seconds; few documents a batch, few rows a segment.
HASTE = {
    "HEARTBEAT_SECONDS": "1",
    "LEASE_SECONDS": "3",
    "RETRY_BASE_SECONDS": "1",
    "REPUBLISH_SECONDS": "1",
    "DISPATCH_SCHEDULE": "1",
    "RESCUE_SCHEDULE": "2",
    "SEAL_SCHEDULE": "20",
    "MAX_ATTEMPTS": "2",
    "BATCH_DOCUMENTS": "5",
    "SEGMENT_ROWS": "40",
    "MAX_UNSEALED_ROWS": "10000",
    "FLOWER_BASIC_AUTH": "operator:what nobody guesses",
}
DATABASE_PASSWORD = "of-the-database-9f2c"  # the servers here ask for none
PLAIN = re.compile(r"ingest [\w \"'./:@=-]*")  # a command that a shell takes as it stands
ALIVE = "SELECT count(*) FROM heartbeats WHERE kind = %s AND seen_at > now() - interval '4 s'"


def until(condition: Callable[[], Any], seconds: float = 90) -> Any:
    """Wait until a condition holds; give what it gave."""
    passing = retry_if_exception_type((AssertionError, psycopg2.OperationalError))
    for attempt in Retrying(
        retry=passing, stop=stop_after_delay(seconds), wait=wait_fixed(0.1), reraise=True
    ):
        with attempt:
            found = condition()
            assert found, "the condition did not come true"
    return found


class Stack:
    """Servers, the processes of `ingest …` by kind, and a shell that has their settings.

    The database's URL names a standby, too, which a test may make. `disk` is the small one that the database
    is on, None where this user may mount none.
    """

    def __init__(
        self,
        folder: Path,
        postgres: RunningPostgres,
        valkey: RunningValkey,
        disk: Path | None,
        forks: Forks,
    ) -> None:
        self._forks = forks
        self.folder, self.postgres, self.valkey, self.disk = folder, postgres, valkey, disk
        self.standby = RunningPostgres(folder / "standby", version=postgres.version, durable=False)
        hosts = ",".join(unquote(_socket_folder_of(server)) for server in (postgres, self.standby))
        both = f"host={hosts}&port=5432,5432&target_session_attrs=read-write"
        self.processes: dict[str, Fork] = {}
        programs = [str(Path(sys.executable).parent), str(_binaries(postgres.version)), os.environ["PATH"]]
        self.environment = {
            **os.environ,
            **HASTE,
            "PATH": os.pathsep.join(programs),
            "PGCONNECT_TIMEOUT": "5",
            "DATABASE_URL": f"postgresql://postgres:{DATABASE_PASSWORD}@/ingest?{both}",
            "STANDBY_URL": self.standby.url,
            "BROKER_URL": valkey.url,
            "DATA_DIR": str(folder / "data"),
            "ALLOWED_ROOTS": str(folder),
            "FLOWER_PORT": str(_free_port()),
        }

    def start(self, *kinds: str, **settings: str) -> None:
        """Start processes, as `ingest worker KIND`, `ingest beat` or `ingest flower`."""
        for kind in kinds:
            command = [kind] if kind in {"beat", "flower"} else ["worker", kind.partition("-")[0]]
            log = self.folder / f"{kind}.log"
            streams = {"stdout": log, "stderr": log}
            environment = {**self.environment, **settings}
            self.processes[kind] = self._forks.start(command, self.folder, environment, streams)

    def whole(self, *kinds: str) -> None:
        """Have these kinds of processes run, and no other; each has said that it lives."""
        for kind in [kind for kind in self.processes if kind not in kinds]:
            self.kill(kind)
        self.start(*(kind for kind in kinds if kind not in self.processes))
        for kind in kinds:
            if kind != "flower":
                until(partial(self.lives, kind.partition("-")[0]))

    def lives(self, kind: str, count: int = 1) -> bool:
        """Tell whether so many processes of a kind have said lately that they live."""
        return bool(self.ask(ALIVE, kind)[0][0] >= count)

    def kill(self, kind: str) -> None:
        """Kill a process with all that it forked, as the kernel does."""
        process = self.processes.pop(kind)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()

    def stop(self, kind: str) -> None:
        """Stop a process as a supervisor does."""
        process = self.processes.pop(kind)
        process.terminate()
        assert process.wait(timeout=60) == Exit.OK, self.log(kind)

    def pool(self, kind: str) -> list[psutil.Process]:
        """Give the processes that do a worker's tasks."""
        return psutil.Process(self.processes[kind].pid).children()

    def log(self, kind: str) -> str:
        """Give what a process has said."""
        return (self.folder / f"{kind}.log").read_text(errors="replace")

    def ask(self, statement: str, *parameters: Any) -> list[tuple[Any, ...]]:
        """Ask the database, in a transaction of its own."""
        connection = psycopg2.connect(self.environment["DATABASE_URL"])
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute(statement, parameters or None)
            found = cursor.fetchall() if cursor.description else []
        connection.close()
        return found

    def counts(self, tenant: str) -> dict[str, int]:
        """Count a tenant's live documents by status."""
        return dict(
            self.ask(
                """
                SELECT status, count(*) FROM documents JOIN tenants USING (tenant_id)
                WHERE name = %s AND documents.deleted_at IS NULL GROUP BY status""",
                tenant,
            )
        )

    def shell(self, line: str, **settings: str) -> str:
        """Run a line as a person would; give what it says on both streams. How it ends is not asked."""
        environment = {**self.environment, **settings}
        said = self._ingest(line, environment) if PLAIN.fullmatch(line) else self._bash(line, environment)
        assert "Traceback" not in said, said
        return said

    def _ingest(self, line: str, environment: dict[str, str]) -> str:
        with tempfile.TemporaryDirectory() as folder:
            both = Path(folder, "said")
            streams = {"stdout": both, "stderr": both}
            self._forks.start(shlex.split(line)[1:], self.folder, environment, streams).wait()
            return both.read_text(errors="replace")

    def _bash(self, line: str, environment: dict[str, str]) -> str:
        done = subprocess.run(
            ["bash", "-c", line],
            env=environment,
            cwd=self.folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=120,
            check=False,
        )
        return done.stdout.decode(errors="replace")

    def files(self, folder: str, count: int, words: str = "sails to harbour", first: int = 0) -> None:
        """Make files in a folder of the stack's, none of them like another."""
        place = self.folder / folder
        place.mkdir(exist_ok=True)
        for number in range(first, first + count):
            (place / f"{number}.txt").write_text(f"Ship {number} of {folder} {words}.\n")

    def write(self, tenant: str, count: int, words: str = "sails to harbour", first: int = 0) -> None:
        """Make files in the folder of a tenant, and submit them."""
        self.files(tenant, count, words, first)
        said = self.shell(f"ingest add {tenant} --tenant {tenant}")
        assert f"{count} new" in said, said

    def close(self) -> None:
        """End whatever still runs."""
        for kind in list(self.processes):
            self.kill(kind)
        self.standby.stop()


def _socket_folder_of(server: RunningPostgres) -> str:
    return server.url.partition("host=")[2].partition("&")[0]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
