"""`ingest migrate`: bring the schema up to date."""

from enum import StrEnum
from typing import Annotated

import typer

from worker.cli.output import AsJson, emit, say


class Target(StrEnum):
    """Where to migrate to."""

    HEAD = "head"
    BASE = "base"


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("migrate")(migrate)


def migrate(
    to: Annotated[Target, typer.Option(help="base drops every table.")] = Target.HEAD,
    *,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    as_json: AsJson = False,
) -> None:
    """Bring the database's schema to what this program needs. Running it again does nothing."""
    from worker.db.migrate import migrate as run
    from worker.settings import load_settings, masked

    settings = load_settings()
    if to is Target.BASE and not yes:
        typer.confirm(
            f"Drop every document and chunk in {masked(settings.direct_url)}?", abort=True, err=True
        )
    before, after = run(settings, to.value)
    if as_json:
        emit({"from": before, "to": after})
    elif before == after:
        say(f"nothing to do: the database is at {after or 'base'}")
    else:
        say(f"migrated: {before or 'base'} → {after or 'base'}")
