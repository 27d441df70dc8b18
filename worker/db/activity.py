"""What is going on at this moment, in questions cheap enough to be asked every second. Read only."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Row, text

from worker.db.batches import Done
from worker.types import TaskName

_MOST = 200
_KINDS = ("ingest", "interactive", "search", "maintenance", "beat")


@dataclass(frozen=True, slots=True)
class Activity:
    """What processes do, and what their queues hold.

    `processes`: (name, kind, slots, seen_seconds). `running`: (worker, batch_id, tenant, lane, documents,
    progress, seconds, expired_seconds) of batches that have a lease; `progress` is as of its last renewal.
    `queued`: (lane, batches, oldest_seconds) of those that nobody has claimed. `chores`: (chore, seconds) of
    those under way, `ran`: (chore, outcome, seconds_ago) of the last run of each that is over, newest first.
    """

    processes: Sequence[Row[Any]]
    running: Sequence[Row[Any]]
    queued: Sequence[Row[Any]]
    chores: Sequence[Row[Any]]
    ran: Sequence[Row[Any]]


def activity(connection: Connection) -> Activity:
    """Give what is going on: of each kind the first few hundred."""
    return Activity(
        _processes(connection),
        _running(connection),
        _queued(connection),
        _chores(connection),
        _ran(connection),
    )


def _processes(connection: Connection) -> Sequence[Row[Any]]:
    return connection.execute(
        text("""
            SELECT name, kind, slots, extract(epoch FROM now() - seen_at)::float AS seen_seconds
            FROM heartbeats ORDER BY array_position(CAST(:kinds AS text[]), kind), name LIMIT :most"""),
        {"kinds": list(_KINDS), "most": _MOST},
    ).all()


def _running(connection: Connection) -> Sequence[Row[Any]]:
    return connection.execute(
        text("""
            SELECT b.worker, b.batch_id, t.name AS tenant, b.lane, b.documents, b.progress,
                   extract(epoch FROM now() - b.claimed_at)::float AS seconds,
                   greatest(extract(epoch FROM now() - b.lease_expires_at), 0)::float AS expired_seconds
            FROM batches b JOIN tenants t USING (tenant_id)
            WHERE b.finished_at IS NULL AND b.state = 'running'
            ORDER BY b.claimed_at, b.batch_id LIMIT :most"""),
        {"most": _MOST},
    ).all()


def _queued(connection: Connection) -> Sequence[Row[Any]]:
    return connection.execute(
        text("""
            SELECT lane, count(*) AS batches,
                   extract(epoch FROM now() - min(published_at))::float AS oldest_seconds
            FROM batches WHERE finished_at IS NULL AND state = 'queued' GROUP BY lane""")
    ).all()


def _chores(connection: Connection) -> Sequence[Row[Any]]:
    return connection.execute(
        text("""
            SELECT chore, extract(epoch FROM now() - started_at)::float AS seconds
            FROM maintenance_runs WHERE outcome = 'running' ORDER BY started_at""")
    ).all()


def _ran(connection: Connection) -> Sequence[Row[Any]]:
    """Take each from the end of its index: in a month there are very many."""
    return connection.execute(
        text("""
            SELECT c.chore, r.outcome, r.seconds_ago
            FROM unnest(CAST(:chores AS text[])) AS c(chore) CROSS JOIN LATERAL (
                SELECT outcome, extract(epoch FROM now() - started_at)::float AS seconds_ago
                FROM maintenance_runs m WHERE m.chore = c.chore AND m.outcome <> 'running'
                ORDER BY m.started_at DESC LIMIT 1) AS r
            ORDER BY r.seconds_ago"""),
        {"chores": [name.chore for name in TaskName if name.chore]},
    ).all()


def done_since(connection: Connection, since: datetime) -> Done:
    """Sum up the batches that ended after `since`."""
    found = connection.execute(
        text("""
            SELECT coalesce(sum(settled), 0)::bigint, coalesce(sum(chunks), 0)::bigint,
                   coalesce(sum(size_bytes), 0)::bigint
            FROM batches WHERE finished_at > :since"""),
        {"since": since},
    )
    return Done(*found.one())
