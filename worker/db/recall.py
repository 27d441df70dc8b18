"""What the chore `recall` asks the database: what to ask for, which graphs there are, which were used."""

import re
from collections.abc import Iterable, Mapping
from itertools import pairwise
from typing import Any, NamedTuple
from uuid import UUID

from sqlalchemy import Connection, text

from worker.db import builds, segments
from worker.settings import Settings
from worker.types import Metric, SegmentState

# Of the recorded searches, so many of the newest are drawn from.
_NEWEST = 1_000
# Rows of one page are often of one document: so many pages are read for each row that is drawn.
_PAGES_EACH = 8
_ORDERED_SCAN = re.compile(r"Index Scan using \S+ on (\S+)")


class Graph(NamedTuple):
    """A sealed segment and its vector index; `graph`: the index's oid, None where none can be used.

    `rows`: those that live, about: as of its last VACUUM or ANALYZE, which a crash does not forget.
    """

    segment: int
    leaf: str
    graph: int | None
    rows: int


def graphs(connection: Connection) -> list[Graph]:
    """Give the sealed segments with their graphs; one whose table is gone is none."""
    found = connection.execute(
        text("""
            SELECT s.segment, s.leaf, i.indexrelid::bigint AS graph,
                   least(s.sealed_rows, nullif(c.reltuples, -1)::bigint) AS rows
            FROM segments s
            JOIN pg_class c ON c.oid = to_regclass(s.leaf)
            LEFT JOIN pg_index i ON i.indexrelid = to_regclass(format(:index, s.leaf)) AND i.indisvalid
            WHERE s.state = 'sealed' ORDER BY s.segment"""),
        {"index": builds.index_name("%s")},
    )
    return [Graph(*row) for row in found]


class Stored(NamedTuple):
    """A chunk that is there: whose it is, and its vector."""

    tenant: str
    chunk_id: UUID
    vector: list[float]


def stored(connection: Connection, leaf: str, many: int) -> list[Stored]:
    """Draw chunks of a leaf at random, each as likely as any other, from some of its pages."""
    found = connection.execute(
        text(f"""
            SELECT t.name, c.chunk_id, c.embedding::text AS written
            FROM {leaf} c TABLESAMPLE SYSTEM (
                least(100, 100.0 * :pages * current_setting('block_size')::int
                           / greatest(pg_relation_size('{leaf}'), 1)))
            JOIN tenants t USING (tenant_id)
            WHERE c.embedding IS NOT NULL ORDER BY random() LIMIT :many"""),
        {"pages": _PAGES_EACH * many, "many": many},
    )
    return [Stored(row.name, row.chunk_id, _numbers(row.written)) for row in found]


def _numbers(written: str) -> list[float]:
    """Read a vector as pgvector writes it."""
    return [float(number) for number in written[1:-1].split(",")]


class Recorded(NamedTuple):
    """A search that was recorded: whose it was, its text, and what else was asked."""

    tenant: str
    text: str
    request: Mapping[str, Any]


def recorded(connection: Connection, metric: Metric, many: int) -> list[Recorded]:
    """Draw recent searches at random, of those that can be asked again: by their text, by this metric."""
    found = connection.execute(
        text("""
            SELECT t.name, r.query, r.request FROM (
                SELECT DISTINCT tenant_id, query, metadata -> 'request' AS request FROM (
                    SELECT * FROM evaluation_runs ORDER BY created_at DESC LIMIT :newest) newest
                WHERE query <> '' AND jsonb_typeof(metadata -> 'request') = 'object'
                  AND NOT metadata -> 'request' ?| '{vector,like,left_out}'
                  AND coalesce(metadata -> 'request' ->> 'mode', '') <> 'keyword'
                  AND coalesce(metadata -> 'request' ->> 'metric', :metric) = :metric) r
            JOIN tenants t USING (tenant_id) ORDER BY random() LIMIT :many"""),
        {"newest": _NEWEST, "metric": metric, "many": many},
    )
    return [Recorded(row.name, row.query, row.request) for row in found]


def searched_by_index(plan: Iterable[str]) -> set[str]:
    """Name the leaves that a plan goes through in the order of a vector index."""
    scans = (
        _ORDERED_SCAN.search(line) for line, below in pairwise(plan) if below.lstrip().startswith("Order By:")
    )
    return {scan[1] for scan in scans if scan}


def times_vacuumed(connection: Connection, leaf: str) -> int:
    """Count how often a leaf was vacuumed by command: one that is locked is left out with a mere warning."""
    found = connection.execute(text("SELECT pg_stat_get_vacuum_count(to_regclass(:leaf))"), {"leaf": leaf})
    return int(found.scalar_one())


def one_process(connection: Connection) -> None:
    """Have the rest of a transaction take one core at most: the others are for searches and writers."""
    connection.exec_driver_sql("SET LOCAL max_parallel_workers_per_gather = 0")


def held_up(connection: Connection, settings: Settings) -> str | None:
    """Say what waits for an index, and should not wait for us, too; None where nothing does."""
    for sealing in segments.in_state(connection, SegmentState.SEALING):
        return f"{sealing.leaf} waits for its first index"
    if not segments.has_room(connection, settings, 0):
        return "ingestion waits for an index"
    return None


def pause(connection: Connection) -> None:
    """Wait a second on the server, where a waiting session can be cancelled."""
    connection.execute(text("SELECT pg_sleep(1)"))
