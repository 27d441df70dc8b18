"""The processes of `ingest up`, as the roles of a database; not Flower, which remembers 20,000 tasks."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager

import psutil

from benchmarks.stack import FRESH, START_SECONDS, STOP_SECONDS, Stack
from worker.db.logins import PREFIX, role_urls
from worker.db.roles import make_roles
from worker.embedded.process import death_wish
from worker.settings import child_environment

COMMANDS = {
    "ingest": ("worker", "ingest"),
    "interactive": ("worker", "interactive"),
    "search": ("worker", "search"),
    "maintenance": ("worker", "maintenance"),
    "beat": ("beat",),
    "exporter": ("exporter",),
}
_ROLES = ("DATABASE_URL", "SEARCH_DATABASE_URL", "MAINTENANCE_DATABASE_URL", "MONITOR_DATABASE_URL")
_ALIVE = f"SELECT count(DISTINCT kind) = {len(COMMANDS) - 1} FROM heartbeats WHERE {FRESH}"


def free_port() -> int:
    """Find a port for the exporter."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def service(stack: Stack) -> Iterator[Mapping[str, psutil.Popen]]:
    """Run one of each kind, all of whose hearts beat when this begins; the exporter has none.

    Each process of a pool has come for another, as all have after a while: it holds what its parent had
    open by then, which the first ones do not.
    """
    make_roles(stack.settings)
    urls = role_urls(stack.settings, PREFIX, {})
    roles = {name: urls[name].render_as_string(hide_password=False) for name in _ROLES}
    processes = {kind: _start(kind, stack, roles) for kind in COMMANDS}
    try:
        _await_hearts(stack, processes)
        _renew_pools(processes.values())
        yield processes
    finally:
        for process in processes.values():
            process.terminate()
        for late in psutil.wait_procs(processes.values(), STOP_SECONDS)[1]:
            late.kill()


def _start(kind: str, stack: Stack, roles: Mapping[str, str]) -> psutil.Popen:
    with (stack.folder / f"{kind}.log").open("wb") as log:
        return psutil.Popen(
            [sys.executable, "-m", "worker.cli", *COMMANDS[kind]],
            stdout=log,
            stderr=subprocess.STDOUT,
            env=child_environment(LOG_LEVEL="WARNING", **roles),
            preexec_fn=death_wish(signal.SIGKILL),
        )


def _await_hearts(stack: Stack, processes: Mapping[str, psutil.Popen]) -> None:
    limit = time.monotonic() + START_SECONDS
    while not stack.ask(_ALIVE):
        for kind, process in processes.items():
            if process.poll() is not None or time.monotonic() > limit:
                said = (stack.folder / f"{kind}.log").read_text()[-3000:]
                raise RuntimeError(f"{kind} did not start:{os.linesep}{said}")
        time.sleep(0.1)


def _renew_pools(parents: Collection[psutil.Process]) -> None:
    sizes = [len(parent.children()) for parent in parents]
    old = [child for parent in parents for child in parent.children()]
    for child in old:
        child.kill()
    psutil.wait_procs(old, STOP_SECONDS)
    limit = time.monotonic() + START_SECONDS
    while [len(parent.children()) for parent in parents] != sizes:
        if time.monotonic() > limit:
            raise RuntimeError("a process that was killed is not replaced")
        time.sleep(0.1)
