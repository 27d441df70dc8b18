"""`ingest maintain`: run a chore of the schedule now."""

from typing import TYPE_CHECKING, Annotated

import typer

from worker.cli.output import AsJson, columns, emit, say
from worker.errors import Exit, IngestError

if TYPE_CHECKING:  # imports cost, and --help must not
    from worker.settings import Settings


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("maintain")(maintain)


def maintain(
    name: Annotated[
        str, typer.Argument(help="dispatch, rescue, vacuum, indexes, spares, seal, compact or purge.")
    ],
    *,
    as_json: AsJson = False,
) -> None:
    """Run a maintenance chore now, here, under the lock it has everywhere."""
    from worker.cli.startup import as_role
    from worker.maintenance.run import CHORES, run_chore
    from worker.resources import resources
    from worker.settings import load_settings

    if name not in CHORES:
        raise IngestError(f"there is no chore {name!r}", f"one of {', '.join(CHORES)}")
    _require_servers(name, load_settings())
    as_role(load_settings().maintenance_database_url)
    did = run_chore(resources(), name)
    if as_json:
        emit(did)
    elif did["outcome"] == "locked":
        say(f"{name} is running elsewhere; nothing was done here")
    else:
        columns([(key, _shown(value)) for key, value in did.items()])
    if did["outcome"] == "locked":
        raise typer.Exit(Exit.FINDINGS)


def _require_servers(name: str, settings: "Settings") -> None:
    """Name the server that is away and its setting: the schedule's own run may wait for it, a person not.

    Raises DatabaseUnavailableError and BrokerUnavailableError.
    """
    from worker.broker import require_broker
    from worker.db.engine import reach

    reach(settings.maintenance_url, lambda _: None, settings.setting_of(settings.maintenance_url))
    if name == "dispatch":
        require_broker(settings)


def _shown(value: object) -> object:
    return (", ".join(map(str, value)) or "none") if isinstance(value, list) else value
