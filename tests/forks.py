"""Runs of `ingest`, each in a process of its own: forked from one that has loaded the libraries.

To load them takes most of the time of a short command, and the suite runs hundreds. Of ours, it has loaded
what reads no settings then.
"""

import os
import runpy
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from importlib import import_module
from multiprocessing.connection import Connection, Pipe
from pathlib import Path
from typing import Self

ROOT = Path(__file__).parents[1]
LIBRARIES = (
    "alembic", "celery.app.base", "charset_normalizer", "cronsim", "http.server", "kombu.transport.redis",
    "numpy.typing", "pgvector", "psutil", "psycopg2.extras", "pydantic_settings", "redis", "rich.live",
    "rich.table", "sqlalchemy.dialects.postgresql.psycopg2", "sqlite3", "Stemmer", "structlog", "tenacity",
    "typer", "worker.cli.commands", "worker.db.models", "worker.settings",
)  # fmt: skip
STREAMS = ("stdin", "stdout", "stderr")
TIMEOUT = 120  # seconds


class Forks:
    """The process that has them loaded, and what is asked of it."""

    def __enter__(self) -> Self:
        self._end, other = Pipe()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.forks", str(other.fileno())],
            cwd=ROOT,
            pass_fds=[other.fileno()],
            start_new_session=True,
        )
        other.close()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.close()
        self._process.wait(TIMEOUT)

    def run(
        self, arguments: Sequence[str], stdin: bytes, cwd: Path, env: Mapping[str, str]
    ) -> "subprocess.CompletedProcess[bytes]":
        """Run a command to its end."""
        with tempfile.TemporaryDirectory() as folder:
            streams = {name: Path(folder, name) for name in STREAMS}
            streams["stdin"].write_bytes(stdin)
            self._end.send((arguments, cwd, dict(env), streams))
            if not self._end.poll(TIMEOUT):
                os.killpg(self._process.pid, signal.SIGKILL)
                raise subprocess.TimeoutExpired(arguments, TIMEOUT)
            code = self._end.recv()
            return subprocess.CompletedProcess(
                arguments, code, streams["stdout"].read_bytes(), streams["stderr"].read_bytes()
            )


def serve(asked: Connection) -> None:
    """Fork for what is asked until nobody is there to ask. In the fork: run it, and end as a program does."""
    for library in LIBRARIES:
        import_module(library)
    while True:
        try:
            arguments, cwd, env, streams = asked.recv()
        except EOFError:
            return
        pid = os.fork()
        if pid == 0:
            asked.close()
            _become(cwd, env, streams)
            sys.argv = ["ingest", *arguments]
            runpy.run_module("worker.cli", run_name="__main__", alter_sys=True)
            return
        asked.send(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))


def _become(cwd: Path, env: Mapping[str, str], streams: Mapping[str, Path]) -> None:
    for number, name in enumerate(STREAMS):
        opened = os.open(streams[name], os.O_RDWR | os.O_CREAT)
        os.dup2(opened, number)
        os.close(opened)
    os.environ.clear()
    os.environ.update(env)
    os.chdir(cwd)
    sys.path[0] = str(cwd)


if __name__ == "__main__":
    serve(Connection(int(sys.argv[1])))
