"""The commands by name. A command imports what it needs when it runs: `ingest --help` is instant."""

import typer

from worker.cli import (
    add,
    change,
    demo,
    doctor,
    evaluate,
    exporter,
    flower,
    health,
    load,
    maintain,
    migrate,
    pause,
    processes,
    project,
    rate,
    roles,
    search,
    status,
    up,
    verify,
)

_FAMILIES = (
    add, load, status, search, evaluate, rate, change, pause, project, migrate, roles, doctor, health,
    maintain, verify, processes, flower, exporter, up, demo,
)  # fmt: skip


def application() -> typer.Typer:
    """Build the command line."""
    app = typer.Typer(
        name="ingest",
        help="Ingest documents into PostgreSQL + pgvector, search them, and keep it all healthy.",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
    )
    for family in _FAMILIES:
        family.register(app)
    return app
