"""The child process that runs the Procfile: in a session of its own, so that we end everything in order."""

import json
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from worker.embedded.process import OwnedProcess, ServerDiedError, explained
from worker.errors import Exit, StackError
from worker.settings import child_environment

_START_SECONDS = 30.0
_STOP_SECONDS = 15.0  # processes get 5 s before they are killed; this is for the one that counts them
_WATCH_SECONDS = 0.5
_LAST_LINES = 15


class Background:
    """`python -m worker.stack` on the Procfile, with its log in `data_dir/log` or on our output."""

    def __init__(self, data_dir: Path, procfile: Path) -> None:
        self._data_dir = data_dir
        self._procfile = procfile
        self._state = data_dir / "log" / "processes.json"
        self._runner = OwnedProcess(
            data_dir / "log" / "processes", stop_with=signal.SIGTERM, patience=_STOP_SECONDS
        )

    @property
    def log(self) -> Path:
        """Where the processes write while in the background."""
        return self._runner.log

    def stop_leftover(self) -> None:
        """End the processes of a stack that was killed, before the servers under them."""
        with explained(self._data_dir):
            self._state.parent.mkdir(exist_ok=True)
            self._runner.stop_leftover()

    def start(self, env: dict[str, str]) -> None:
        """Start all; return when each one was started."""
        self._launch(env)
        try:
            self._runner.wait_until(self._all_started, seconds=_START_SECONDS)
        except ServerDiedError:
            raise self._death() from None
        self.check()

    def check(self) -> None:
        """Raise StackError when one has died."""
        if not self._runner.alive or "first_stopped" in self._read_state():
            raise self._death()

    def run(self, env: dict[str, str], watch: Callable[[], None]) -> int:
        """Start all on our own output; wait for the end; give the exit code. `watch` raises to end it."""
        try:
            self._launch(env, stdout=None, stderr=None)
            while not self._runner.ended_within(_WATCH_SECONDS):
                watch()
        except KeyboardInterrupt:
            self.stop()
            return int(Exit.INTERRUPTED)
        if self._runner.returncode != Exit.INTERRUPTED:
            raise self._death(shown=True)
        return int(Exit.INTERRUPTED)

    def stop(self) -> None:
        """Stop all within seconds. Does nothing twice."""
        self._runner.stop(last_resort=signal.SIGTERM)

    def _launch(self, env: dict[str, str], **options: Any) -> None:
        command = [sys.executable, "-m", "worker.stack", str(self._procfile), str(self._state)]
        self._state.unlink(missing_ok=True)
        self._runner.launch(command, env=child_environment(**env), **options)

    def _all_started(self) -> bool:
        return bool(self._read_state().get("all_started"))

    def _read_state(self) -> dict[str, Any]:
        try:
            state: dict[str, Any] = json.loads(self._state.read_text())
        except FileNotFoundError:
            return {}
        return state

    def _runner_death(self) -> StackError:
        """Say that it was not a process of the Procfile, but the one that runs them."""
        code = self._runner.returncode
        return StackError(f"the runner of the Procfile's processes died (exit code {code})", "start again")

    def _death(self, *, shown: bool = False) -> StackError:
        """Name who went first. Its last lines are what a person needs, and they are in the log."""
        first = self._read_state().get("first_stopped")
        if first is None:
            return self._runner_death()
        name, code = first["name"], first["returncode"]
        message = f"the process {name} of the Procfile ended (exit code {code})"
        if shown:
            return StackError(message, "its last lines are above")
        lines = [line for line in self._runner.logged().splitlines() if f" {name} " in line.partition("|")[0]]
        said = "\n".join(lines[-_LAST_LINES:])
        return StackError(f"{message}\n{said}\n" if said else message, f"read {self.log}")
