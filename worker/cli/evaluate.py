"""`ingest evaluate`: how good searches are, by queries and judgements."""

import json
from contextlib import closing
from typing import TYPE_CHECKING, Annotated, Any

import typer

from worker.cli.output import AsJson, Project, Tenant, emit, printable
from worker.errors import Exit, IngestError, Interrupted

if TYPE_CHECKING:  # imports cost, and --help must not
    from worker.resources import Resources
    from worker.searching.evaluation import Evaluation

_MODES = ("vector", "keyword", "hybrid")


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("evaluate")(evaluate)


def evaluate(
    queries: Annotated[
        str, typer.Option(metavar="FILE", help='A line each: {"_id": …, "text": …}, or id, tab, text.')
    ],
    qrels: Annotated[
        str, typer.Option(metavar="FILE", help="A line each: query, document, grade, with tabs between.")
    ],
    tenant: Tenant = "default",
    project: Project = None,
    k: Annotated[int, typer.Option("-k", "--k", min=1, max=1000, help="How many results count.")] = 10,
    modes: Annotated[str, typer.Option(help="Which of vector, keyword and hybrid.")] = ",".join(_MODES),
    *,
    limit: Annotated[
        str | None, typer.Option("--filter", metavar="JSON", help="Search only in these.")
    ] = None,
    compare: Annotated[
        str | None,
        typer.Option(metavar="JSON", help='Measure another setting, too: \'{"fusion": "rrf"}\'.'),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Measure searches by judged queries: nDCG, recall and MRR of the first k documents, and the latency.

    The searches are made in this process. A document is named by its id, source path, filename, or
    filename without the ending; a grade of 1 or more means it answers the query.
    """
    from worker.cli.measured import show
    from worker.resources import Resources
    from worker.settings import load_settings

    settings = load_settings().model_copy(update={"search_record_all": False})
    with closing(Resources(settings)) as resources:
        plan = _plan(resources, qrels, queries, modes, limit, compare, tenant=tenant, project=project, k=k)
        _run(plan, queries)
    if as_json:
        emit(plan.as_json())
    else:
        show(plan)
    raise typer.Exit(Exit.FINDINGS if any(way.errors for way in plan.ways) else Exit.OK)


def _plan(
    resources: "Resources",
    qrels: str,
    queries: str,
    modes: str,
    limit: str | None,
    compare: str | None,
    **scope: Any,
) -> "Evaluation":
    """Read what is to be measured. Raises IngestError for whatever cannot be."""
    from worker.cli.judgements import check, judgements
    from worker.searching.evaluation import Evaluation
    from worker.steps.judged import by_query

    check(queries)
    request = {} if limit is None else {"filter": _object("--filter", limit)}
    settings = [{}] if compare is None else [{}, _object("--compare", compare)]
    chosen = _chosen(modes)
    grades = by_query(judgements(qrels))
    if not grades:
        raise IngestError(f"{printable(qrels)} has no judgement", "a line is: query, document, grade")
    return Evaluation(resources, grades, chosen, settings, request, **scope)


def _chosen(modes: str) -> list[str]:
    chosen = list(dict.fromkeys(mode.strip() for mode in modes.split(",") if mode.strip()))
    wrong = [mode for mode in chosen if mode not in _MODES]
    if wrong or not chosen:
        raise IngestError(
            f"--modes {modes[:60]!r} is not of {', '.join(_MODES)}", "for example --modes hybrid"
        )
    return chosen


def _object(option: str, written: str) -> dict[str, Any]:
    try:
        value = json.loads(written)
    except (ValueError, RecursionError) as error:
        raise IngestError(f"{option} is not JSON: {error}", "see --help") from None
    if not isinstance(value, dict):
        raise IngestError(f"{option} is not a JSON object", "see --help")
    return value


def _run(plan: "Evaluation", queries: str) -> None:
    from worker.cli import judgements
    from worker.cli.progress import progress

    try:
        with progress("queries", plan.size) as show:
            for done in plan.run(judgements.queries(queries)):
                show(done)
    except KeyboardInterrupt:
        raise Interrupted(
            f"interrupted: {len(plan.asked):,} of {plan.size:,} queries were measured"
        ) from None
    if not plan.asked:
        raise IngestError(
            f"none of the {plan.size:,} judged queries is in {printable(queries)}",
            "the ids of both files must be the same",
        )
