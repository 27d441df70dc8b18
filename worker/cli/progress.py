"""Progress on standard error: a bar on a terminal, a line now and then elsewhere."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from worker.cli.output import note

_LINE_EVERY = 5.0

Report = Callable[[int], None]


@contextmanager
def progress(title: str, total: int) -> Iterator[Report]:
    """Show how many of `total` are done; call what it gives with the number done so far."""
    if not sys.stderr.isatty():
        yield _lines(title, total)
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    parts = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*parts, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(title, total=total)
        yield lambda done: bar.update(task, completed=done)


@contextmanager
def counted(title: str, total: int) -> Iterator[Report]:
    """Show progress to a caller who tells how many more are done."""
    done = 0
    with progress(title, total) as report:

        def add(more: int) -> None:
            nonlocal done
            done += more
            report(done)

        yield add


def _lines(title: str, total: int) -> Report:
    said = time.monotonic()

    def report(done: int) -> None:
        nonlocal said
        if time.monotonic() - said >= _LINE_EVERY:
            said = time.monotonic()
            note(f"{title}: {done:,} of {total:,}")

    return report
