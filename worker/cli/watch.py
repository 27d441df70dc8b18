"""`ingest status --watch`: a live view in a terminal; elsewhere a snapshot an interval, as plain lines."""

import os
import sys
import time
from contextlib import suppress
from datetime import datetime

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from worker.cli.output import say
from worker.cli.screen import screen
from worker.cli.watching import Seen, Watcher
from worker.settings import Settings, masked

# The view is drawn anew at least this often: ages go on while a server does not answer.
_DRAW_SECONDS = 1.0
_PLAIN_WIDTH = 160


def watch(settings: Settings, interval: float) -> None:
    """Show what goes on until Ctrl-C, which ends it in order."""
    watcher = Watcher(settings, interval)
    with suppress(KeyboardInterrupt):
        watcher.start()
        if _is_terminal():
            _live(watcher, settings, interval)
        else:
            _plain(watcher, settings)


def _is_terminal() -> bool:
    return sys.stdout.isatty() and os.isatty(1) and not Console().is_dumb_terminal


def _live(watcher: Watcher, settings: Settings, interval: float) -> None:
    console = Console()
    seen, rounds = Seen(), 0
    try:
        with Live(console=console, screen=True, auto_refresh=False, redirect_stderr=False) as live:
            while True:
                title = Text(_title(settings, interval), "reverse")
                title.truncate(console.width, overflow="ellipsis")
                lines = screen(seen, settings, time.monotonic(), console.width, console.height - 1)
                live.update(Group(title, *lines), refresh=True)
                seen = watcher.latest(rounds, _DRAW_SECONDS)
                rounds = watcher.rounds
    finally:
        # once more: the interruption may have come while Live began or ended
        console.set_alt_screen(enable=False)
        console.show_cursor(show=True)


def _plain(watcher: Watcher, settings: Settings) -> None:
    rounds = 0
    while True:
        seen = watcher.latest(rounds, _DRAW_SECONDS)
        if watcher.rounds == rounds:
            continue
        rounds = watcher.rounds
        say(datetime.now().astimezone().isoformat(timespec="seconds"))
        for line in screen(seen, settings, time.monotonic(), _PLAIN_WIDTH, None):
            say(line.plain.rstrip())
        say()
        sys.stdout.flush()


def _title(settings: Settings, interval: float) -> str:
    clock = datetime.now().astimezone().strftime("%H:%M:%S")
    return f"ingest status  {clock}  every {interval:g} s, Ctrl-C ends  {masked(settings.database_url)}"
