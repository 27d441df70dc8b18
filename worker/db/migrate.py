"""Bring the schema up to date, and refuse to start on one that does not fit the settings."""

from pathlib import Path

from alembic.config import Config
from alembic.script import ScriptDirectory
from psycopg2 import errors as pg
from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError, OperationalError, ProgrammingError

from alembic import command
from worker.db.engine import describe, reach, single_connection_engine, unavailable
from worker.errors import IngestError, SchemaError
from worker.settings import Settings

# 0.8.2 fixed CVE-2026-3172; 0.8.4 fixed index corruption by VACUUM beside inserts (pgvector CHANGELOG).
OLDEST_PGVECTOR = (0, 8, 2)
ADVISED_PGVECTOR = (0, 8, 4)

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


def newest_revision() -> str | None:
    """Give the revision this program needs."""
    return ScriptDirectory.from_config(script_config()).get_current_head()


def migrate(settings: Settings, revision: str = "head") -> tuple[str | None, str | None]:
    """Upgrade (or, with "base", downgrade) the database; gives the revisions before and after.

    Raises SchemaError when pgvector is missing or may not be installed, DatabaseUnavailableError when
    the server cannot be reached.
    """
    url = settings.direct_url
    try:
        with single_connection_engine(url, "ingest migrate").connect() as connection:
            before = current_revision(connection)
            connection.rollback()
            run = command.downgrade if revision == "base" else command.upgrade
            run(script_config(settings, connection), revision)
            after = current_revision(connection)
            check_schema(connection, settings, after_migration=True) if revision == "head" else None
            return before, after
    except ProgrammingError as error:
        raise _refused(error) from None
    except OperationalError as error:
        if isinstance(error.orig, pg.LockNotAvailable):
            raise SchemaError(
                "the migration waited 5 s for a lock and gave up; nothing was changed",
                "run it again when the longest transaction is over",
            ) from None
        raise unavailable(url, error) from None
    except DBAPIError as error:
        raise _refused(error) from None


def _refused(error: DBAPIError) -> IngestError:
    if isinstance(error.orig, pg.InsufficientPrivilege):
        return SchemaError(
            f"the migration's role may not do this: {describe(error)}",
            "have a superuser run CREATE EXTENSION vector in this database, and grant the role CREATE",
        )
    if isinstance(error.orig, pg.FeatureNotSupported | pg.UndefinedFile):
        return SchemaError(
            f"pgvector is not installed on this PostgreSQL server: {describe(error)}",
            "install pgvector 0.8.4 or newer on the server",
        )
    return SchemaError(f"the migration failed: {describe(error)}", "nothing of the failed step was kept")


def current_revision(connection: Connection) -> str | None:
    """Give the revision the database is at, None before the first migration."""
    known = connection.execute(text("SELECT to_regclass('alembic_version') IS NOT NULL")).scalar()
    return connection.execute(text("SELECT version_num FROM alembic_version")).scalar() if known else None


def pgvector_version(connection: Connection) -> tuple[int, ...] | None:
    """Give the version of the extension in this database, None where it is not installed."""
    version = connection.execute(
        text("SELECT extversion FROM pg_extension WHERE extname = 'vector'")
    ).scalar()
    return tuple(int(part) for part in version.split(".")) if version else None


def check_schema(connection: Connection, settings: Settings, *, after_migration: bool = False) -> None:
    """Refuse a database this process must not work on.

    Raises SchemaError: not migrated, migrated by a newer program, pgvector missing or too old, or
    vectors of another dimension or type than the settings say.
    """
    revision, newest = current_revision(connection), newest_revision()
    if revision is None:
        raise SchemaError("the database is not migrated", "run `ingest migrate`")
    if revision != newest and not after_migration:
        raise SchemaError(
            f"the database is at revision {revision}, this program needs {newest}",
            "run `ingest migrate`, or start the program that belongs to this database",
        )
    _check_pgvector(connection)
    _check_space(connection, settings)


def _check_pgvector(connection: Connection) -> None:
    version = pgvector_version(connection)
    if version is None:
        raise SchemaError("the extension vector is not installed in this database", "run `ingest migrate`")
    if version < OLDEST_PGVECTOR:
        raise SchemaError(
            f"pgvector {'.'.join(map(str, version))} is too old; 0.8.2 is the oldest safe one",
            "upgrade it on the server, then run ALTER EXTENSION vector UPDATE",
        )


def _check_space(connection: Connection, settings: Settings) -> None:
    stored = connection.execute(text("SELECT dimension, column_type FROM embedding_space")).one()
    wanted = (settings.embedding_dimension, settings.embedding_type.value)
    if tuple(stored) != wanted:
        raise SchemaError(
            f"the database holds {stored.column_type}({stored.dimension}) embeddings, "
            f"the settings say {wanted[1]}({wanted[0]})",
            "set EMBEDDING_DIMENSION and EMBEDDING_TYPE to what the database holds, "
            "or ingest into a new database",
        )


def require_schema(settings: Settings) -> None:
    """Check the schema over a fresh connection; raises as `check_schema` and `reach` do."""
    reach(settings.database_url, lambda connection: check_schema(connection, settings))
