"""What `ingest health` reads: who is alive on a host, and whether work moves. Read only."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, Row, text

from worker.types import Lane


def hearts(connection: Connection, host: str | None = None) -> Sequence[Row[Any]]:
    """Give (name, kind, slots, age_seconds, up_seconds) of a host's processes, or of all, newest first."""
    return connection.execute(
        text("""
            SELECT name, kind, slots, extract(epoch FROM now() - seen_at)::float AS age_seconds,
                   extract(epoch FROM now() - created_at)::float AS up_seconds
            FROM heartbeats WHERE CAST(:host AS text) IS NULL OR split_part(name, '@', 2) = :host
            ORDER BY seen_at DESC"""),
        {"host": host},
    ).all()


def stuck_batches(
    connection: Connection, workers: Sequence[str], lanes: Sequence[Lane], seconds: float
) -> Row[Any]:
    """Give (running, queued, finished).

    Batches of over `seconds` ago that these workers run, such of these lanes that nobody has taken, and
    whether these workers have finished one since.
    """
    return connection.execute(
        text("""
            SELECT count(*) FILTER (WHERE state = 'running' AND worker = ANY(:workers)) AS running,
                   count(*) FILTER (WHERE state = 'queued' AND lane = ANY(:lanes)) AS queued,
                   EXISTS (SELECT 1 FROM batches
                           WHERE finished_at > now() - make_interval(secs => :seconds)
                             AND state = 'finished' AND worker = ANY(:workers)) AS finished
            FROM batches
            WHERE finished_at IS NULL
              AND greatest(created_at, published_at) < now() - make_interval(secs => :seconds)"""),
        {"workers": list(workers), "lanes": [lane.value for lane in lanes], "seconds": seconds},
    ).one()


def running_chores(connection: Connection) -> Sequence[str]:
    """Name the chores that run now."""
    found = connection.execute(text("SELECT chore FROM maintenance_runs WHERE outcome = 'running'"))
    return list(found.scalars())


def seconds_since_run(connection: Connection, chore: str) -> float | None:
    """Give how long ago a chore began last; None where it never did."""
    found = connection.execute(
        text("""
            SELECT extract(epoch FROM now() - started_at)::float FROM maintenance_runs
            WHERE chore = :chore ORDER BY started_at DESC LIMIT 1"""),
        {"chore": chore},
    ).scalar()
    return None if found is None else float(found)
