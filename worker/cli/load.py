"""`ingest load`: store documents that bring their chunks and vectors."""

import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from worker.cli.output import AsJson, Project, Tenant, Trace, count, emit, note, printable, say
from worker.errors import Exit, Interrupted
from worker.types import MOST_REASONS

if TYPE_CHECKING:
    from worker.producer import Loaded

_SAID_EVERY = 10.0


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("load")(load)


def load(
    files: Annotated[
        list[str], typer.Argument(metavar="FILE…", help="JSON Lines or Parquet; - for standard input.")
    ],
    tenant: Tenant = "default",
    project: Project = None,
    trace: Trace = None,
    *,
    as_json: AsJson = False,
) -> None:
    """Store documents with the chunks and vectors they bring, without a model and without a queue.

    A line of JSON: {"source_path": …, "chunks": [{"text": …, "vector": [numbers]}]}. Slices are stored
    whole: after an interruption the same command goes on from there.
    """
    from worker.cli.records import check

    for name in files:
        check(name)
    run = _Run(tenant, project, trace)
    try:
        for name in files:
            run.load(name)
    except KeyboardInterrupt:
        raise Interrupted(f"interrupted: {run.said()} so far; the same command goes on from there") from None
    run.report(as_json=as_json)
    raise typer.Exit(Exit.FINDINGS if run.findings else Exit.OK)


class _Run:
    """One run of `load`, file by file."""

    def __init__(self, tenant: str, project: str | None, trace: str | None) -> None:
        from worker.producer import Loaded
        from worker.steps.traces import known_trace, new_trace

        trace = new_trace() if trace is None else known_trace(trace)  # one for all of its files
        self._scope: dict[str, Any] = {"tenant": tenant, "project": project, "trace": trace}
        self._total = Loaded(trace=trace)
        self._unreadable = 0
        self._begun = time.monotonic()
        self._said = 0.0

    @property
    def findings(self) -> int:
        """How much was not stored as it came."""
        return self._total.failed + self._total.refused + self._unreadable

    def load(self, name: str) -> None:
        """Load one file."""
        from worker.cli.progress import progress
        from worker.cli.records import opened
        from worker.producer import load
        from worker.settings import load_settings

        with (
            opened(name, load_settings(), self._bad) as records,
            progress(f"loading {printable(name)}, %", 100) as show,
        ):

            def stored(part: "Loaded") -> None:
                self._total += part
                for path, reason in part.reasons:
                    note(f"  {printable(path)}: {reason}")
                unnamed = part.skipped + part.failed + part.refused - len(part.reasons)
                if unnamed:
                    note(f"  and {unnamed:,} more")
                show(round(100 * records.share))

            load(records, **self._scope, progress=stored, held_up=self._held_up)

    def _bad(self, where: str, reason: str) -> None:
        self._unreadable += 1
        if self._unreadable <= MOST_REASONS:
            note(f"  {where}: {reason}")
        elif self._unreadable == MOST_REASONS + 1:
            note("  and more")

    def _held_up(self, why: str) -> None:
        if time.monotonic() - self._said >= _SAID_EVERY:
            self._said = time.monotonic()
            note(f"waiting: {printable(why)}")

    def said(self) -> str:
        """Say what it came to."""
        total = self._total
        parts = [f"{count(total.completed, 'document')} stored ({count(total.chunks, 'chunk')})"]
        for number, what in (
            (total.duplicate, "duplicate"),
            (total.unchanged, "unchanged"),
            (total.skipped, "without chunks"),
            (total.failed, "failed"),
            (total.refused, "refused"),
            (self._unreadable, "unreadable"),
        ):
            if number:
                parts.append(f"{number:,} {what}")
        return ", ".join(parts)

    def report(self, *, as_json: bool) -> None:
        """Say it, with the rate."""
        seconds = time.monotonic() - self._begun
        if as_json:
            emit({**asdict(self._total), "unreadable": self._unreadable, "seconds": round(seconds, 3)})
            return
        rate = f", {self._total.chunks / seconds:,.0f} chunks/s" if self._total.chunks else ""
        say(f"{self.said()} in {seconds:.1f} s{rate}")
        if self._total.completed:
            say(f"trace {self._total.trace}")
