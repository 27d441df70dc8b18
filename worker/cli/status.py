"""`ingest status`: how much is where, what is stuck and why; or everything about one document."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from worker.cli.output import AsJson, Project, age, columns, emit, grouped, note, printable, say
from worker.cli.pause import say_paused
from worker.errors import Exit, IngestError

if TYPE_CHECKING:  # the producer costs a second to import, and --help must not
    from worker.db.overview import Segments
    from worker.producer import Overview


_SHORTEST_SECONDS, _LONGEST_SECONDS = 0.5, 3600


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("status")(status)


def status(
    documents: Annotated[
        list[str] | None, typer.Argument(metavar="[DOCUMENT…]", help="Ids or paths.")
    ] = None,
    tenant: Annotated[str | None, typer.Option(help="Whose documents; of all without.")] = None,
    project: Project = None,
    trace: Annotated[str | None, typer.Option(metavar="ID", help="The documents of a trace.")] = None,
    *,
    watch: Annotated[
        bool, typer.Option("--watch", help="Show what goes on, again and again; Ctrl-C ends.")
    ] = False,
    interval: Annotated[float, typer.Option(metavar="SECONDS", help="How often --watch looks.")] = 2,
    as_json: AsJson = False,
) -> None:
    """Show counts by status, the oldest waiting document and why documents did not complete.

    With DOCUMENT: everything about these documents. With --watch: documents, rates, queues, workers, trouble
    and what mends it, segments and chores; without a terminal, a snapshot an interval.
    """
    if watch:
        _watch(interval, alone=not (documents or tenant or project or trace or as_json))
        return
    if documents:
        _show_documents(documents, tenant or "default", project, as_json=as_json)
        return
    if project is not None and tenant is None:
        tenant = "default"
    from worker import producer

    counted = producer.status(tenant=tenant, project=project, trace=trace)
    if trace is not None:
        _show_trace(counted, trace, as_json=as_json)
        return
    held = producer.paused(tenant)
    scopes, segments, troubles = _tables()
    scopes = [scope for scope in scopes if tenant in (None, scope.tenant)] if project is None else []
    if as_json:
        paused = [asdict(one) for one in held]
        held_up = [trouble._asdict() for trouble in troubles]
        more = {"segments": _segments_as_json(segments), "paused": paused, "troubles": held_up}
        emit(_as_json(counted, scopes) | more)
        return
    _say(counted, scopes)
    say_paused(held)
    _say_troubles(troubles)
    if tenant is None:
        _say_segments(segments)


def _watch(interval: float, *, alone: bool) -> None:
    if not alone:
        raise IngestError("--watch shows everything, for people", "leave the other options out, or --watch")
    if not _SHORTEST_SECONDS <= interval <= _LONGEST_SECONDS:
        raise IngestError(f"--interval {interval:g} is no interval", "give 0.5 to 3600 seconds")
    from worker.cli.watch import watch
    from worker.settings import load_settings

    watch(load_settings(), interval)


def _show_trace(counted: "Overview", trace: str, *, as_json: bool) -> None:
    total = sum(counted.counts.values())
    if not total:
        raise NotFoundError(f"no document has the trace {printable(trace)}", "`ingest add` prints it")
    if as_json:
        emit(_as_json(counted, ()) | {"documents": [document._asdict() for document in counted.documents]})
        return
    _say(counted, ())
    columns([(d.status, d.error_code or "", d.document_id, d.source_path) for d in counted.documents])
    if total > len(counted.documents):
        say(f"  and {total - len(counted.documents):,} more")


def _tables() -> "tuple[Sequence[Any], Segments, Sequence[Any]]":
    from worker.db import batches, overview
    from worker.db.engine import transaction
    from worker.resources import resources

    with transaction(resources().engine) as connection:
        return (
            overview.projects(connection),
            overview.segments(connection),
            batches.troubles(connection),
        )


def _say_troubles(troubles: Sequence[Any]) -> None:
    from worker.cli.vitals import held_up

    for trouble in troubles:
        say(held_up(trouble))


def _segments_as_json(segments: "Segments") -> dict[str, Any]:
    builds = [build._asdict() for build in segments.builds]
    vacuums = [vacuum._asdict() for vacuum in segments.vacuums]
    counted = {"counts": segments.counts, "unsealed_rows": segments.unsealed_rows}
    return counted | {"builds": builds, "vacuums": vacuums}


def _say_segments(segments: "Segments") -> None:
    from worker.cli.upkeep import vacuum_under_way
    from worker.cli.vitals import blocked_build

    counts = ", ".join(f"{number} {state}" for state, number in segments.counts.items())
    say(f"segments: {counts}; {segments.unsealed_rows:,} rows without a vector index")
    for build in segments.builds:
        done = "" if build.done is None else f", {build.done:.0%}"
        say(blocked_build(build) if build.blocker else f"the index of {build.leaf}: {build.phase}{done}")
    for vacuum in segments.vacuums:
        say(vacuum_under_way(vacuum))


def _as_json(overview: "Overview", scopes: Sequence[Any]) -> dict[str, Any]:
    waiting = overview.oldest_waiting_seconds
    return {
        "counts": dict(overview.counts),
        "oldest_waiting_seconds": None if waiting is None else round(waiting, 3),
        "reasons": [reason._asdict() for reason in overview.reasons],
        "projects": [scope._asdict() for scope in scopes],
    }


def _say(overview: "Overview", scopes: Sequence[Any]) -> None:
    say("documents")
    columns([(str(status), number) for status, number in overview.counts.items()])
    if overview.oldest_waiting_seconds is not None:
        say(f"the oldest waits for {age(overview.oldest_waiting_seconds)}")
    if overview.reasons:
        say("reasons")
        grouped(overview.reasons)
    if scopes:
        heading = ("tenant", "project", "documents", "completed", "chunks")
        lines = [(s.tenant, s.project or "-", s.documents, s.completed, s.chunks) for s in scopes]
        columns([heading, *lines])


def _show_documents(names: Sequence[str], tenant: str, project: str | None, *, as_json: bool) -> None:
    rows = _find(names, tenant, project)
    if as_json:
        emit([row._asdict() for row in rows])
        return
    for number, row in enumerate(rows):
        if number:
            say()
        columns([(name, _shown(value)) for name, value in row._asdict().items() if value is not None])
    if len(rows) < len(names):
        note(f"{len(names)} named, {len(rows)} found")


def _find(names: Sequence[str], tenant: str, project: str | None) -> Sequence[Any]:
    from worker import producer
    from worker.cli.change import spellings

    rows = producer.find(spellings(names), tenant=tenant, project=project)
    if not rows:
        raise NotFoundError(nothing_matched(names, tenant, project), WHERE_TO_LOOK)
    return rows


def _shown(value: object) -> str:
    isoformat = getattr(value, "isoformat", None)
    return isoformat(" ", "seconds") if isoformat else str(value)


WHERE_TO_LOOK = "`ingest status` lists tenants and projects; name them with --tenant and --project"


class NotFoundError(IngestError):
    """No document is called what the user called it."""

    exit_code = Exit.FINDINGS


def nothing_matched(names: Sequence[str] | None, tenant: str, project: str | None) -> str:
    """Say that no document fits, and where it was looked for."""
    where = f"tenant {tenant}, " + (f"project {project}" if project else "any project")
    if not names:
        return f"no document needs it ({where})"
    shown = ", ".join(map(printable, names[:3])) + ("…" if len(names) > 3 else "")  # noqa: PLR2004 -- a line's worth
    return f"no document fits {shown} ({where})"
