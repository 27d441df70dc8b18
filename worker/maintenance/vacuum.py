"""vacuum: VACUUM (ANALYZE) of the tables that need it, smallest first."""

from typing import Any

from sqlalchemy import Connection, text

from worker.db import builds
from worker.maintenance.turn import Turn

MOST_TABLES = 20
# A table is due with this many dead or newly changed rows, plus this share of its live ones: a fifth
# of what autovacuum waits for by default, since the schedule runs when nobody looks.
_DUE_ROWS = 1000
_DUE_SHARE = 0.04
# A table larger than this is also due while the planner knows nothing of it.
_DUE_BYTES = 1 << 20


def run(turn: Turn) -> dict[str, Any]:
    """Give the tables that were vacuumed, those somebody had locked, and those still due."""
    connection = turn.connection
    due = _due(connection)
    if turn.dry_run:
        return {"to_vacuum": due}
    done: list[str] = []
    locked: list[str] = []
    for table in due[:MOST_TABLES]:
        before = _times(connection, table)
        builds.vacuum(connection, table)
        (done if _times(connection, table) > before else locked).append(table)
    return {"vacuumed": done, "locked": locked, "still_due": due[MOST_TABLES:]}


def _times(connection: Connection, table: str) -> int:
    """Count the times a table was vacuumed by command: one that is locked is skipped with a mere warning."""
    found = connection.execute(
        text("SELECT vacuum_count FROM pg_stat_user_tables WHERE relid = to_regclass(quote_ident(:table))"),
        {"table": table},
    )
    return int(found.scalar_one())


def _due(connection: Connection) -> list[str]:
    found = connection.execute(
        text("""
            SELECT s.relname FROM pg_stat_user_tables s
            JOIN pg_class c ON c.oid = s.relid
            WHERE s.schemaname = current_schema()
              AND (greatest(s.n_dead_tup, s.n_mod_since_analyze) > :rows + :share * s.n_live_tup
                   -- as after an upgrade of the server: without them searches do without vector indexes
                   OR pg_relation_size(c.oid) > :bytes AND NOT EXISTS (
                       SELECT 1 FROM pg_stats p
                       WHERE p.schemaname = s.schemaname AND p.tablename = s.relname))
            ORDER BY pg_relation_size(c.oid)"""),
        {"rows": _DUE_ROWS, "share": _DUE_SHARE, "bytes": _DUE_BYTES},
    )
    return list(found.scalars())
