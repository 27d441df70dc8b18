"""Runs migrations on a connection: the one `ingest migrate` hands over, or the settings' own."""

from sqlalchemy import Connection, create_engine, pool, text

from alembic import context
from worker.db.engine import driver_url
from worker.settings import load_settings

# One migration run at a time, on every database of ours; the number has no meaning beyond being ours.
MIGRATION_LOCK = 7_046_029_254_386_353_131


def migrate(connection: Connection) -> None:
    """Run what `alembic` was asked for, each migration in its own transaction."""
    connection.execute(text("SELECT pg_advisory_lock(:key)"), {"key": MIGRATION_LOCK})
    connection.commit()
    try:
        context.configure(connection=connection, transaction_per_migration=True)
        with context.begin_transaction():
            context.run_migrations()
    finally:
        connection.rollback()
        connection.execute(text("SELECT pg_advisory_unlock(:key)"), {"key": MIGRATION_LOCK})
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
