"""`ingest project`: what holds for all documents of a project."""

from typing import Annotated

import typer

from worker.cli.output import Tenant, printable, say


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("project")(project)


def project(
    name: Annotated[str, typer.Argument(help="The project; made where it is new.")],
    language: Annotated[str, typer.Option(help="What its documents are in: german, none, …")],
    tenant: Tenant = "default",
) -> None:
    """Say which language a project's documents are in, for searches by words.

    A document that names its own keeps that. Documents that are there take it when they are submitted again.
    """
    from worker import producer

    producer.set_language(language, project=name, tenant=tenant)
    say(f"documents of {printable(name)} are in {language}, from their next submission on")
