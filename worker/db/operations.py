"""`heartbeats` and `maintenance_runs`: who is alive, and what the schedule did."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, Row, text

from worker.types import TaskName

# A heartbeat older than this many of its intervals is a dead worker's.
STALE_AFTER = 4


def beat_heart(connection: Connection, name: str, kind: str, slots: int, pid: int) -> None:
    """Record that a process is alive now. The database's clock counts."""
    connection.execute(
        text("""
            INSERT INTO heartbeats (name, kind, slots, pid) VALUES (:name, :kind, :slots, :pid)
            ON CONFLICT (name) DO UPDATE SET kind = excluded.kind, slots = excluded.slots,
                pid = excluded.pid, seen_at = now(), updated_at = now()"""),
        {"name": name, "kind": kind, "slots": slots, "pid": pid},
    )


def stop_heart(connection: Connection, name: str) -> None:
    """Forget a process that ends in order."""
    connection.execute(text("DELETE FROM heartbeats WHERE name = :name"), {"name": name})


def live_slots(connection: Connection, kind: str, heartbeat_seconds: int) -> int:
    """Count the slots of living workers of a kind."""
    found = connection.execute(
        text("""
            SELECT coalesce(sum(slots), 0) FROM heartbeats
            WHERE kind = :kind AND seen_at > now() - make_interval(secs => :seconds)"""),
        {"kind": kind, "seconds": heartbeat_seconds * STALE_AFTER},
    )
    return int(found.scalar_one())


def lock_chore(connection: Connection, chore: str) -> bool:
    """Take a chore's lock for this session; False where it is running elsewhere."""
    key = int.from_bytes(hashlib.sha256(f"ingest chore {chore}".encode()).digest()[:8], signed=True)
    return bool(connection.execute(text("SELECT pg_try_advisory_lock(:key)"), {"key": key}).scalar())


def open_run(connection: Connection, chore: str) -> UUID:
    """Record that a chore began."""
    run_id: UUID = connection.execute(
        text("INSERT INTO maintenance_runs (chore, outcome) VALUES (:chore, 'running') RETURNING run_id"),
        {"chore": chore},
    ).scalar_one()
    return run_id


def close_run(
    connection: Connection, run_id: UUID, outcome: str, details: Mapping[str, Any], error: str | None = None
) -> None:
    """Record how a chore ended."""
    connection.execute(
        text("""
            UPDATE maintenance_runs SET outcome = :outcome, details = CAST(:details AS jsonb),
                   error_message = :error, finished_at = now(), updated_at = now()
            WHERE run_id = :run_id"""),
        {"run_id": run_id, "outcome": outcome, "details": json.dumps(details), "error": error},
    )


def last_runs(connection: Connection) -> Sequence[Row[Any]]:
    """Give the last finished run of each chore that had one, as far as the clock says.

    As (chore, outcome, details, error_message, seconds_ago, run_seconds). Each is taken from the end of its
    index: there are a million in a month. One that began later than now did so before the clock was set back.
    """
    return connection.execute(
        text("""
            SELECT c.chore, r.* FROM unnest(CAST(:chores AS text[])) AS c(chore) CROSS JOIN LATERAL (
                SELECT outcome, details, error_message,
                       extract(epoch FROM now() - started_at)::float AS seconds_ago,
                       extract(epoch FROM finished_at - started_at)::float AS run_seconds
                FROM maintenance_runs m WHERE m.chore = c.chore AND m.finished_at IS NOT NULL
                  AND m.started_at <= now()
                ORDER BY m.started_at DESC LIMIT 1) AS r"""),
        {"chores": [name.chore for name in TaskName if name.chore]},
    ).all()


def last_details(connection: Connection, chore: str) -> dict[str, Any]:
    """Give what the last run of a chore found and did; nothing where none is known to have ended well."""
    found = connection.execute(
        text("""
            SELECT details FROM maintenance_runs WHERE chore = :chore AND outcome = 'done'
              AND started_at <= now()
            ORDER BY started_at DESC LIMIT 1"""),
        {"chore": chore},
    ).scalar_one_or_none()
    return found or {}


def ran_since(connection: Connection, chore: str, since: datetime) -> bool:
    """Tell whether a chore has begun and ended well after `since`.

    One that began later than now did so before the clock was set back: it says nothing.
    """
    found = connection.execute(
        text("""
            SELECT EXISTS (SELECT 1 FROM maintenance_runs
                           WHERE chore = :chore AND outcome = 'done'
                             AND started_at > :since AND started_at <= clock_timestamp())"""),
        {"chore": chore, "since": since},
    )
    return bool(found.scalar_one())


def close_dead_runs(connection: Connection, chore: str) -> int:
    """Close the runs of a chore that were cut short. Call it holding the chore's lock."""
    closed = connection.execute(
        text("""
            UPDATE maintenance_runs SET outcome = 'failed', error_message = 'cut short', finished_at = now(),
                   updated_at = now()
            WHERE chore = :chore AND outcome = 'running'"""),
        {"chore": chore},
    )
    return closed.rowcount
