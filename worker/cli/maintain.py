"""`ingest maintain`: run a chore of the schedule now."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from worker.cli.output import AsJson, age, columns, emit, say
from worker.errors import Exit, IngestError

if TYPE_CHECKING:  # imports cost, and --help must not
    from worker.settings import Settings


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("maintain")(maintain)


def maintain(
    name: Annotated[str | None, typer.Argument(help="The chore; without it, all are listed.")] = None,
    *,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what there is to do, and change nothing.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Run a maintenance chore now, here, under the lock it has everywhere; or list the chores."""
    if name is None:
        _list(as_json=as_json)
        return
    from worker.cli.startup import as_role
    from worker.maintenance.run import CHORES, run_chore
    from worker.resources import resources
    from worker.settings import load_settings

    if name not in CHORES:
        raise IngestError(f"there is no chore {name!r}", f"one of {', '.join(CHORES)}")
    _require_servers(name, load_settings())
    as_role(load_settings().maintenance_database_url)
    did = run_chore(resources(), name, dry_run=dry_run)
    if as_json:
        emit(did)
    elif did["outcome"] == "locked":
        say(f"{name} is running elsewhere; nothing was done here")
    else:
        columns([row for key, value in did.items() for row in _rows(key, value)])
    if did["outcome"] == "locked":
        raise typer.Exit(Exit.FINDINGS)


def _list(*, as_json: bool) -> None:
    from worker.db import operations
    from worker.db.engine import transaction
    from worker.maintenance.run import CHORES
    from worker.resources import resources
    from worker.settings import load_settings

    with transaction(resources().engine) as connection:
        runs = {run.chore: run for run in operations.last_runs(connection)}
    timings = {name: load_settings().timing(name) for name in CHORES}
    if as_json:
        emit([{"chore": name, "schedule": timings[name], "last": _last(runs.get(name))} for name in CHORES])
        return
    columns(
        [("chore", "schedule", "last run", ""), *((n, timings[n], *_shown_last(runs.get(n))) for n in CHORES)]
    )


def _last(run: Any) -> dict[str, Any] | None:
    return None if run is None else run._asdict()


def _shown_last(run: Any) -> tuple[str, str]:
    if run is None:
        return "never", ""
    return f"{age(run.seconds_ago)} ago", run.error_message or run.outcome


def _require_servers(name: str, settings: "Settings") -> None:
    """Name the server that is away and its setting: the schedule's own run may wait for it, a person not.

    Raises DatabaseUnavailableError and BrokerUnavailableError.
    """
    from worker.broker import require_broker
    from worker.db.engine import reach

    reach(settings.maintenance_url, lambda _: None, settings.setting_of(settings.maintenance_url))
    if name == "dispatch":
        require_broker(settings)


def _rows(key: str, value: object) -> list[tuple[str, str]]:
    """Give one row, or one for each of several records or sentences; names share one."""
    shown = [_shown(item) for item in value] if isinstance(value, list) else []
    if any(" " in item for item in shown):
        return [(key, item) for item in shown]
    return [(key, _shown(value))]


def _shown(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {_shown(item)}" for name, item in value.items())
    if isinstance(value, list):
        return ", ".join(map(_shown, value)) or "none"
    return f"{value:,}" if isinstance(value, int | float) else str(value)
