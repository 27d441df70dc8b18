"""purge: records of finished work older than RETENTION_DAYS; recorded searches have days of their own."""

from collections.abc import Iterator
from typing import Any

from sqlalchemy import text

from worker.maintenance.turn import Turn

MOST_ROWS, MOST_PARTS = 10_000, 100

_OLD = {
    "batches": "finished_at < now() - make_interval(days => :days)"
    " AND NOT EXISTS (SELECT 1 FROM documents d WHERE d.batch_id = t.batch_id)",
    "maintenance_runs": "created_at < now() - make_interval(days => :days)",
    "evaluation_runs": "created_at < now() - make_interval(days => :evaluation_days)",
    "heartbeats": "seen_at < now() - interval '1 day'",
}


def run(turn: Turn) -> dict[str, Any]:
    """Give how many rows went from each table: a million at most, in parts of their own."""
    if turn.dry_run:
        return {f"{table}_to_go": _count(turn, table) for table in _OLD}
    return {table: sum(_parts(turn, table)) for table in _OLD}


def _count(turn: Turn, table: str) -> int:
    counted = turn.connection.execute(
        text(f"SELECT count(*) FROM {table} t WHERE {_OLD[table]}"), _days(turn)
    )
    return int(counted.scalar_one())


def _parts(turn: Turn, table: str) -> Iterator[int]:
    for _ in range(MOST_PARTS):
        gone = _delete(turn, table)
        yield gone
        if gone < MOST_ROWS:
            return


def _delete(turn: Turn, table: str) -> int:
    gone = turn.connection.execute(
        text(f"""
            DELETE FROM {table} WHERE ctid = ANY(ARRAY(
                SELECT t.ctid FROM {table} t WHERE {_OLD[table]} LIMIT :most))"""),
        {**_days(turn), "most": MOST_ROWS},
    )
    return gone.rowcount


def _days(turn: Turn) -> dict[str, int]:
    settings = turn.settings
    return {"days": settings.retention_days, "evaluation_days": settings.evaluation_retention_days}
