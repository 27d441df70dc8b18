"""`ingest pause` and `resume`: hold back what is of a tenant, a project or a queue; list what is held."""

from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from worker.cli.output import AsJson, Project, age, emit, printable, say
from worker.errors import Exit, IngestError
from worker.types import Lane

if TYPE_CHECKING:  # the producer costs a second to import, and --help must not
    from worker.db.pauses import Pause

WhichTenant = Annotated[str | None, typer.Option(help="Whose documents; with a project: default.")]
WhichQueue = Annotated[str | None, typer.Option("--queue", help="interactive or bulk; both without.")]
All = Annotated[bool, typer.Option("--all", help="Everything.")]

# `ingest` is what Flower and the broker call the queue of bulk work.
_LANES = {"interactive": Lane.INTERACTIVE, "bulk": Lane.BULK, "ingest": Lane.BULK}
_ELSEWHERE = {
    "search": "searches are not paused: stop the search worker",
    "maintenance": "chores are not paused: set <CHORE>_SCHEDULE=off",
}

_NOTHING = {"paused": "it is paused already", "resumed": "nothing resumed: this was not paused"}


def register(app: typer.Typer) -> None:
    """Add the commands."""
    for command in (pause, resume):
        app.command(command.__name__)(command)


def pause(
    tenant: WhichTenant = None,
    project: Project = None,
    queue: WhichQueue = None,
    *,
    everything: All = False,
    reason: Annotated[str | None, typer.Option(help="Why, for whoever wonders.")] = None,
    as_json: AsJson = False,
) -> None:
    """Hold documents back until `ingest resume`; without options, list what is paused.

    They are still taken in, and wait. Batches under way finish; those that are queued go back.
    """
    from worker import producer

    chosen = _chosen(tenant, project, queue, everything=everything)
    if not chosen:
        if reason is not None:
            raise IngestError("name what to pause, or choose --all", "see --help")
        _list(producer.paused(), as_json=as_json)
        return
    _change(producer.pause, "paused", chosen | {"reason": reason}, as_json=as_json)


def resume(
    tenant: WhichTenant = None,
    project: Project = None,
    queue: WhichQueue = None,
    *,
    everything: All = False,
    as_json: AsJson = False,
) -> None:
    """End the pause that was made with the same options; what waited goes on at once."""
    from worker import producer

    chosen = _chosen(tenant, project, queue, everything=everything)
    if not chosen:
        raise IngestError("name what to resume, or choose --all", "`ingest pause` lists what is paused")
    _change(producer.resume, "resumed", chosen, as_json=as_json)


def _chosen(
    tenant: str | None, project: str | None, queue: str | None, *, everything: bool
) -> dict[str, Any]:
    """Give the options that were used, as the calls take them."""
    if project is not None and tenant is None:
        tenant = "default"
    lane = None if queue is None else _lane(queue)
    given = {"tenant": tenant, "project": project, "lane": lane, "everything": everything or None}
    return {name: value for name, value in given.items() if value is not None}


def _lane(queue: str) -> Lane:
    if queue in _ELSEWHERE:
        raise IngestError(f"the queue {queue} cannot be paused", _ELSEWHERE[queue])
    if queue not in _LANES:
        raise IngestError(f"there is no queue {queue!r:.80}", "one of interactive, bulk")
    return _LANES[queue]


def _change(change: Callable[..., bool], done: str, chosen: dict[str, Any], *, as_json: bool) -> None:
    """Pause or resume, and say what is paused now."""
    from worker import producer

    changed = change(**chosen)
    held = producer.paused(chosen.get("tenant"))
    if as_json:
        emit({"changed": changed, "paused": [asdict(one) for one in held]})
    else:
        if done == "resumed" or not changed:
            say(done if changed else _NOTHING[done])
        say_paused(held, "still paused" if done == "resumed" else "paused")
    if not changed and done == "resumed":
        raise typer.Exit(Exit.FINDINGS)


def _list(held: "Sequence[Pause]", *, as_json: bool) -> None:
    if as_json:
        emit([asdict(one) for one in held])
    else:
        say_paused(held)
        if not held:
            say("nothing is paused")


def say_paused(held: "Sequence[Pause]", heading: str = "paused") -> None:
    """Say what is paused, since when, by whom and why, and what ends it."""
    if held:
        say(heading)
    for one in held:
        why = f": {one.reason}" if one.reason else ""
        say(f"  {printable(f'{one.what}, for {age(one.seconds)}, by {one.paused_by}{why}')}")
        say(f"      `{printable(one.end)}` ends it")
