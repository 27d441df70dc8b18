"""The producers of a run, each a process: started, and stopped when what they began is accepted."""

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.peer_runs import ROOT
from worker.embedded.process import death_wish

_STOP_SECONDS, _TICK = 120, 0.05


class Producers:
    """Processes by name; each has a journal of its own."""

    def __init__(self, folder: Path, seed: int, names: Sequence[str], environment: Mapping[str, str]) -> None:
        self._processes = [_start(folder, str(seed), name, environment) for name in names]
        for process, name in zip(self._processes, names, strict=True):
            while process.poll() is None and not (folder / f"{name}.journal").exists():
                time.sleep(_TICK)  # before, it does not know how to be stopped

    def stop(self) -> Counter[str]:
        """Let each end its last operation; gives what all of them did."""
        for process in self._processes:
            process.terminate()
        counts: Counter[str] = Counter()
        for process in self._processes:
            said = process.communicate(timeout=_STOP_SECONDS)[0]
            if process.returncode:
                raise RuntimeError(f"a producer ended with {process.returncode}: its log says why")
            counts.update(json.loads(said))
        return counts


def replay(folder: Path, name: str) -> None:
    """Do what a journal says, in this process's settings, to its end."""
    command = _command("replay", folder / f"{name}.journal")
    subprocess.run(command, cwd=ROOT, stdout=subprocess.DEVNULL, check=True)


def _start(folder: Path, seed: str, name: str, environment: Mapping[str, str]) -> "subprocess.Popen[bytes]":
    with (folder / f"{name}.log").open("wb") as log:
        return subprocess.Popen(
            _command("script", seed, name, folder / f"{name}.journal"),
            stdout=subprocess.PIPE,
            stderr=log,
            cwd=ROOT,
            env={**os.environ, **environment},
            preexec_fn=death_wish(signal.SIGKILL),  # noqa: PLW1509 -- one system call, bound early
        )


def _command(*arguments: str | Path) -> list[str]:
    return [sys.executable, "-m", "benchmarks.chaos.producer", *map(str, arguments)]
