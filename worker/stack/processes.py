"""The Procfile's processes under one prefixed log: when one ends, or we are told to, all end.

    python -m worker.stack PROCFILE STATE

STATE is a JSON file for whoever waits: `all_started`, and `first_stopped` with name and returncode.
honcho supplies parser, processes and printer. Its Manager is not used: it signals whole groups, which
kills the pool under a Celery worker that is about to hand its work back; it cannot be interrupted while
it starts; and it never insists when nobody obeys.
"""

import errno
import functools
import json
import os
import queue
import signal
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Thread
from types import FrameType
from typing import Any

from honcho.colour import get_colours
from honcho.environ import parse_procfile
from honcho.printer import Message, Printer
from honcho.process import Popen, Process

from worker.embedded.process import STOPPING_SIGNALS, death_wish
from worker.errors import Exit, StackError

_KILL_AFTER = 5.0
_TICK = 0.1


def find_procfile() -> Path:
    """Find the Procfile: in an installed wheel beside the package, else at the repository's top level."""
    package = Path(__file__).resolve().parents[1]
    for path in (package / "_Procfile", package.parent / "Procfile"):
        if path.is_file():
            return path
    raise StackError("the Procfile is missing from this installation", "install ingest-worker again")


def run_processes(
    procfile: Path, env: Mapping[str, str], *, printer: Any = None, state: Path | None = None
) -> int:
    """Run all processes of `procfile` until one ends or a signal comes; give an exit code.

    Our own virtual environment's commands come first in their PATH.
    """
    path = os.pathsep.join((str(Path(sys.executable).parent), env.get("PATH", os.defpath)))
    commands = parse_procfile(procfile.read_text()).processes
    if not commands:
        raise StackError(f"{procfile} names no process", "a line looks like `name: command`")
    return _Group(commands, {**env, "PATH": path}, printer or Printer(sys.stdout), state).run()


@dataclass
class _Member:
    """One process, as far as its events tell."""

    process: Any
    pid: int | None = None
    returncode: int | None = None

    def send(self, number: signal.Signals) -> None:
        if self.pid is not None and self.returncode is None:
            with suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def kill(self) -> None:
        if self.pid is not None and self.returncode is None:
            with suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)


class _Group:
    """The processes and their events, in one thread; each process is read by a thread of its own."""

    def __init__(
        self, commands: Mapping[str, str], env: Mapping[str, str], printer: Any, state: Path | None
    ) -> None:
        self._events: queue.Queue[Message] = queue.Queue()
        self._printer = printer
        self._printer.width = max(map(len, commands))
        self._state_file = state
        self._state: dict[str, Any] = {}
        self._signalled = False
        self._deadline: float | None = None
        colours = get_colours()
        self._members = {
            # exec: the signal must reach the command, not a shell around it.
            name: _Member(Process(f"exec {command}", name=name, colour=next(colours), env=dict(env)))
            for name, command in commands.items()
        }

    def run(self) -> int:
        for number in STOPPING_SIGNALS:
            signal.signal(number, self._note_signal)
        for member in self._members.values():
            popen = functools.partial(Popen, preexec_fn=death_wish(signal.SIGTERM))
            member.process._child_ctor = popen  # noqa: SLF001 -- honcho's own seam, without a public name
            Thread(target=member.process.run, args=(self._events,), daemon=True).start()
        while not self._all(stopped=True):
            self._handle_event()
            self._stop_when_needed()
        return int(Exit.INTERRUPTED if self._signalled and "first_stopped" not in self._state else Exit.STACK)

    def _note_signal(self, _number: int, _frame: FrameType | None) -> None:
        self._signalled = True

    def _handle_event(self) -> None:
        try:
            event = self._events.get(timeout=_TICK)
        except queue.Empty:
            return
        member = self._members[event.name]
        if event.type == "line":
            self._print(event)
        elif event.type == "start":
            member.pid = event.data["pid"]
            self._report(all_started=self._all(stopped=False))
        else:
            member.returncode = event.data["returncode"]
            self._note_end(event, member.returncode)

    def _print(self, event: Message) -> None:
        try:
            self._printer.write(event)
        except OSError as error:  # a full disk costs lines of the log, not the stack
            if error.errno in {errno.EPIPE, errno.EIO}:
                # the terminal or pipe is gone: nobody listens, nobody could stop us later
                self._signalled = True
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())

    def _note_end(self, event: Message, returncode: int | None) -> None:
        text = f"ended (exit code {returncode})\n"
        self._print(event._replace(type="line", data=text))
        if not self._signalled and self._deadline is None:
            self._report(first_stopped={"name": event.name, "returncode": returncode})

    def _stop_when_needed(self) -> None:
        """Ask once, as soon as every process has a pid to ask; insist after `_KILL_AFTER`."""
        wanted = self._signalled or "first_stopped" in self._state
        if wanted and self._deadline is None and self._all(stopped=False):
            self._deadline = time.monotonic() + _KILL_AFTER
            for member in self._members.values():
                member.send(signal.SIGTERM)
        elif self._deadline is not None and time.monotonic() > self._deadline:
            for member in self._members.values():
                member.kill()

    def _all(self, *, stopped: bool) -> bool:
        """Whether all were started, or all have ended."""
        members = self._members.values()
        return all((member.returncode if stopped else member.pid) is not None for member in members)

    def _report(self, **facts: Any) -> None:
        self._state.update(facts)
        if self._state_file:
            fresh = self._state_file.with_name(f"{self._state_file.name}.new")
            fresh.write_text(json.dumps(self._state))
            fresh.replace(self._state_file)
