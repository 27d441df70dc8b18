"""`ingest search`: ask the search worker, show the chunks found."""

import json
from typing import Annotated, Any

import typer

from worker.cli.output import AsJson, Tenant, emit
from worker.errors import IngestError


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("search")(search)


def search(
    query: Annotated[
        str, typer.Argument(help='What to look for; "quoted words" stand in the text like that.')
    ] = "",
    tenant: Tenant = "default",
    project: Annotated[list[str] | None, typer.Option(help="Only these projects; repeatable.")] = None,
    results: Annotated[int, typer.Option("-k", "--results", help="At most so many, up to 1000.")] = 10,
    mode: Annotated[str | None, typer.Option(help="hybrid, vector or keyword.")] = None,
    *,
    path: Annotated[
        list[str] | None, typer.Option(metavar="GLOB", help="Only source paths like this; repeatable.")
    ] = None,
    filters: Annotated[
        str | None, typer.Option("--filter", metavar="JSON", help="Conditions, as docs/search.md has them.")
    ] = None,
    like: Annotated[
        list[str] | None, typer.Option(metavar="ID", help="Near to this chunk or document; repeatable.")
    ] = None,
    metric: Annotated[str | None, typer.Option(help="cosine, l2 or inner_product.")] = None,
    fusion: Annotated[str | None, typer.Option(help="How a hybrid search fuses: minmax or rrf.")] = None,
    weights: Annotated[
        str | None, typer.Option(metavar="JSON", help='Of a hybrid search: {"vector": 1, "keyword": 2}.')
    ] = None,
    language: Annotated[str | None, typer.Option(help="Of the words, for their endings.")] = None,
    by_document: Annotated[
        bool, typer.Option("--by-document", help="The best chunk of each document.")
    ] = False,
    neighbours: Annotated[int, typer.Option(help="Show so many chunks before and after each.")] = 0,
    explain: Annotated[bool, typer.Option("--explain", help="Show how it was answered.")] = False,
    record: Annotated[bool, typer.Option("--record", help="Keep it in evaluation_runs.")] = False,
    user: Annotated[str | None, typer.Option(help="Who asks, for the record.")] = None,
    as_json: AsJson = False,
) -> None:
    """Show the chunks that answer a question best: by what they mean, by their words, or by both."""
    from worker import producer

    answer = producer.search(
        text=None if like and not query else query,
        tenant=tenant,
        project=project or None,
        k=results,
        mode=mode,
        filter=_filter(path, filters),
        like=like or None,
        metric=metric,
        fusion=fusion,
        weights=_object("--weights", weights),
        language=language,
        group_by_document=by_document,
        neighbours=neighbours,
        explain=explain,
        record=record,
        user=user,
    )
    if as_json:
        from worker.answers import as_json as written

        emit(written(answer))
    else:
        from worker.cli.answer import show

        show(answer)


_EXAMPLES = {"--filter": '{"file_type": "markdown"}', "--weights": '{"vector": 0.7, "keyword": 0.3}'}


def _filter(paths: list[str] | None, given: str | None) -> dict[str, Any] | None:
    found = _object("--filter", given) or {}
    if paths and "source_path" in found:
        raise IngestError("source paths are given twice", "give --path, or source_path in --filter")
    return found | ({"source_path": paths} if paths else {}) or None


def _object(option: str, given: str | None) -> dict[str, Any] | None:
    if given is None:
        return None
    try:
        found = json.loads(given)
    except ValueError:
        found = None
    except RecursionError:
        raise IngestError(f"{option} is nested too deeply") from None
    if not isinstance(found, dict):
        raise IngestError(f"{option} is not a JSON object", f"for example {option} '{_EXAMPLES[option]}'")
    return found
