"""Runs migrations on a connection: the one `ingest migrate` hands over, or the settings' own."""

from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import Connection, create_engine, pool, text
from tenacity import RetryError, Retrying, retry_if_result, stop_after_delay, wait_fixed

from alembic import context
from worker.db.engine import driver_url
from worker.db.migrate import LOCK_PATIENCE_SECONDS
from worker.db.schema import current_revision
from worker.errors import SchemaError
from worker.settings import load_settings

# One migration run at a time in a database; the number has no meaning beyond being ours.
MIGRATION_LOCK = 7_046_029_254_386_353_131


def migrate(connection: Connection) -> None:
    """Run what `alembic` was asked for, each migration in its own transaction."""
    attributes = context.config.attributes
    with _alone(connection, attributes.get("patience", LOCK_PATIENCE_SECONDS)):
        attributes["before"] = _revision(connection)
        context.configure(connection=connection, transaction_per_migration=True)
        with context.begin_transaction():
            context.run_migrations()
        attributes["after"] = _revision(connection)


@contextmanager
def _alone(connection: Connection, patience: float) -> Iterator[None]:
    """Hold the migration lock. Raises SchemaError when another keeps it for `patience` seconds."""
    try:
        Retrying(
            retry=retry_if_result(lambda got: not got), stop=stop_after_delay(patience), wait=wait_fixed(0.2)
        )(_try_lock, connection)
    except RetryError:
        raise SchemaError(
            f"another migration has kept this database for {patience:g} s",
            "wait for it, or end the session that pg_stat_activity shows as `ingest migrate`",
        ) from None
    try:
        yield
    finally:
        connection.rollback()
        if not connection.invalidated:  # else the session is gone, and its lock with it
            _tidy(connection)
            connection.execute(text("SELECT pg_advisory_unlock(:key)"), {"key": MIGRATION_LOCK})
            connection.commit()


def _try_lock(connection: Connection) -> bool:
    """Ask, and let go of the snapshot: one held while waiting would block CREATE INDEX CONCURRENTLY."""
    got = connection.execute(text("SELECT pg_try_advisory_lock(:key)"), {"key": MIGRATION_LOCK}).scalar()
    connection.rollback()
    return bool(got)


def _revision(connection: Connection) -> str | None:
    revision = current_revision(connection)
    connection.rollback()  # Alembic would leave a transaction it finds open to us
    return revision


def _tidy(connection: Connection) -> None:
    """Leave nothing behind at base: Alembic keeps its table, also when the first migration fails."""
    if _revision(connection) is None:
        connection.execute(text("SET LOCAL lock_timeout = '5s'; DROP TABLE IF EXISTS alembic_version"))
        connection.commit()


def main() -> None:
    """Use the caller's connection where there is one."""
    given = context.config.attributes.get("connection")
    if given is not None:
        migrate(given)
        return
    engine = create_engine(driver_url(load_settings().direct_url), poolclass=pool.NullPool)
    with engine.connect() as connection:
        migrate(connection)


main()
