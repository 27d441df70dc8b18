"""Who holds maintenance up: whatever may still look at a state of long ago, or has a lock on the table."""

from typing import Any

from sqlalchemy import Connection, text

# The server's horizon is the oldest of these. Sessions of other databases do not count, replicas do. An
# ordinary role is shown nothing of others' sessions.
_HOLDERS = """
WITH holders AS (
    SELECT CASE a.backend_type WHEN 'walsender' THEN 'replica' ELSE 'session' END AS kind,
           a.pid::text AS name, concat_ws(', ', nullif(a.application_name, ''), a.usename, a.state) AS who,
           extract(epoch FROM clock_timestamp() - a.xact_start)::int AS seconds,
           greatest(age(a.backend_xmin), age(a.backend_xid)) AS age
    FROM pg_stat_activity a
    WHERE a.pid <> pg_backend_pid() AND (a.datname = current_database() OR a.datname IS NULL)
      AND a.backend_type IN ('client backend', 'walsender', 'background worker')
      AND NOT EXISTS (SELECT 1 FROM pg_stat_progress_vacuum p WHERE p.pid = a.pid)
    UNION ALL
    SELECT 'prepared transaction', p.gid, p.owner,
           extract(epoch FROM clock_timestamp() - p.prepared)::int, age(p.transaction)
    FROM pg_prepared_xacts p WHERE p.database = current_database()
    UNION ALL
    SELECT 'replication slot', s.slot_name, CASE WHEN s.active THEN 'active' ELSE 'not in use' END, NULL,
           age(s.xmin)
    FROM pg_replication_slots s)
SELECT kind, name, who, seconds FROM holders
WHERE age IS NOT NULL AND (seconds >= :seconds OR who = 'not in use' OR :seconds = 0)
ORDER BY age DESC LIMIT 1"""
_LOCKERS = """
SELECT 'session' AS kind, a.pid::text AS name,
       concat_ws(', ', nullif(a.application_name, ''), a.usename, a.state) AS who,
       extract(epoch FROM clock_timestamp() - a.xact_start)::int AS seconds
FROM pg_locks l JOIN pg_stat_activity a ON a.pid = l.pid
WHERE l.relation = to_regclass(quote_ident(:table)) AND a.datname = current_database() AND l.granted
  AND a.pid <> pg_backend_pid()
ORDER BY a.xact_start NULLS LAST LIMIT 1"""


def oldest(connection: Connection, seconds: int = 0) -> dict[str, Any] | None:
    """Give (kind, name, who, seconds) of what looks furthest back; None where nothing is seen to.

    `seconds`: since it began; None of slots and replicas, which do not say. Where they are given, only of
    what has lasted that long, or is a slot that nobody reads.
    """
    found = connection.execute(text(_HOLDERS), {"seconds": seconds}).one_or_none()
    return None if found is None else found._asdict()


def holder(connection: Connection, table: str) -> dict[str, Any] | None:
    """Give, in this form, who has a lock on a table that a build waits for, else what looks furthest back."""
    found = connection.execute(text(_LOCKERS), {"table": table}).one_or_none()
    return oldest(connection) if found is None else found._asdict()
