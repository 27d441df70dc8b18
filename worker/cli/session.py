"""A stack for the duration of one command."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from worker.cli.output import command
from worker.db.logins import PREFIX, role_urls
from worker.db.migrate import migrate
from worker.db.roles import make_roles
from worker.settings import Settings, configured, configured_urls, export, load_settings, read_settings
from worker.stack import Stack, running_stack


def stack_settings(*roots: Path) -> Settings:
    """Give the settings a stack is made by, with more ALLOWED_ROOTS; its URLs are not known yet."""
    database, broker = configured_urls()
    settings = read_settings(
        database_url=database or "postgresql://",
        broker_url=broker or "redis://",
    )
    more = tuple(root.resolve() for root in roots)
    return settings.model_copy(update={"allowed_roots": (*settings.allowed_roots, *more)})


@contextmanager
def open_stack(settings: Settings) -> Iterator[Stack]:
    """Start what is missing, in order; inside the block this process uses the stack, migrated.

    A database of its own gets its roles, and everything connects as these; another has those it was given.
    """
    database, broker = configured_urls()
    with running_stack(
        settings.data_dir,
        postgres_version=settings.postgres_version,
        database_url=database,
        broker_url=broker,
        allowed_roots=settings.allowed_roots,
        flower_port=settings.flower_port,
        metrics_port=settings.metrics_port,
    ) as stack:
        export(stack.settings_env)
        migrate(load_settings())
        if database is None:
            stack.connect_as(_roles(load_settings()))
            export(stack.settings_env)
        yield stack


def _roles(settings: Settings) -> dict[str, str]:
    """Make the roles of the embedded server, which asks for no password: its socket is its owner's alone."""
    make_roles(settings)
    urls = role_urls(settings, PREFIX, {})
    return {
        name: url.render_as_string(hide_password=False)
        for name, url in urls.items()
        if name == "DATABASE_URL" or not configured(name)
    }


def greeting(settings: Settings) -> str:
    """Say where things are and what to do from another shell."""
    folder, me = settings.data_dir.resolve(), command()
    return (
        f"Flower       http://{settings.flower_address}:{settings.flower_port}"
        f"  (its login: FLOWER_BASIC_AUTH in {folder / 'stack.env'})\n"
        f"metrics      http://{settings.metrics_address}:{settings.metrics_port}/metrics\n"
        f"data folder  {folder}\n"
        f"from another shell:\n"
        f"  export DATA_DIR={folder}\n"
        f"  {me} add PATH --wait\n"
        f'  {me} search "a question"\n'
        f"  {me} doctor\n"
        f"Ctrl-C stops everything."
    )
