"""Building an index anew beside its users: REINDEX CONCURRENTLY, and what an interrupted one leaves."""

import logging
from collections.abc import Collection

from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError

from worker.db import builds
from worker.db.engine import describe, is_locked_out, lacks_memory

log = logging.getLogger(__name__)

_DROP_MS = 5_000

# Those of an index that the schema or a segment has. A name of 63 bytes is cut to make room for the ending.
_LEFTOVERS = r"""
SELECT DISTINCT c.oid::regclass::text FROM pg_index i
JOIN pg_class c ON c.oid = i.indexrelid JOIN pg_class t ON t.oid = i.indrelid
JOIN pg_index o ON o.indrelid = t.oid JOIN pg_class b ON b.oid = o.indexrelid,
     regexp_replace(c.relname, '_cc(new|old)\d*$', '') AS stem
WHERE NOT i.indisvalid AND c.relnamespace = current_schema()::regnamespace AND stem <> c.relname
  AND starts_with(b.relname, stem) AND (b.relname = stem OR octet_length(c.relname) = 63)
  AND (b.relispartition OR b.relname = ANY(:ours) OR b.relname = t.relname || '_embedding_idx')
  AND NOT EXISTS (
      -- who builds, vacuums or alters it keeps this lock from the beginning to the end
      SELECT 1 FROM pg_locks l
      WHERE l.relation = t.oid
        AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
        AND l.mode = 'ShareUpdateExclusiveLock' AND l.pid <> pg_backend_pid())
  AND NOT EXISTS (SELECT 1 FROM pg_stat_progress_create_index p WHERE c.oid = p.index_relid)
ORDER BY 1"""


def rebuild(connection: Connection, index: str, ours: Collection[str]) -> None:
    """Build an index anew. Not in a transaction. `ours`: the names of the schema's indexes.

    Where there is no memory to share among parallel workers, one process builds. Raises DBAPIError; what was
    half done is gone by then, as long as the session lives and gets its locks.
    """
    try:
        _rebuild(connection, index, ours)
    except DBAPIError as error:
        if not (lacks_memory(error) and builds.is_parallel(connection)):
            raise
        log.warning("build.alone", extra={"index": index, "reason": "no memory for a parallel one"})
        builds.be_serial(connection)
        _rebuild(connection, index, ours)


def _rebuild(connection: Connection, index: str, ours: Collection[str]) -> None:
    try:
        connection.execute(text(f"REINDEX INDEX CONCURRENTLY {index}"))
    except DBAPIError:
        if not connection.invalidated:
            drop_leftovers(connection, ours)
        raise


def leftovers(connection: Connection, ours: Collection[str]) -> list[str]:
    """Name what interrupted builds left of our indexes, on tables where nobody builds now."""
    return list(connection.execute(text(_LEFTOVERS), {"ours": list(ours)}).scalars())


def drop_leftovers(connection: Connection, ours: Collection[str]) -> list[str]:
    """Drop them: each costs every write its part, and no search uses it. Gives those that are gone.

    One that somebody's transaction keeps is left to the next time.
    """
    return [name for name in leftovers(connection, ours) if drop(connection, name)]


def drop(connection: Connection, index: str) -> bool:
    """Drop an index beside the table's users; False where one of them does not let go of it in time."""
    patience = connection.execute(text("SHOW lock_timeout")).scalar_one()
    connection.execute(text(f"SET lock_timeout = '{_DROP_MS}ms'"))
    try:
        connection.execute(text(f"DROP INDEX CONCURRENTLY IF EXISTS {index}"))
    except DBAPIError as error:
        if connection.invalidated or not is_locked_out(error):
            raise
        log.warning("index.undropped", extra={"index": index, "reason": describe(error)})
        return False
    finally:
        if not connection.invalidated:
            connection.execute(text(f"SET lock_timeout = '{patience}'"))
    return True


def data_folder(connection: Connection) -> str | None:
    """Give the folder of this database's files, where the server is on this machine; None if unknown."""
    found = connection.execute(
        text("""
            SELECT CASE WHEN (inet_server_addr() IS NULL OR inet_server_addr() = inet_client_addr())
                             AND pg_has_role('pg_read_all_settings', 'USAGE')
                   THEN coalesce(nullif(pg_tablespace_location(dattablespace), ''),
                                 current_setting('data_directory')) END
            FROM pg_database WHERE datname = current_database()""")
    )
    folder: str | None = found.scalar_one()
    return folder
