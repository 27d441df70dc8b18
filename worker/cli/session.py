"""A stack for the duration of one command."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from worker.cli.output import command
from worker.db.migrate import migrate
from worker.settings import Settings, configured_urls, export, load_settings, read_settings
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
    """Start what is missing, in order; inside the block this process uses the stack, migrated."""
    database, broker = configured_urls()
    with running_stack(
        settings.data_dir,
        postgres_version=settings.postgres_version,
        database_url=database,
        broker_url=broker,
        allowed_roots=settings.allowed_roots,
        flower_port=settings.flower_port,
    ) as stack:
        export(stack.settings_env)
        migrate(load_settings())
        yield stack


def greeting(settings: Settings) -> str:
    """Say where things are and what to do from another shell."""
    folder, me = settings.data_dir.resolve(), command()
    return (
        f"Flower       http://{settings.flower_address}:{settings.flower_port}"
        f"  (its login: FLOWER_BASIC_AUTH in {folder / 'stack.env'})\n"
        f"data folder  {folder}\n"
        f"from another shell:\n"
        f"  export DATA_DIR={folder}\n"
        f"  {me} add PATH --wait\n"
        f'  {me} search "a question"\n'
        f"  {me} doctor\n"
        f"Ctrl-C stops everything."
    )
