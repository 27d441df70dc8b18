"""`ingest runs` and `ingest rate`: recorded searches, and what they were worth."""

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from worker.cli.output import AsJson, Tenant, columns, emit, printable, say

if TYPE_CHECKING:  # imports cost, and --help must not
    from worker.rating import Run

_SHOWN = 60


def register(app: typer.Typer) -> None:
    """Add the commands."""
    for command in (runs, rate):
        app.command(command.__name__)(command)


def runs(
    tenant: Tenant = "default",
    results: Annotated[int, typer.Option("-n", "--results", min=1, max=1000, help="At most.")] = 20,
    *,
    as_json: AsJson = False,
) -> None:
    """Show the newest recorded searches of a tenant, and what was said of them."""
    from worker import rating

    found = rating.runs(tenant=tenant, most=results)
    if as_json:
        emit([asdict(run) for run in found])
    elif found:
        columns([("run", "at", "hits", "thumbs", "score", "query"), *map(_row, found)])
    else:
        say("no search was recorded")


def rate(
    run_id: Annotated[str, typer.Argument(help="As a recorded search gave it, or `ingest runs` shows it.")],
    tenant: Tenant = "default",
    *,
    thumbs: Annotated[bool | None, typer.Option("--up/--down", help="Was it any good?")] = None,
    score: Annotated[float | None, typer.Option(help="How good, from 0 to 1.")] = None,
    comment: Annotated[str | None, typer.Option(help="Why, in words.")] = None,
    as_json: AsJson = False,
) -> None:
    """Say of a recorded search what it was worth. What is not said stays as it was."""
    from worker import rating

    up_or_down = None if thumbs is None else 1 if thumbs else -1
    run = rating.rate(run_id, tenant=tenant, thumbs=up_or_down, quality_score=score, comment=comment)
    if as_json:
        emit(asdict(run))
    else:
        say(f"{run.run_id}: {_said(run)}")


def _row(run: "Run") -> tuple[object, ...]:
    query = printable(" ".join(run.query.split()))
    return (
        run.run_id,
        run.created_at.isoformat(" ", "seconds"),
        run.response.get("hits", ""),
        _thumbs(run),
        "" if run.quality_score is None else f"{run.quality_score:g}",
        query if len(query) <= _SHOWN else query[: _SHOWN - 1] + "…",
    )


def _said(run: "Run") -> str:
    score = "" if run.quality_score is None else f"score {run.quality_score:g}"
    comment = printable(run.comment or "")
    return ", ".join(part for part in (_thumbs(run), score, comment) if part) or "nothing is said"


def _thumbs(run: "Run") -> str:
    return {1: "up", -1: "down"}.get(run.thumbs or 0, "")
