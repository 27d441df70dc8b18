"""`ingest search`: ask the search worker, show the nearest chunks."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Annotated

import typer

from worker.cli.output import AsJson, Project, Tenant, emit, printable, say
from worker.types import Hit

_SNIPPET = 240
_INDENT = " " * 7


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("search")(search)


def search(
    query: Annotated[str, typer.Argument(help="What to look for, in plain words.")],
    tenant: Tenant = "default",
    project: Project = None,
    results: Annotated[int, typer.Option("-k", "--results", min=1, max=1000, help="At most.")] = 10,
    *,
    as_json: AsJson = False,
) -> None:
    """Show the chunks nearest to a question, nearest first."""
    hits = ask(query, tenant=tenant, project=project, results=results)
    if as_json:
        emit([asdict(hit) for hit in hits])
    elif hits:
        show(query, hits)
    else:
        say("nothing found: no chunk of this tenant and project is searchable")


def ask(query: str, *, tenant: str, project: str | None, results: int) -> list[Hit]:
    """Search; a broker that is away is told from a worker that is. Raises IngestError."""
    from worker import producer
    from worker.broker import require_broker
    from worker.settings import load_settings

    require_broker(load_settings())
    return producer.search(query, tenant=tenant, project=project, k=results)


def show(query: str, hits: Sequence[Hit]) -> None:
    """Write results for people: score, where it stands, what it says."""
    from rich.console import Console
    from rich.text import Text

    console = Console(highlight=False)
    words = [word for word in query.split() if len(word) > 2]  # noqa: PLR2004 -- "a", "in", "of"
    for hit in hits:
        place = f"chunk {hit.number} of {hit.total}"
        head = Text.assemble(
            (f"{hit.score:.3f}", "bold"), "  ", (printable(hit.source_path), "cyan"), f"  {place}"
        )
        console.print(head, soft_wrap=True)
        if hit.heading_path:
            heading = " > ".join(map(printable, hit.heading_path))
            console.print(Text(_INDENT + heading, "dim"), soft_wrap=True)
        body = Text(_INDENT + snippet(hit.text))
        body.highlight_words(words, "bold yellow", case_sensitive=False)
        console.print(body, soft_wrap=True)


def snippet(text: str) -> str:
    """Give the beginning of a chunk as one line."""
    folded = printable(" ".join(text.split()))
    return folded if len(folded) <= _SNIPPET else folded[: _SNIPPET - 1].rstrip() + "…"
