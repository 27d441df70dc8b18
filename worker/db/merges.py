"""Merging leaves beside readers and writers, which never wait for it (docs/decisions/0009).

The rows of sealed leaves are copied into one that nobody sees. Deletions reach the copies, too, from
the moment it exists; those that were under way are waited for, and what they deleted is taken out of
the copy. Then one UPDATE shows the copy in place of its sources.
"""

from collections.abc import Sequence

from sqlalchemy import Connection, text

from worker.db.builds import index_name
from worker.db.leaves import postings_name
from worker.db.segments import Segment, advance, in_list
from worker.errors import SchemaError
from worker.types import SegmentState

_COLUMNS = (
    "chunk_id, number, document_id, tenant_id, project_id, chunk_index, char_length, text, heading_path,"
    " language, content_hash, embedding, metadata, created_at, updated_at"
)
# A transaction that began this long after a leaf was emptied knows so: the UPDATE commits at once.
_COMMIT_SECONDS = 10
# How long a session that we may not look into keeps a leaf from being emptied.
_UNKNOWN_SECONDS = 3_600


def copy(connection: Connection, sources: Sequence[Segment], target: Segment) -> int:
    """Copy the live rows of the sources, in one snapshot; gives how many."""
    copied = connection.execute(
        text(f"""
            INSERT INTO {target.leaf} ({_COLUMNS})
            SELECT {_COLUMNS} FROM chunks WHERE segment IN ({_numbers(sources)})""")
    )
    return copied.rowcount


def deleters(connection: Connection, sources: Sequence[Segment]) -> set[str]:
    """Name the transactions that may have deleted in these leaves and are not over.

    pg_locks is read, not waited in: who stands in a lock's queue makes others wait.
    """
    found = connection.execute(
        text("""
            SELECT DISTINCT virtualtransaction FROM pg_locks
            WHERE relation IN (SELECT to_regclass(leaf) FROM unnest(CAST(:leaves AS text[])) AS leaf)
              AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
              AND mode = 'RowExclusiveLock' AND granted"""),
        {"leaves": [source.leaf for source in sources]},
    )
    return set(found.scalars())


def remove_deleted(connection: Connection, sources: Sequence[Segment], target: Segment) -> int:
    """Take out of the copy what its sources do not have any more; gives how many rows."""
    removed = connection.execute(
        text(f"""
            DELETE FROM {target.leaf} t WHERE NOT EXISTS (
                SELECT 1 FROM chunks s
                WHERE s.segment IN ({_numbers(sources)}) AND s.chunk_id = t.chunk_id)""")
    )
    return removed.rowcount


def show(connection: Connection, sources: Sequence[Segment], target: Segment, rows: int) -> None:
    """Put the copy in place of its sources: one statement, so that no search sees both or neither.

    Raises SchemaError where they are not what they were.
    """
    changed = connection.execute(
        text(f"""
            UPDATE segments SET updated_at = clock_timestamp(),
                   state = CASE segment WHEN :target THEN 'sealed' ELSE 'emptied' END,
                   sealed_rows = CASE segment WHEN :target THEN CAST(:rows AS bigint) END
            WHERE segment IN ({_numbers([*sources, target])}) AND state IN ('sealed', 'merging')"""),
        {"target": target.segment, "rows": rows},
    )
    if changed.rowcount != len(sources) + 1:
        raise SchemaError("the segments were changed while they were merged", "run `ingest doctor`")


def is_forgotten(connection: Connection, emptied: Segment) -> bool:
    """Tell whether no transaction is left that may look for rows in an emptied leaf.

    TRUNCATE is not undone for old snapshots: to a search that read the list before, the leaf would
    suddenly be empty.
    """
    found = connection.execute(
        text("""
            SELECT count(*) FROM segments s, pg_stat_activity a
            WHERE s.segment = :segment AND a.datname = current_database() AND a.pid <> pg_backend_pid()
              AND a.backend_type IN ('client backend', 'parallel worker')
              AND CASE WHEN a.state IS NULL THEN s.updated_at > now() - make_interval(secs => :unknown)
                       ELSE a.xact_start < s.updated_at + make_interval(secs => :commit) END"""),
        {"segment": emptied.segment, "unknown": _UNKNOWN_SECONDS, "commit": _COMMIT_SECONDS},
    )
    return int(found.scalar_one()) == 0


def clear(connection: Connection, emptied: Segment) -> None:
    """Make a spare leaf of an emptied one. Call it in a transaction of a short lock_timeout."""
    connection.execute(text(f"TRUNCATE {emptied.leaf}, {postings_name(emptied.segment)}"))
    connection.execute(text(f"DROP INDEX IF EXISTS {index_name(emptied.leaf)}"))
    advance(connection, emptied.segment, SegmentState.SPARE)


def _numbers(sources: Sequence[Segment]) -> str:
    return in_list([source.segment for source in sources])
