"""pytest-celery nodes backed by processes: real workers and a real broker, without a container engine.

pytest-celery drives its nodes through a handle shaped like docker's Container; these handles are
processes of this machine instead.
"""

import os
import signal
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pytest_celery import CeleryTestContainer, CeleryTestWorker, RedisTestBroker

from tests.forks import Fork, Forks
from worker.embedded import RunningValkey

_NETWORKS: dict[str, Any] = {
    "Config": {"Hostname": "localhost", "Env": []},
    "HostConfig": {"PortBindings": {}},
    "NetworkSettings": {"Networks": {}, "Ports": {}},
}


class ProcessHandle:
    """A process, in the shape of docker's Container. `start`: starts it, with its log."""

    attrs = _NETWORKS

    def __init__(self, name: str, start: Callable[[Path], Fork], folder: Path) -> None:
        self.id, self.name = uuid.uuid4().hex, name
        self._start = start
        self.log = folder / f"{name}.log"
        self.status = "created"
        self.start()

    def start(self) -> None:
        self.process = self._start(self.log)
        self.reload()

    def reload(self) -> None:
        self.status = "running" if self.process.poll() is None else "exited"

    def kill(self, signal: str | int = "SIGKILL") -> None:
        number = _number(signal)
        if number == _number("SIGKILL"):
            os.killpg(self.process.pid, number)
            self.process.wait()
        else:
            self.process.send_signal(number)

    def restart(self, timeout: float = 10) -> None:
        if self.process.poll() is None:
            self.process.terminate()
        self.process.wait(timeout)
        self.start()

    def logs(self) -> bytes:
        return self.log.read_bytes()

    def stop(self) -> None:
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


def _number(name: str | int) -> int:
    return name if isinstance(name, int) else int(getattr(signal, name))


class WorkerContainer(CeleryTestContainer):  # type: ignore[misc] # untyped
    """A worker process; `kind` is that of `ingest worker KIND`."""

    ready_prompt = "ready."

    @property
    def process(self) -> Fork:
        handle: ProcessHandle = self._container
        return handle.process

    def logs(self) -> str:
        return bytes(self._container.logs()).decode(errors="replace")

    def teardown(self) -> None:
        self._container.stop()


class BrokerContainer(CeleryTestContainer):  # type: ignore[misc] # untyped
    """A Valkey process."""

    ready_prompt = "Ready to accept connections"

    def __init__(self, server: RunningValkey) -> None:
        super().__init__(ServerHandle(server))
        self.server = server

    @property
    def celeryconfig(self) -> dict[str, str]:
        return {"url": self.server.url, "host_url": self.server.url}

    def teardown(self) -> None:
        self.server.stop()


class ServerHandle:
    """A Valkey server, in the shape of docker's Container; a restart keeps its port."""

    attrs = _NETWORKS
    name, id = "valkey", uuid.uuid4().hex

    def __init__(self, server: RunningValkey) -> None:
        self._server = server
        self.status = "running"

    def logs(self) -> bytes:
        folder = self._server.folder
        return folder.with_name(f"{folder.name}.log").read_bytes()

    def reload(self) -> None:
        """Nothing to refresh: kill and restart say what the status is."""

    def kill(self, signal: str | int = "SIGKILL") -> None:
        os.kill(self._server.pid, _number(signal))
        self.status = "exited"

    def restart(self, timeout: float = 10) -> None:  # noqa: ARG002 -- docker's signature
        if self.status == "running":
            self._server.stop()
        self._server.start()
        self.status = "running"


def start_worker(
    forks: Forks, kind: str, folder: Path, *, module: str = "worker.cli", **settings: str
) -> CeleryTestWorker:
    """Start `ingest worker KIND`, or `ingest beat`, with the settings of this process's environment.

    `module`: what is run as `ingest`.
    """
    name = f"{kind}-{uuid.uuid4().hex[:8]}"
    command = ["beat"] if kind == "beat" else ["worker", kind]
    environment = {**os.environ, **settings}

    def start(log: Path) -> Fork:
        return forks.start(command, Path.cwd(), environment, {"stdout": log, "stderr": log}, module)

    node = CeleryTestWorker(WorkerContainer(ProcessHandle(name, start, folder)), None)
    node.wait_for_log("beat: Starting" if kind == "beat" else "ready.", timeout=60)
    return node


def start_broker(server: RunningValkey) -> RedisTestBroker:
    """Wrap a running Valkey server as a pytest-celery node."""
    return RedisTestBroker(BrokerContainer(server))
