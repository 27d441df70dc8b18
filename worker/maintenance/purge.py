"""purge: records of finished work older than RETENTION_DAYS; recorded searches have days of their own."""

from collections.abc import Iterator
from typing import Any

from sqlalchemy import Connection, text

from worker.resources import Resources

MOST_ROWS, MOST_PARTS = 10_000, 100

_OLD = {
    "batches": "finished_at < now() - make_interval(days => :days)"
    " AND NOT EXISTS (SELECT 1 FROM documents d WHERE d.batch_id = t.batch_id)",
    "maintenance_runs": "created_at < now() - make_interval(days => :days)",
    "evaluation_runs": "created_at < now() - make_interval(days => :evaluation_days)",
    "heartbeats": "seen_at < now() - interval '1 day'",
}


def run(resources: Resources, connection: Connection) -> dict[str, Any]:
    """Give how many rows went from each table: a million at most, in parts of their own."""
    return {table: sum(_parts(resources, connection, table)) for table in _OLD}


def _parts(resources: Resources, connection: Connection, table: str) -> Iterator[int]:
    for _ in range(MOST_PARTS):
        gone = _delete(resources, connection, table)
        yield gone
        if gone < MOST_ROWS:
            return


def _delete(resources: Resources, connection: Connection, table: str) -> int:
    settings = resources.settings
    gone = connection.execute(
        text(f"""
            DELETE FROM {table} WHERE ctid = ANY(ARRAY(
                SELECT t.ctid FROM {table} t WHERE {_OLD[table]} LIMIT :most))"""),
        {
            "days": settings.retention_days,
            "evaluation_days": settings.evaluation_retention_days,
            "most": MOST_ROWS,
        },
    )
    return gone.rowcount
