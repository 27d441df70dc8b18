"""What the exporter asks the database: read only, and bounded however much there is.

No row is read for each document or run: counts come from an index alone, the rest from what is
unfinished, from the last row of each chore, and from the server's statistics.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Row, text

from worker.db import operations, recall_history, segments
from worker.db.pauses import HOLDING
from worker.db.recall_history import Latest
from worker.types import Lane, Status


@dataclass(frozen=True, slots=True)
class Sample:
    """The state at one moment. Ages are seconds; rows are named as the statements below name them.

    `oldest_waiting`: by lane, of documents that are ready and not settled. `batches`: lane, state, batches,
    oldest_seconds, held_up. `segments`: state, segments, rows. `hearts`: kind, alive, stale, slots,
    age_seconds, up_seconds. `chores`: rows of `operations.last_runs`; `running`: the age of those that run.
    `pauses`: how many stand.
    """

    oldest_waiting: Mapping[str, float]
    batches: Sequence[Row[Any]]
    segments: Sequence[Row[Any]]
    open_segment: Row[Any] | None
    unsealed_rows: int
    hearts: Sequence[Row[Any]]
    chores: Sequence[Row[Any]]
    running: Mapping[str, float]
    recall: Latest
    pauses: int
    freeze_age: int
    freeze_age_limit: int


def sample(connection: Connection, heartbeat_seconds: int) -> Sample:
    """Give the state now."""
    freeze = _freeze(connection)
    return Sample(
        oldest_waiting=_oldest_waiting(connection),
        batches=_batches(connection),
        segments=_segments(connection),
        open_segment=_open_segment(connection),
        unsealed_rows=segments.unsealed_rows(connection),
        hearts=_hearts(connection, heartbeat_seconds * operations.STALE_AFTER),
        chores=operations.last_runs(connection),
        running=_running(connection),
        recall=recall_history.latest(connection),
        pauses=connection.execute(text("SELECT count(*) FROM pauses")).scalar_one(),
        freeze_age=freeze.age,
        freeze_age_limit=freeze.age_limit,
    )


def counts(connection: Connection) -> dict[str, int]:
    """Count the live documents by status: an index-only scan, which reads 8 MB of a million."""
    found = connection.execute(
        text("SELECT status, count(*) AS documents FROM documents WHERE deleted_at IS NULL GROUP BY status")
    )
    return dict.fromkeys(Status, 0) | {Status(row.status): row.documents for row in found}


# As the partial indexes documents_waiting_idx and documents_waiting_project_idx say it.
_FIRST = """
    SELECT d.queued_at FROM documents d
    WHERE d.lane = l.lane AND d.tenant_id = t.tenant_id AND d.status = 'pending' AND d.batch_id IS NULL
      AND d.deleted_at IS NULL AND d.queued_at <= now() {which}
    ORDER BY d.queued_at LIMIT 1"""
# What of a tenant's lane is paused: "" all of it, else a project of it.
_PAUSED = """EXISTS (
    SELECT FROM pauses s WHERE (s.lane IS NULL OR s.lane = l.lane) AND (
        s.tenant_id IS NULL OR s.tenant_id = t.tenant_id) AND s.project_id {which})"""
_OLDEST_WAITING = f"""
WITH l AS (SELECT unnest(CAST(:lanes AS text[])) AS lane),
lt AS (SELECT l.lane, t.tenant_id, {_PAUSED.format(which="IS NOT NULL")} AS partly
       FROM l CROSS JOIN tenants t WHERE NOT {_PAUSED.format(which="IS NULL")})
SELECT lane, extract(epoch FROM now() - min(queued_at))::float AS age FROM (
    SELECT l.lane, first.queued_at FROM lt l JOIN tenants t USING (tenant_id)
    CROSS JOIN LATERAL ({_FIRST.format(which="")}) first WHERE NOT l.partly
    UNION ALL
    SELECT l.lane, first.queued_at FROM lt l JOIN tenants t USING (tenant_id)
    CROSS JOIN LATERAL ({_FIRST.format(which="AND d.project_id IS NULL")}) first WHERE l.partly
    UNION ALL
    SELECT l.lane, first.queued_at
    FROM lt l JOIN tenants t USING (tenant_id) JOIN projects p USING (tenant_id)
    CROSS JOIN LATERAL ({_FIRST.format(which="AND d.project_id = p.project_id")}) first
    WHERE l.partly AND NOT {_PAUSED.format(which="= p.project_id")}
    UNION ALL
    SELECT d.lane, d.queued_at FROM batches b JOIN documents d ON d.batch_id = b.batch_id
    WHERE b.finished_at IS NULL AND d.deleted_at IS NULL AND (
        d.status = 'processing'
        OR d.status = 'pending' AND NOT EXISTS (SELECT FROM pauses s WHERE {HOLDING}))) AS waiting
GROUP BY lane"""


def _oldest_waiting(connection: Connection) -> dict[str, float]:
    """Look at the first of each tenant's queue, and at what is in a batch: both end soon in an index.

    What is paused is left out: it waits because somebody said so.
    """
    found = connection.execute(text(_OLDEST_WAITING), {"lanes": [lane.value for lane in Lane]})
    return {row.lane: row.age for row in found}


def _batches(connection: Connection) -> Sequence[Row[Any]]:
    return connection.execute(
        text("""
            SELECT lane, state, count(*) AS batches,
                   extract(epoch FROM now() - min(published_at))::float AS oldest_seconds,
                   count(trouble) AS held_up
            FROM batches WHERE finished_at IS NULL GROUP BY lane, state""")
    ).all()


def _segments(connection: Connection) -> Sequence[Row[Any]]:
    return connection.execute(
        text("""
            SELECT state, count(*) AS segments,
                   sum(coalesce(sealed_rows, pg_stat_get_live_tuples(to_regclass(leaf)), 0))::bigint AS rows
            FROM segments GROUP BY state""")
    ).all()


def _open_segment(connection: Connection) -> Row[Any] | None:
    """Give rows, by the server's statistics, and age of the segment that takes the rows."""
    return connection.execute(
        text("""
            SELECT coalesce(pg_stat_get_live_tuples(to_regclass(leaf)), 0) AS rows,
                   extract(epoch FROM now() - updated_at)::float AS age_seconds
            FROM segments WHERE state = 'open'""")
    ).one_or_none()


def _hearts(connection: Connection, seconds: int) -> Sequence[Row[Any]]:
    return connection.execute(
        text("""
            SELECT kind, count(*) FILTER (WHERE fresh) AS alive, count(*) FILTER (WHERE NOT fresh) AS stale,
                   coalesce(sum(slots) FILTER (WHERE fresh), 0) AS slots, min(age)::float AS age_seconds,
                   max(up)::float AS up_seconds
            FROM (SELECT kind, slots, extract(epoch FROM now() - seen_at) AS age,
                         extract(epoch FROM now() - created_at) AS up,
                         seen_at > now() - make_interval(secs => :seconds) AS fresh FROM heartbeats) AS heard
            GROUP BY kind"""),
        {"seconds": seconds},
    ).all()


def _running(connection: Connection) -> dict[str, float]:
    found = connection.execute(
        text("""
            SELECT chore, extract(epoch FROM now() - started_at)::float AS age
            FROM maintenance_runs WHERE outcome = 'running'""")
    )
    return {row.chore: row.age for row in found}


def _freeze(connection: Connection) -> Row[Any]:
    return connection.execute(
        text("""
            SELECT age(datfrozenxid) AS age, current_setting('autovacuum_freeze_max_age')::int AS age_limit
            FROM pg_database WHERE datname = current_database()""")
    ).one()
