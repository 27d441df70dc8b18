"""Bring the schema up to date."""

from pathlib import Path

from alembic.config import Config
from alembic.util import CommandError
from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError

from alembic import command
from worker.db.engine import describe, is_connection_trouble, single_connection_engine, unavailable
from worker.db.schema import (
    check_age,
    check_known,
    check_schema,
    check_space,
    current_revision,
    parsed_version,
)
from worker.errors import IngestError, SchemaError
from worker.settings import Settings

# How long a migration waits for another one to end.
LOCK_PATIENCE_SECONDS = 600

_PACKAGED = Path(__file__).parent.parent / "_alembic"
_CHECKOUT = Path(__file__).parent.parent.parent / "alembic"


def script_config(settings: Settings | None = None, connection: Connection | None = None) -> Config:
    """Configure Alembic for the scripts of this installation."""
    config = Config()
    folder = _PACKAGED if _PACKAGED.is_dir() else _CHECKOUT
    config.set_main_option("script_location", str(folder).replace("%", "%%"))
    config.attributes["settings"] = settings
    config.attributes["connection"] = connection
    return config


def migrate(
    settings: Settings, revision: str = "head", patience: float = LOCK_PATIENCE_SECONDS
) -> tuple[str | None, str | None]:
    """Upgrade (or, with "base", downgrade) the database; gives the revisions before and after.

    Where another migration runs, waits for it, up to `patience` seconds. Raises SchemaError, with the
    failed step undone, when pgvector is missing or may not be installed or the database does not fit;
    DatabaseUnavailableError when the server cannot be reached.
    """
    url = settings.direct_url
    try:
        with single_connection_engine(url, "ingest migrate").connect() as connection:
            _check_before(connection, settings, upgrade=revision != "base")
            connection.rollback()
            config = script_config(settings, connection)
            config.attributes["patience"] = patience
            (command.downgrade if revision == "base" else command.upgrade)(config, revision)
            if revision == "head":
                check_schema(connection, settings)
            return config.attributes["before"], config.attributes["after"]
    except CommandError as error:
        raise SchemaError(f"there is no such migration: {error}", "run `ingest migrate`") from None
    except DBAPIError as error:
        away = is_connection_trouble(error)
        raise (unavailable(url, error, settings.setting_of(url)) if away else _refused(error)) from None


def _refused(error: DBAPIError) -> IngestError:
    code, said = getattr(error.orig, "pgcode", None), describe(error)
    if code == "42501":
        return SchemaError(
            f"the migration's role may not do this: {said}",
            "have a superuser run CREATE EXTENSION vector in this database, and grant the role CREATE",
        )
    if code in {"0A000", "22023", "58P01"} and "vector" in said:
        return _no_pgvector(said)
    if code == "55P03":
        return SchemaError(
            "a step of the migration waited 5 s for a lock and gave up; nothing of it was kept",
            "run it again when the longest transaction is over",
        )
    if code == "57014":
        return SchemaError(
            "a step of the migration took longer than it may; nothing of it was kept",
            "run it again when the server is less busy",
        )
    return SchemaError(f"the migration failed: {said}", "nothing of the failed step was kept")


def _no_pgvector(said: str) -> SchemaError:
    return SchemaError(
        f"pgvector is not installed on this PostgreSQL server: {said}",
        "install pgvector 0.8.4 or newer on the server",
    )


def _check_before(connection: Connection, settings: Settings, *, upgrade: bool) -> None:
    """Refuse before anything is changed what could only be refused afterwards."""
    revision = current_revision(connection)
    if revision is not None:
        check_known(revision)
    if not upgrade:
        return
    version = connection.execute(
        text("""
            SELECT coalesce(installed_version, default_version) FROM pg_available_extensions
            WHERE name = 'vector'""")
    ).scalar()
    if version is None:
        raise _no_pgvector("it offers no extension named vector")
    check_age(parsed_version(version))
    if revision is not None:
        check_space(connection, settings)
