"""`ingest demo`: ingest a corpus that is on every machine, search it, stop. What `make run` shows."""

import os
from pathlib import Path
from typing import Annotated

import typer

from worker.cli.output import count, printable, say
from worker.errors import SourceError


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("demo")(demo)


def demo(
    corpus: Annotated[
        Path | None, typer.Argument(help="A folder; without: the sources of Python's standard library.")
    ] = None,
) -> None:
    """Ingest a real corpus on a stack of its own, search it, and stop everything."""
    import sysconfig

    from worker.cli.corpus import STDLIB_QUERIES, documents_of, queries_of
    from worker.cli.inputs import check_path
    from worker.cli.session import open_stack, stack_settings
    from worker.cli.showing import say_next, show_corpus

    folder = Path(os.path.abspath(corpus or sysconfig.get_path("stdlib")))  # noqa: PTH100 -- links stay
    settings = stack_settings(folder)
    check_path(folder, settings)
    documents = list(documents_of(folder, stdlib=corpus is None))
    if not documents:
        raise SourceError(f"no files in {printable(str(folder))}", "name a folder that holds some")
    project = "stdlib" if corpus is None else printable(folder.name) or "root"
    queries = STDLIB_QUERIES if corpus is None else queries_of(documents)
    say(f"{count(len(documents), 'file')} in {printable(str(folder))}, for project {project}")
    with open_stack(settings) as stack:
        stack.start_background()
        say(f"the stack runs; its log is {stack.log}")
        show_corpus(stack, documents, project, queries)
    say_next(project, queries[0] if queries else "a question")
