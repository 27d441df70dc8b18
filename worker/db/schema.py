"""What a database must be for this program to work on it: read often, so without Alembic, which is slow."""

import re

from sqlalchemy import Connection, text

from worker.db.engine import reach
from worker.errors import SchemaError
from worker.settings import Settings

# The migrations in alembic/versions, oldest first; the last is what this program needs.
REVISIONS = ("0001", "0002", "0003", "0004", "0005", "0010", "0011")

# 0.8.2 fixed CVE-2026-3172; 0.8.4 fixed index corruption by VACUUM beside inserts (pgvector CHANGELOG).
OLDEST_PGVECTOR = (0, 8, 2)
ADVISED_PGVECTOR = (0, 8, 4)


def current_revision(connection: Connection) -> str | None:
    """Give the revision the database is at, None before the first migration."""
    known = connection.execute(text("SELECT to_regclass('alembic_version') IS NOT NULL")).scalar()
    return connection.execute(text("SELECT version_num FROM alembic_version")).scalar() if known else None


def shows_tables(connection: Connection) -> bool:
    """Tell whether this role sees our tables, also where it may read few of them."""
    return bool(connection.execute(text("SELECT to_regclass('embedding_space') IS NOT NULL")).scalar())


def is_replica(connection: Connection) -> bool:
    """Tell whether this server repeats another's changes and takes none."""
    return bool(connection.execute(text("SELECT pg_is_in_recovery()")).scalar())


def pgvector_version(connection: Connection) -> tuple[int, ...] | None:
    """Give the version of the extension in this database, None where it is not installed."""
    version = connection.execute(
        text("SELECT extversion FROM pg_extension WHERE extname = 'vector'")
    ).scalar()
    return parsed_version(version) if version else None


def parsed_version(version: str) -> tuple[int, ...]:
    """Read a version; hosted servers add words of their own to it ("0.8.1.google-3")."""
    return tuple(int(number) for number in re.findall(r"\d+", version)[:3])


def check_schema(connection: Connection, settings: Settings) -> None:
    """Refuse a database this process must not work on.

    Raises SchemaError: not migrated, migrated by a newer program, pgvector missing or too old, or
    vectors of another dimension, type or metric than the settings say.
    """
    revision, newest = current_revision(connection), REVISIONS[-1]
    if revision is None:
        raise SchemaError("the database is not migrated", "run `ingest migrate`")
    check_known(revision)
    if revision != newest:
        raise SchemaError(
            f"the database is at revision {revision}, this program needs {newest}", "run `ingest migrate`"
        )
    version = pgvector_version(connection)
    if version is None:
        raise SchemaError("the extension vector is not installed in this database", "run `ingest migrate`")
    check_age(version)
    check_space(connection, settings)


def check_known(revision: str) -> None:
    """Refuse a database that a newer program has migrated. Raises SchemaError."""
    if revision not in REVISIONS:
        raise SchemaError(
            f"the database is at revision {revision}, which this program does not know: it is newer",
            "start the program that belongs to this database, or a newer one",
        )


def check_age(version: tuple[int, ...]) -> None:
    """Refuse a pgvector that is not safe. Raises SchemaError."""
    if version < OLDEST_PGVECTOR:
        raise SchemaError(
            f"pgvector {'.'.join(map(str, version))} is too old; 0.8.2 is the oldest safe one",
            "upgrade it on the server, then run ALTER EXTENSION vector UPDATE",
        )


def check_space(connection: Connection, settings: Settings) -> None:
    """Refuse vectors of another dimension, type or metric than the settings say. Raises SchemaError."""
    stored = connection.execute(
        text("SELECT dimension, column_type, metric FROM embedding_space")
    ).one_or_none()
    if stored is None:
        raise SchemaError(
            "the database does not say which embeddings it holds: embedding_space is empty",
            "put its row back, with the dimension and type of chunks.embedding and the metric",
        )
    held = space_name(stored.dimension, stored.column_type, stored.metric)
    wanted = wanted_space(settings)
    if held != wanted:
        raise SchemaError(
            f"the database holds {held} embeddings, the settings say {wanted}",
            "set EMBEDDING_DIMENSION, EMBEDDING_TYPE and EMBEDDING_METRIC to what the database holds, "
            "or ingest into a new database",
        )


def space_name(dimension: int, column_type: str, metric: str) -> str:
    """Write an embedding space for people."""
    return f"{column_type}({dimension}) {metric}"


def wanted_space(settings: Settings) -> str:
    """Write the embedding space of the settings for people."""
    return space_name(
        settings.embedding_dimension, settings.embedding_type.value, settings.embedding_metric.value
    )


def require_schema(settings: Settings) -> None:
    """Check the schema over a fresh connection; raises as `check_schema` and `reach` do."""
    reach(settings.database_url, lambda connection: check_schema(connection, settings))
