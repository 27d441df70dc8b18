"""The processes of the product: two of each, each started again when it ends, as a supervisor does."""

import math
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import psutil

from benchmarks.peer_runs import ROOT
from benchmarks.report import say
from worker.embedded.process import death_wish

INGEST, MAINTENANCE, SEARCH, BEATS = (
    ("ingest-1", "ingest-2"),
    ("maintenance-1", "maintenance-2"),
    ("search-1", "search-2"),
    ("beat-1", "beat-2"),
)
INTERACTIVE = ("interactive-1",)
TWO_OF_EVERYTHING = (*INGEST, *INTERACTIVE, *MAINTENANCE, *SEARCH, *BEATS)
_TICK, _STOP_SECONDS, _OBEY_SECONDS = 0.1, 30, 60
_TELL_CHARACTERS = 6_000


class Fleet:
    """Processes by name: the kind, and a number."""

    def __init__(self, folder: Path, names: Sequence[str], environment: dict[str, str]) -> None:
        self._folder, self._environment = folder, environment
        self._expected: dict[int, float] = {}  # when it was told to end
        folder.mkdir()
        self._clocks: dict[str, float] = {}
        self._stopping = False
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self.unexpected: Counter[str] = Counter()
        for name in names:
            self.start(name)

    def start(self, name: str) -> None:
        """Start a process. A worker's clock is as wrong as `wrong_clock` said, once."""
        kind = name.partition("-")[0]
        command = [kind] if kind == "beat" else ["worker", kind]
        data = self._folder / name  # beat's schedule is a file of its own
        with (self._folder / f"{name}.log").open("ab") as log:
            self._processes[name] = subprocess.Popen(
                [sys.executable, "-m", "benchmarks.chaos.process", *command],
                stdout=log,
                stderr=log,
                cwd=ROOT,
                env={
                    **os.environ,
                    **self._environment,
                    "DATA_DIR": str(data),
                    "CHAOS_FOLDER": str(self._folder),
                    "CHAOS_CLOCK": str(self._clocks.pop(name, 0)),
                },
                start_new_session=True,
                preexec_fn=death_wish(signal.SIGKILL),  # noqa: PLW1509 -- one system call, bound early
            )

    def supervise(self) -> None:
        """Start again what has ended; count what ended though nobody did it any harm."""
        for name, process in list(self._processes.items()):
            if self._stopping:
                return
            if process.poll() is not None:
                if process.pid not in self._expected:
                    self.unexpected[f"{name.partition('-')[0]} ended with {process.returncode}"] += 1
                    said = (self._folder / f"{name}.log").read_text(errors="replace")[-_TELL_CHARACTERS:]
                    say(f"{name} ended with {process.returncode} by itself:\n{said}")
                self.start(name)
            elif time.monotonic() - self._expected.get(process.pid, math.inf) > _OBEY_SECONDS:
                self.unexpected[f"{name.partition('-')[0]} did not end within {_OBEY_SECONDS} s"] += 1
                process.kill()

    def wrong_clock(self, name: str, seconds: float) -> None:
        """Have the next start of a process have a clock that is wrong by so much."""
        self._clocks[name] = seconds

    def pid(self, name: str) -> int:
        """Give the process id of the parent."""
        return self._processes[name].pid

    def send(self, name: str, number: signal.Signals) -> None:
        """Signal a parent; one that ends it is expected to."""
        pid = self.pid(name)
        if number in {signal.SIGKILL, signal.SIGTERM, signal.SIGQUIT}:
            self._expected.setdefault(pid, time.monotonic())
        with suppress(ProcessLookupError):
            os.kill(pid, number)

    def children(self, name: str) -> list[psutil.Process]:
        """Give the processes that do a worker's tasks."""
        with suppress(psutil.NoSuchProcess):
            return psutil.Process(self.pid(name)).children()
        return []

    def family(self, name: str, number: signal.Signals) -> None:
        """Signal a parent and its children."""
        for child in self.children(name):
            with suppress(psutil.NoSuchProcess):
                child.send_signal(number)
        self.send(name, number)

    def child(self, name: str, chance: random.Random) -> psutil.Process | None:
        """Choose a child."""
        children = self.children(name)
        return chance.choice(children) if children else None

    def stage(self, pid: int) -> str:
        """Give the stage of its batch that a process of a pool is at, or was at when it was killed."""
        with suppress(FileNotFoundError):
            return (self._folder / f"{pid}.stage").read_text().strip()
        return "no batch"

    def stop(self) -> None:
        """Stop everything as a supervisor does, and insist after a while."""
        self._stopping = True
        family = [psutil.Process(p.pid) for p in self._processes.values() if p.poll() is None]
        family += [child for process in family for child in process.children(recursive=True)]
        for process in self._processes.values():
            process.terminate()
        for left in psutil.wait_procs(family, timeout=_STOP_SECONDS)[1]:
            with suppress(psutil.NoSuchProcess):
                left.kill()
        for process in self._processes.values():
            process.wait()
        for orphan in self._left():
            self.unexpected["a child outlived its parent"] += 1
            orphan.kill()

    def _left(self) -> list[psutil.Process]:
        """Find what still runs for this folder, by its environment."""
        found = []
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                if process.environ().get("CHAOS_FOLDER") == str(self._folder):
                    found.append(process)
        return found


class Supervision:
    """Supervises a fleet from a thread, which outlives it: what a thread has started dies with it."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet, self._over = fleet, threading.Event()
        self._thread = threading.Thread(target=self._run, name="supervision", daemon=True)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._fleet.stop()
        self._over.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._over.wait(_TICK):
            self._fleet.supervise()
