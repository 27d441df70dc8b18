"""Bring the schema up to date, and refuse to start on one that does not fit the settings."""

import re
from pathlib import Path

from alembic.config import Config
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError, ProgrammingError

from alembic import command
from worker.db.engine import describe, reach, single_connection_engine, unavailable
from worker.errors import IngestError, SchemaError
from worker.settings import Settings

# 0.8.2 fixed CVE-2026-3172; 0.8.4 fixed index corruption by VACUUM beside inserts (pgvector CHANGELOG).
OLDEST_PGVECTOR = (0, 8, 2)
ADVISED_PGVECTOR = (0, 8, 4)

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


def newest_revision() -> str | None:
    """Give the revision this program needs."""
    return ScriptDirectory.from_config(script_config()).get_current_head()


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
        code = getattr(error.orig, "pgcode", None)
        raise (unavailable(url, error) if _is_connection_trouble(code) else _refused(code, error)) from None


def _is_connection_trouble(code: str | None) -> bool:
    """Tell whether the session failed, and not the statement: SQLSTATE classes of PostgreSQL's appendix A."""
    return code is None or code.startswith(("08", "28", "3D", "53", "57P"))


def _refused(code: str | None, error: DBAPIError) -> IngestError:
    said = describe(error)
    if code == "42501":
        return SchemaError(
            f"the migration's role may not do this: {said}",
            "have a superuser run CREATE EXTENSION vector in this database, and grant the role CREATE",
        )
    if code in {"0A000", "22023", "58P01"} and "vector" in said:
        return _no_pgvector(said)
    if code == "55P03":
        return SchemaError(
            "the migration waited 5 s for a lock and gave up; nothing was changed",
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


def current_revision(connection: Connection) -> str | None:
    """Give the revision the database is at, None before the first migration."""
    known = connection.execute(text("SELECT to_regclass('alembic_version') IS NOT NULL")).scalar()
    return connection.execute(text("SELECT version_num FROM alembic_version")).scalar() if known else None


def pgvector_version(connection: Connection) -> tuple[int, ...] | None:
    """Give the version of the extension in this database, None where it is not installed."""
    version = connection.execute(
        text("SELECT extversion FROM pg_extension WHERE extname = 'vector'")
    ).scalar()
    return _parsed(version) if version else None


def _parsed(version: str) -> tuple[int, ...]:
    """Read a version; hosted servers add words of their own to it ("0.8.1.google-3")."""
    return tuple(int(number) for number in re.findall(r"\d+", version)[:3])


def check_schema(connection: Connection, settings: Settings) -> None:
    """Refuse a database this process must not work on.

    Raises SchemaError: not migrated, migrated by a newer program, pgvector missing or too old, or
    vectors of another dimension or type than the settings say.
    """
    revision, newest = current_revision(connection), newest_revision()
    if revision is None:
        raise SchemaError("the database is not migrated", "run `ingest migrate`")
    _check_known(revision)
    if revision != newest:
        raise SchemaError(
            f"the database is at revision {revision}, this program needs {newest}", "run `ingest migrate`"
        )
    version = pgvector_version(connection)
    if version is None:
        raise SchemaError("the extension vector is not installed in this database", "run `ingest migrate`")
    _check_age(version)
    _check_space(connection, settings)


def _check_before(connection: Connection, settings: Settings, *, upgrade: bool) -> None:
    """Refuse before anything is changed what could only be refused afterwards."""
    revision = current_revision(connection)
    if revision is not None:
        _check_known(revision)
    if not upgrade:
        return
    version = connection.execute(
        text("""
            SELECT coalesce(installed_version, default_version) FROM pg_available_extensions
            WHERE name = 'vector'""")
    ).scalar()
    if version is None:
        raise _no_pgvector("it offers no extension named vector")
    _check_age(_parsed(version))
    if revision is not None:
        _check_space(connection, settings)


def _check_known(revision: str) -> None:
    known = {script.revision for script in ScriptDirectory.from_config(script_config()).walk_revisions()}
    if revision not in known:
        raise SchemaError(
            f"the database is at revision {revision}, which this program does not know: it is newer",
            "start the program that belongs to this database, or a newer one",
        )


def _check_age(version: tuple[int, ...]) -> None:
    if version < OLDEST_PGVECTOR:
        raise SchemaError(
            f"pgvector {'.'.join(map(str, version))} is too old; 0.8.2 is the oldest safe one",
            "upgrade it on the server, then run ALTER EXTENSION vector UPDATE",
        )


def _check_space(connection: Connection, settings: Settings) -> None:
    stored = connection.execute(text("SELECT dimension, column_type FROM embedding_space")).one_or_none()
    if stored is None:
        raise SchemaError(
            "the database does not say which embeddings it holds: embedding_space is empty",
            "put its row back, with the dimension and type of chunks.embedding",
        )
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
    try:
        reach(settings.database_url, lambda connection: check_schema(connection, settings))
    except ProgrammingError as error:
        raise SchemaError(
            f"the database's role may not read the schema: {describe(error)}",
            "grant it the tables of ingest-worker, or correct DATABASE_URL",
        ) from None
