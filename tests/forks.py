"""Processes of `ingest`, each forked from one that has loaded the libraries, and what of ours can be.

To load them takes most of the time of a short command, and the suite runs a thousand.
"""

import gc
import os
import pkgutil
import runpy
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from multiprocessing.connection import Connection, Pipe
from pathlib import Path
from typing import Any, Self

import worker

ROOT = Path(__file__).parents[1]
# What ours load where they need it. The rest comes with them.
LIBRARIES = (
    "alembic.command", "celery.apps.beat", "celery.apps.worker", "celery.backends.redis",
    "celery.concurrency.prefork", "celery.worker.consumer", "celery.worker.strategy", "charset_normalizer",
    "http.server", "kombu.transport.redis", "numpy.typing", "rich.live", "rich.progress", "rich.table",
    "safetensors", "semantic_text_splitter", "sqlalchemy.dialects.postgresql.psycopg2", "sqlite3",
    "tokenizers",
)  # fmt: skip
# The first reads the settings; of another, a worker and its children share a byte.
OWN = ("worker.app", "worker.tasks", "worker.lifecycle")
STREAMS = ("stdin", "stdout", "stderr")
TIMEOUT = 120  # seconds
LONGEST_LOOK = 0.02

Ask = Callable[..., Any]


class Fork:
    """A process, to be asked after and signalled as a `subprocess.Popen` is. It has a session of its own."""

    returncode: int | None = None

    def __init__(self, pid: int, ask: Ask) -> None:
        self.pid, self._ask, self._turn = pid, ask, threading.Lock()

    def poll(self) -> int | None:
        """Give how it ended, None while it runs."""
        with self._turn:  # how it ended is told once
            if self.returncode is None:
                self.returncode = self._ask("ended", self.pid)
        return self.returncode

    def wait(self, timeout: float = TIMEOUT) -> int:
        """Wait until it has ended; give how."""
        limit, pause = time.monotonic() + timeout, 0.001
        while (code := self.poll()) is None:
            if time.monotonic() > limit:
                raise subprocess.TimeoutExpired(f"process {self.pid}", timeout)
            time.sleep(pause)
            pause = min(2 * pause, LONGEST_LOOK)
        return code

    def send_signal(self, number: int) -> None:
        """Signal it, unless it has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        """Ask it to end."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """End it."""
        self.send_signal(signal.SIGKILL)


class Forks:
    """The process that has them loaded, and what is asked of it, by one thread at a time; it never waits."""

    def __enter__(self) -> Self:
        self._turn = threading.Lock()
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

    def start(
        self,
        arguments: Sequence[str],
        cwd: Path,
        env: Mapping[str, str],
        streams: Mapping[str, Path],
        module: str = "worker.cli",
    ) -> Fork:
        """Start a command; it appends to its streams."""
        return Fork(self._ask("start", module, arguments, cwd, dict(env), streams), self._ask)

    def run(
        self,
        arguments: Sequence[str],
        stdin: bytes,
        cwd: Path,
        env: Mapping[str, str],
        *,
        module: str = "worker.cli",
        timeout: float = TIMEOUT,
    ) -> "subprocess.CompletedProcess[bytes]":
        """Run a command to its end."""
        with tempfile.TemporaryDirectory() as folder:
            streams = {name: Path(folder, name) for name in STREAMS}
            streams["stdin"].write_bytes(stdin)
            process = self.start(arguments, cwd, env, streams, module)
            try:
                code = process.wait(timeout)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
                raise subprocess.TimeoutExpired(arguments, timeout) from None
            return subprocess.CompletedProcess(
                arguments, code, streams["stdout"].read_bytes(), streams["stderr"].read_bytes()
            )

    def _ask(self, *request: Any) -> Any:
        with self._turn:
            self._end.send(request)
            if not self._end.poll(TIMEOUT):
                raise TimeoutError
            return self._end.recv()


def serve(asked: Connection) -> None:
    """Fork for what is asked until nobody is there to ask. In the fork: run it, and end as a program does."""
    _load()
    while True:
        try:
            request, *what = asked.recv()
        except EOFError:
            return
        if request == "ended":
            asked.send(_ended(*what))
            continue
        begun, begins = os.pipe()
        pid = os.fork()
        if pid == 0:
            asked.close()
            os.close(begun)
            _become(begins, *what)
            return
        os.close(begins)
        os.read(begun, 1)  # closed by the fork: it has its session and its streams now
        os.close(begun)
        asked.send(pid)


def _load() -> None:
    for library in LIBRARIES:
        import_module(library)
    for module in pkgutil.walk_packages(worker.__path__, "worker."):
        if module.name not in OWN and not module.name.endswith("__main__"):
            import_module(module.name)
    # Else a fork copies all of it as it ends: its last collection writes to every object.
    gc.collect()
    gc.freeze()


def _ended(pid: int) -> int | None:
    ended, status = os.waitpid(pid, os.WNOHANG)
    return os.waitstatus_to_exitcode(status) if ended else None


def _become(
    begins: int,
    module: str,
    arguments: Sequence[str],
    cwd: Path,
    env: Mapping[str, str],
    streams: Mapping[str, Path],
) -> None:
    os.setsid()
    for number, name in enumerate(STREAMS):
        opened = os.open(streams.get(name, os.devnull), os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
        os.dup2(opened, number)
        os.close(opened)
    os.environ.clear()
    os.environ.update(env)
    os.chdir(cwd)
    sys.path[0] = str(cwd)
    os.close(begins)
    sys.argv = ["ingest", *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    serve(Connection(int(sys.argv[1])))
