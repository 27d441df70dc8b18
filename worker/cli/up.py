"""`ingest up`: the whole stack in the foreground."""

import typer

from worker.cli.output import say
from worker.errors import Exit


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("up")(up)


def up() -> None:
    """Start servers, migrate, run all processes with one log; Ctrl-C stops everything.

    PostgreSQL and Valkey are started in DATA_DIR where DATABASE_URL and BROKER_URL are not set.
    """
    from worker.cli.session import greeting, open_stack, stack_settings

    settings = stack_settings()
    with open_stack(settings) as stack:
        say(greeting(settings))
        code = stack.run_foreground()
    raise typer.Exit(Exit.OK if code == Exit.INTERRUPTED else code)
