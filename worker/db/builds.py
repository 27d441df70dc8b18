"""The vector index of a leaf: built in bulk, beside readers and writers, and never left half done."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, Row, text

from worker.types import EmbeddingType

# The cosine operator class of each column type (pgvector README, "HNSW").
_OPERATORS = {EmbeddingType.VECTOR: "vector_cosine_ops", EmbeddingType.HALFVEC: "halfvec_cosine_ops"}


def index_name(leaf: str) -> str:
    """Name the vector index of a leaf."""
    return f"{leaf}_embedding_idx"


def is_valid(connection: Connection, leaf: str) -> bool | None:
    """Tell whether a leaf's vector index can be used; None where there is none."""
    valid = connection.execute(
        text("SELECT indisvalid FROM pg_index WHERE indexrelid = to_regclass(:name)"),
        {"name": index_name(leaf)},
    ).scalar_one_or_none()
    return None if valid is None else bool(valid)


def drop(connection: Connection, leaf: str) -> None:
    """Drop a leaf's vector index. Call it outside a transaction."""
    connection.execute(text(f"DROP INDEX CONCURRENTLY IF EXISTS {index_name(leaf)}"))


def build(
    connection: Connection, leaf: str, column_type: EmbeddingType, *, m: int, ef_construction: int
) -> None:
    """Build a leaf's vector index. Call it outside a transaction, with no index of that name there.

    CONCURRENTLY: plain CREATE INDEX keeps deletions waiting, and took no less time where it was
    measured. It waits for the transactions that are older than itself. Where it fails it leaves an
    invalid index behind.
    """
    connection.execute(
        text(f"""
            CREATE INDEX CONCURRENTLY {index_name(leaf)} ON {leaf}
            USING hnsw (embedding {_OPERATORS[column_type]})
            WITH (m = {int(m)}, ef_construction = {int(ef_construction)})""")
    )


def prepare(connection: Connection, wait_seconds: int, memory_bytes: int | None, workers: int | None) -> None:
    """Set how long this session's builds wait for others, and what they may use; None is as configured."""
    connection.execute(text(f"SET lock_timeout = '{int(wait_seconds)}s'"))
    if memory_bytes is not None:
        connection.execute(text(f"SET maintenance_work_mem = '{memory_bytes // 1024}kB'"))
    if workers is not None:
        connection.execute(text(f"SET max_parallel_maintenance_workers = {int(workers)}"))


def use_one_process(connection: Connection) -> None:
    """Build without parallel workers, and so without shared memory, in this session."""
    connection.execute(text("SET max_parallel_maintenance_workers = 0"))


def analyze(connection: Connection, leaf: str) -> None:
    """Bring the planner's statistics of a leaf up to date."""
    connection.execute(text(f"ANALYZE {leaf}"))


def is_parallel(connection: Connection) -> bool:
    """Tell whether this session's builds may use parallel workers."""
    workers = connection.execute(text("SHOW max_parallel_maintenance_workers")).scalar_one()
    return int(workers) > 0


def under_way(connection: Connection) -> Sequence[Row[Any]]:
    """Give (leaf, phase, done, blocker, waits_for, since_seconds) of each build in this database.

    `done`: the share of the phase, or NULL. The last three: the session it waits for, what that calls
    itself, and how long its transaction is open; NULL where it waits for nobody.
    """
    return connection.execute(
        text("""
            SELECT p.relid::regclass::text AS leaf, p.phase, p.current_locker_pid AS blocker,
                   coalesce(p.tuples_done::float / nullif(p.tuples_total, 0),
                            p.blocks_done::float / nullif(p.blocks_total, 0)) AS done,
                   coalesce(nullif(a.application_name, ''), a.backend_type) AS waits_for,
                   extract(epoch FROM clock_timestamp() - a.xact_start)::float AS since_seconds
            FROM pg_stat_progress_create_index p
            LEFT JOIN pg_stat_activity a ON a.pid = p.current_locker_pid AND p.current_locker_pid <> 0
            WHERE p.datname = current_database() ORDER BY 1""")
    ).all()
