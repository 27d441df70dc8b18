"""`ingest status --watch` in a real terminal, beside a real worker, while servers come and go."""

import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import sys
import termios
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr
from pytest_celery import RedisTestBroker
from rich.cells import cell_len
from sqlalchemy import Connection

from tests.workers.conftest import StartWorker, Until
from tests.workers.test_delivery import texts, waiting_writers, writes_blocked
from worker import broker, submit
from worker.cli.screen import screen
from worker.cli.watching import Watcher
from worker.db.engine import driver_url
from worker.db.grants import Role
from worker.db.logins import role_names
from worker.db.roles import make_roles
from worker.maintenance.run import run_chore
from worker.resources import Resources
from worker.settings import Settings
from worker.types import Queue, Status, TaskName

COLUMNS, LINES = 80, 24
# In a session of its own, with the terminal as what its Ctrl-C comes from.
CONTROLLED = (
    "import fcntl, os, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0);"
    " os.execv(sys.executable, [sys.executable, '-m', 'worker.cli', *sys.argv[1:]])"
)
HOME, SHOWN, HIDDEN = "\x1b[H", "\x1b[?1049h", "\x1b[?1049l"
ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


class Terminal:
    """A pseudo-terminal with a command in it: what it wrote, frame by frame."""

    def __init__(self, *arguments: str) -> None:
        self.ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", LINES, COLUMNS, 0, 0))
        self.before = termios.tcgetattr(self.ours)
        self.process = subprocess.Popen(
            [sys.executable, "-c", CONTROLLED, *arguments],
            stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True,
            env={**os.environ, "TERM": "xterm-256color"},
        )  # fmt: skip
        os.close(theirs)
        self.written = ""

    def read(self) -> str:
        """Take what there is; give everything so far."""
        while select.select([self.ours], [], [], 0.05)[0]:
            try:
                self.written += os.read(self.ours, 65_536).decode(errors="replace")
            except OSError:  # Linux: the other side is closed
                break
        return self.written

    @property
    def frame(self) -> list[str]:
        """The lines of the last whole frame."""
        frames = self.read().split(HOME)
        return ESCAPES.sub("", frames[-2]).split("\r\n") if len(frames) > 2 else []

    @property
    def text(self) -> str:
        return "\n".join(self.frame)

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self.ours)


@pytest.fixture
def terminal(settings: Settings) -> Iterator[Callable[..., Terminal]]:
    opened: list[Terminal] = []

    def run(*arguments: str) -> Terminal:
        opened.append(Terminal(*arguments))
        return opened[-1]

    yield run
    for one in opened:
        one.close()


def test_view_follows_real_work_survives_its_servers_and_leaves_the_terminal_whole(
    start: StartWorker,
    until: Until,
    terminal: Callable[..., Terminal],
    resources: Resources,
    connection: Connection,
    administrate: Callable[[str], None],
    broker_node: RedisTestBroker,
) -> None:
    start("ingest")
    view = terminal("status", "--watch", "--interval", "0.5")
    with writes_blocked(resources):
        submit(texts(300))
        until(lambda: waiting_writers(connection) > 0)
        until(lambda: re.search(r"256 of 256 documents for \d+ s, bulk, default", view.text))
    until(lambda: re.search(r"processing.*\n +0 +0 +300 ", view.text))
    until(lambda: re.search(r"minute +[1-9][\d.]* documents/s.*nothing waits", view.text))
    assert "run `ingest beat`" in view.text

    connection.close()
    resources.close()
    name = driver_url(resources.settings.database_url).database
    administrate(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
    administrate(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'")
    until(lambda: re.search(r"^away +database: PostgreSQL at ", view.text, re.MULTILINE))
    assert re.search(r"what is shown is as of \d+ s ago", view.text)
    administrate(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true")
    until(lambda: view.frame and "away" not in view.text)

    broker_node.kill()
    until(lambda: re.search(r"^away +broker: the broker at ", view.text, re.MULTILINE))
    broker_node.restart()
    until(lambda: "away" not in view.text and re.search(r"^queues +ingest 0 ", view.text, re.MULTILINE))

    frames = [ESCAPES.sub("", frame).split("\r\n") for frame in view.read().split(HOME)[1:]]
    assert all(len(frame) <= LINES for frame in frames)
    assert all(cell_len(line) <= COLUMNS for frame in frames for line in frame)
    os.write(view.ours, b"\x03")
    until(lambda: view.process.poll() is not None)
    assert view.process.returncode == 0
    assert "Traceback" not in view.read()
    assert view.written.count(SHOWN) == 1
    assert HIDDEN in view.written.partition(SHOWN)[2]
    assert view.written.rindex("\x1b[?25h") > view.written.rindex("\x1b[?25l")
    assert termios.tcgetattr(view.ours) == view.before


def test_without_a_terminal_there_is_a_snapshot_an_interval(settings: Settings, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "worker.cli", "status", "--watch", "--interval", "0.5"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    heads: list[str] = []
    while len(heads) < 2:
        line = process.stdout.readline()
        assert "\x1b" not in line
        if line.startswith("20"):
            heads.append(line)
    process.send_signal(2)
    assert process.wait(30) == 0
    assert process.communicate()[1] == ""


def test_monitoring_role_sees_it_all(
    settings: Settings, resources: Resources, connection: Connection
) -> None:
    make_roles(settings, "watch_")
    submit(texts(3), tenant="acme")
    run_chore(resources, "purge")
    monitor = driver_url(settings.database_url).set(username=role_names("watch_")[Role.MONITOR])
    url = SecretStr(monitor.render_as_string(hide_password=False))
    seen = Watcher(settings.model_copy(update={"database_url": url}), 1).look()
    assert seen.trouble == ()
    assert seen.documents is not None
    assert seen.documents.counts[Status.PENDING] == 3
    assert {finding.name for finding in seen.findings} >= {"ingest worker", "beat"}
    assert seen.queues[Queue.INGEST].messages == 1
    assert any("purge" in line.plain for line in screen(seen, settings, seen.asked, 80, 24))


def test_every_queue_tells_how_long_its_oldest_message_waits(
    settings: Settings, connection: Connection
) -> None:
    from worker.app import app

    app.send_task(TaskName.PURGE.value, queue=Queue.MAINTENANCE.value)
    client: Any = broker.connect(settings)
    client.lpush(Queue.SEARCH.value, "no message of ours")
    found = broker.waiting(client)
    assert found[Queue.SEARCH] == (1, None)
    assert found[Queue.INGEST] == (0, None)
    assert found[Queue.MAINTENANCE].messages == 1
    assert found[Queue.MAINTENANCE].oldest_seconds is not None


@pytest.mark.parametrize(
    "arguments", [["--json"], ["--tenant", "t"], ["x.md"], ["--interval", "0"], ["--interval", "nan"]]
)
def test_what_does_not_go_with_watching_is_refused_in_one_line(ingest: Any, arguments: list[str]) -> None:
    done = ingest("status", "--watch", *arguments)
    assert (done.returncode, done.stdout) == (2, b"")
    assert len(done.stderr.splitlines()) == 1
