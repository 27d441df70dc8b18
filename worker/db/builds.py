"""The vector index of a leaf: built in bulk, beside readers and writers, and never left half done."""

import logging
from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, Row, text
from sqlalchemy.exc import DBAPIError

from worker.db.engine import lacks_memory
from worker.settings import Settings
from worker.types import Metric

log = logging.getLogger(__name__)

# A build waits for the transactions that began before it; this is longer than any of ours.
WAIT_SECONDS = 900
LARGE = 100_000  # rows
_MOST_CANDIDATES = 1000  # pgvector's
# The operator class of each metric, after the name of the column's type (pgvector README, "HNSW").
_OPERATORS = {Metric.COSINE: "cosine_ops", Metric.L2: "l2_ops", Metric.INNER_PRODUCT: "ip_ops"}


def index_name(leaf: str) -> str:
    """Name the vector index of a leaf."""
    return f"{leaf}_embedding_idx"


def is_valid(connection: Connection, leaf: str) -> bool:
    """Tell whether a leaf has a vector index that can be used."""
    valid = connection.execute(
        text("SELECT indisvalid FROM pg_index WHERE indexrelid = to_regclass(:name)"),
        {"name": index_name(leaf)},
    ).scalar_one_or_none()
    return bool(valid)


def size_of(connection: Connection, index: str) -> int:
    """Give the bytes of an index."""
    found = connection.execute(text("SELECT pg_relation_size(CAST(:index AS regclass))"), {"index": index})
    return int(found.scalar_one())


def complete(connection: Connection, leaf: str, settings: Settings, name: str | None = None) -> None:
    """Build a leaf's vector index, in place of what an interrupted build left. Not in a transaction.

    Where the server has no memory to share among parallel workers (/dev/shm, which containers keep
    small), one process builds.
    """
    name = name or index_name(leaf)
    try:
        _build(connection, leaf, settings, name)
    except DBAPIError as error:
        if not (lacks_memory(error) and is_parallel(connection)):
            raise
        log.warning("build.alone", extra={"leaf": leaf, "reason": "no memory for a parallel one"})
        be_serial(connection)
        _build(connection, leaf, settings, name)


def ef_construction(connection: Connection, leaf: str, settings: Settings) -> int:
    """Give how many candidates a build looks at: twice as many in a large leaf.

    The more rows a graph has, the more of them it must be searched by to be found at all: better neighbours
    cost half as long again once, more candidates would cost each search (docs/decisions/0013).
    """
    rows = connection.execute(text(f"SELECT count(*) FROM (SELECT 1 FROM {leaf} LIMIT {LARGE + 1}) counted"))
    return min(settings.hnsw_ef_construction * (2 if rows.scalar_one() > LARGE else 1), _MOST_CANDIDATES)


def _build(connection: Connection, leaf: str, settings: Settings, name: str) -> None:
    """CONCURRENTLY: plain CREATE INDEX keeps deletions waiting, and took no less time where measured."""
    connection.execute(text(f"DROP INDEX CONCURRENTLY IF EXISTS {name}"))
    connection.execute(
        text(f"""
            CREATE INDEX CONCURRENTLY {name} ON {leaf}
            USING hnsw (embedding {settings.embedding_type.value}_{_OPERATORS[settings.embedding_metric]})
            WITH (m = {settings.hnsw_m}, ef_construction = {ef_construction(connection, leaf, settings)})""")
    )


def prepare(connection: Connection, settings: Settings) -> None:
    """Set how long this session's builds wait for others, and what they may use where settings say so."""
    connection.execute(text(f"SET lock_timeout = '{WAIT_SECONDS}s'"))
    if settings.build_memory_bytes is not None:
        connection.execute(text(f"SET maintenance_work_mem = '{settings.build_memory_bytes // 1024}kB'"))
    if settings.build_workers is not None:
        connection.execute(text(f"SET max_parallel_maintenance_workers = {settings.build_workers}"))


def analyze(connection: Connection, leaf: str) -> None:
    """Bring the planner's statistics of a leaf up to date."""
    connection.execute(text(f"ANALYZE {leaf}"))


def vacuum(connection: Connection, table: str) -> None:
    """Take away what was deleted.

    SKIP_LOCKED: who holds the table now does not queue everybody else behind us.
    """
    connection.execute(text(f'VACUUM (ANALYZE, SKIP_LOCKED) "{table}"'))


def is_parallel(connection: Connection) -> bool:
    """Tell whether several processes share a build of this session."""
    workers = connection.execute(text("SHOW max_parallel_maintenance_workers")).scalar_one()
    return int(workers) > 0


def be_serial(connection: Connection) -> None:
    """Have one process do each build of this session from now on."""
    connection.execute(text("SET max_parallel_maintenance_workers = 0"))


def is_building(connection: Connection) -> bool:
    """Tell whether another session builds an index in this database."""
    found = connection.execute(
        text("""
            SELECT EXISTS (SELECT 1 FROM pg_stat_progress_create_index
                           WHERE datname = current_database() AND pid <> pg_backend_pid())""")
    )
    return bool(found.scalar_one())


def under_way(connection: Connection) -> Sequence[Row[Any]]:
    """Give (leaf, phase, done, blocker, waits_for, since_seconds) of each build in this database.

    `done`: the share of the phase, or NULL. The last three: the session it waits for, what that calls
    itself, and how long its transaction is open; NULL where it waits for nobody. The function reads it
    (worker/db/policies.py): the statistics show an ordinary role nothing of others.
    """
    return connection.execute(text("SELECT * FROM index_builds() ORDER BY leaf")).all()
