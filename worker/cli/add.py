"""`ingest add`: submit files, folders, URIs and standard input."""

from enum import StrEnum
from typing import Annotated

import typer

from worker.cli.output import AsJson, Project, Tenant, Trace
from worker.errors import IngestError


class WhenFull(StrEnum):
    """What to do where the backlog is full."""

    WAIT = "wait"
    REFUSE = "refuse"


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("add")(add)


def add(
    paths: Annotated[
        list[str], typer.Argument(metavar="PATH…", help="Files, folders, URIs, or - for standard input.")
    ],
    tenant: Tenant = "default",
    project: Project = None,
    *,
    interactive: Annotated[bool, typer.Option("--interactive", help="Before all bulk work.")] = False,
    meta: Annotated[list[str] | None, typer.Option(metavar="KEY=VALUE", help="Metadata; repeatable.")] = None,
    metadata: Annotated[str | None, typer.Option(metavar="JSON", help="Metadata, as an object.")] = None,
    language: Annotated[
        str | None, typer.Option(help="Of the words, for searches: german, none, … else the project's.")
    ] = None,
    name: Annotated[str, typer.Option(help="What standard input is called.")] = "stdin",
    hidden: Annotated[bool, typer.Option("--hidden", help="Include names with a leading dot.")] = False,
    checksum: Annotated[
        bool, typer.Option("--checksum", help="Read files that look unchanged, too.")
    ] = False,
    when_full: Annotated[
        WhenFull, typer.Option(help="Where as many documents wait as may: wait for room, or refuse.")
    ] = WhenFull.WAIT,
    prune: Annotated[bool, typer.Option("--prune", help="Delete documents whose file is gone.")] = False,
    trace: Trace = None,
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Until all are settled.")] = False,
    timeout: Annotated[float | None, typer.Option(metavar="SECONDS", help="Wait at most this long.")] = None,
    as_json: AsJson = False,
) -> None:
    """Submit documents for ingestion. They are safe when this returns.

    Folders are taken with everything below them, without hidden files and folders (see --hidden) and
    without following links to folders. Files with the same size and modification time as last time are
    unchanged.
    """
    from worker.cli.addition import Addition
    from worker.cli.inputs import gather, parse_metadata
    from worker.settings import load_settings
    from worker.steps.languages import known_language

    if timeout is not None and not timeout >= 0:  # nan is no number of seconds either
        raise IngestError(f"--timeout {timeout} is not a number of seconds", "for example --timeout 60")
    gathered = gather(
        paths,
        load_settings(),
        metadata=parse_metadata(meta or [], metadata),
        hidden=hidden,
        stdin_name=name,
        language=None if language is None else known_language(language),
    )
    addition = Addition(gathered, tenant, project)
    addition.submit(interactive=interactive, checksum=checksum, when_full=when_full.value, trace=trace)
    addition.compare(prune=prune)
    if wait:
        addition.wait(timeout)
    addition.report(as_json=as_json)
    raise typer.Exit(addition.exit_code)
