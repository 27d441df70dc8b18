"""The vector index of a sealed leaf built anew, by the settings of today, beside the one that is there."""

from contextlib import suppress

from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from worker.db import builds, rebuilds
from worker.settings import Settings

# One statement: who looks for the index by its name finds the one or the other. No lock that a reader or a
# writer waits for. The row of the segment is locked so that it is not merged at the same moment.
_SWAP = """
DO $$ BEGIN
    PERFORM 1 FROM segments WHERE leaf = '{leaf}' AND state = 'sealed' FOR SHARE;
    IF FOUND THEN
        ALTER INDEX IF EXISTS {name} RENAME TO {name}_ccold;
        ALTER INDEX {name}_ccnew RENAME TO {name};
    END IF;
END $$"""
# Valid ones, too: one that is built and not renamed yet, or renamed and not dropped yet.
_LEFTOVERS = r"""
SELECT c.relname FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid
WHERE c.relnamespace = current_schema()::regnamespace
  AND c.relname ~ '^chunks_s\d+_embedding_idx_cc(new|old)\d*$'
  AND NOT EXISTS (
      -- who builds, vacuums or alters the leaf keeps this lock from the beginning to the end
      SELECT 1 FROM pg_locks l
      WHERE l.relation = i.indrelid
        AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
        AND l.mode = 'ShareUpdateExclusiveLock' AND l.pid <> pg_backend_pid())
ORDER BY 1"""


def rebuild(connection: Connection, leaf: str, settings: Settings) -> bool:
    """Build it; the old one answers until it is there. Not in a transaction.

    Not REINDEX, which would keep what the old one was built with. False where the leaf was merged meanwhile:
    then nothing is left of it. Cut short, it leaves what `drop_leftovers` drops.
    """
    name = builds.index_name(leaf)
    try:
        builds.complete(connection, leaf, settings, f"{name}_ccnew")
        connection.execute(text(_SWAP.format(leaf=leaf, name=name)))
    except DBAPIError:
        with suppress(SQLAlchemyError):  # a lost session, say: what failed is what is told
            drop_leftovers(connection)
        raise
    return f"{name}_ccnew" not in drop_leftovers(connection)


def drop_leftovers(connection: Connection) -> list[str]:
    """Drop what builds that were cut short left beside the indexes of leaves; gives what there was.

    Those of a leaf that somebody works on, or whose readers do not let go of it, are left to the next time.
    """
    names = list(connection.execute(text(_LEFTOVERS)).scalars())
    for name in names:
        rebuilds.drop(connection, name)
    return names
