"""The whole system on one machine: servers, settings file, processes; started together, stopped in order.

running_stack:  lock the data folder → PostgreSQL → Valkey → stack.env → [caller] → processes
at its end, whatever ended it, the same in reverse.
"""

import os
import secrets
import signal
import socket
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import FrameType
from typing import Literal

from pydantic import SecretStr

from worker.embedded import RunningPostgres, RunningValkey
from worker.embedded.process import STOPPING_SIGNALS, FolderLock, explained
from worker.envfile import write_private
from worker.errors import StackError
from worker.settings import STACK_ENV, configured, read_settings
from worker.stack.background import Background
from worker.stack.processes import find_procfile

__all__ = ["Stack", "running_stack"]


class Stack:
    """A running stack: `settings_env` is what a process needs in its environment to use it."""

    def __init__(
        self,
        data_dir: Path,
        settings_env: dict[str, str],
        processes: Background,
        servers: Sequence[RunningPostgres | RunningValkey],
    ) -> None:
        self.data_dir = data_dir
        self.settings_env = settings_env
        self._processes = processes
        self._servers = servers

    @property
    def log(self) -> Path:
        """Where processes in the background write."""
        return self._processes.log

    def start_background(self) -> None:
        """Start the Procfile's processes; return when each of them was started.

        Raises StackError with the last lines of one that died at once. `check` finds later deaths.
        """
        self._processes.start(self.settings_env)

    def connect_as(self, urls: Mapping[str, str]) -> None:
        """Have processes, and other commands, use these database URLs. Call it before processes start."""
        self.settings_env |= urls
        left = {name: value for name, value in self.settings_env.items() if name != "DATA_DIR"}
        with explained(self.data_dir):
            write_private(self.data_dir / STACK_ENV, left)

    def check(self) -> None:
        """Raise StackError when a server or a process has died. Cheap: call it while waiting."""
        self._check_servers()
        self._processes.check()

    def run_foreground(self) -> int:
        """Run the Procfile's processes with their log on our output until Ctrl-C; give the exit code.

        Raises StackError when one of them, or a server, ends by itself: the others are stopped then.
        """
        return self._processes.run(self.settings_env, self._check_servers)

    def _check_servers(self) -> None:
        for server in self._servers:
            if not server.alive:
                raise StackError(
                    f"the server {server.folder.name} died", f"read {server.log}, then start again"
                )


@contextmanager
def running_stack(
    data_dir: Path,
    *,
    postgres_version: Literal[16, 18] = 18,
    database_url: SecretStr | None = None,
    broker_url: SecretStr | None = None,
    allowed_roots: Sequence[Path] = (),
    flower_port: int | None = None,
    metrics_port: int | None = None,
    procfile: Path | None = None,
) -> Iterator[Stack]:
    """Run what is missing: a server for each URL that is not given. Everything is stopped at the end.

    Ctrl-C, SIGTERM and a closed terminal raise KeyboardInterrupt in the block, once; later ones wait.
    Call it in the main thread.
    """
    data_dir = data_dir.expanduser().resolve()
    with ExitStack() as exits:
        interrupts = exits.enter_context(_interruptible())
        try:
            _own(data_dir, exits)
            processes = Background(data_dir, procfile or find_procfile())
            processes.stop_leftover()
            _refuse_taken(flower_port or _configured("flower_port"), "Flower", "FLOWER_PORT")
            _refuse_taken(metrics_port or _configured("metrics_port"), "metrics", "METRICS_PORT")
            servers = _servers(data_dir, postgres_version, database_url, broker_url)
            urls = {name: _start(server, exits) for name, server in servers.items()}
            given = {"DATABASE_URL": database_url, "BROKER_URL": broker_url}
            urls |= {name: url.get_secret_value() for name, url in given.items() if url}
            env = urls | _settings(allowed_roots)
            _leave_settings(data_dir / STACK_ENV, env, exits)
            exits.callback(processes.stop)
            yield Stack(data_dir, {**env, "DATA_DIR": str(data_dir)}, processes, list(servers.values()))
        finally:
            interrupts.clear()


@contextmanager
def _interruptible() -> Iterator[threading.Event]:
    """Make a stopping signal a KeyboardInterrupt while the event is set.

    Once: the second Ctrl-C of an impatient user must not cut the cleaning up.
    """
    listening = threading.Event()
    listening.set()

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        if listening.is_set():
            listening.clear()
            raise KeyboardInterrupt

    # what `nohup` has us ignore stays ignored
    ours = [n for n in STOPPING_SIGNALS if n != signal.SIGHUP or signal.getsignal(n) is not signal.SIG_IGN]
    previous = {number: signal.signal(number, interrupt) for number in ours}
    try:
        yield listening
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _own(data_dir: Path, exits: ExitStack) -> None:
    with explained(data_dir):
        data_dir.mkdir(parents=True, exist_ok=True)
        lock = FolderLock(data_dir / ".lock", data_dir)
        exits.callback(lock.release)
        lock.acquire()


def _servers(
    data_dir: Path, version: Literal[16, 18], database_url: SecretStr | None, broker_url: SecretStr | None
) -> dict[str, RunningPostgres | RunningValkey]:
    """Give a server for each URL that is missing."""
    servers: dict[str, RunningPostgres | RunningValkey] = {}
    if database_url is None:
        servers["DATABASE_URL"] = RunningPostgres(data_dir / f"postgres{version}", version=version)
    if broker_url is None:
        servers["BROKER_URL"] = RunningValkey(data_dir / "valkey")
    return servers


def _start(server: RunningPostgres | RunningValkey, exits: ExitStack) -> str:
    exits.callback(server.stop)  # before the start, in which an interrupt may come
    return server.start().url


def _settings(allowed_roots: Sequence[Path]) -> dict[str, str]:
    password = secrets.token_urlsafe(12)
    settings = {"FLOWER_BASIC_AUTH": configured("FLOWER_BASIC_AUTH") or f"ingest:{password}"}
    if allowed_roots:
        settings["ALLOWED_ROOTS"] = os.pathsep.join(str(root.resolve()) for root in allowed_roots)
    return settings


def _leave_settings(path: Path, env: dict[str, str], exits: ExitStack) -> None:
    """Write the file by which other commands find this stack. It holds passwords."""
    exits.callback(path.unlink, missing_ok=True)
    with explained(path.parent):
        write_private(path, env)


def _configured(port: str) -> int:
    """Read a port; the URLs, which no stack has given yet, are not looked at."""
    number: int = getattr(read_settings(database_url="postgresql://", broker_url="redis://"), port)
    return number


def _refuse_taken(port: int, purpose: str, setting: str) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise StackError(
                f"port {port}, meant for {purpose}, cannot be used: {error.strerror}",
                f"stop the program that has it, or set {setting} to a free port",
            ) from None
