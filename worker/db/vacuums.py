"""VACUUM: which tables need it and why, how it is run beside traffic, and how far it is."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from sqlalchemy import Connection, Row, text

# A table is due with this many dead or newly changed rows, plus this share of its live ones: a fifth
# of what autovacuum waits for by default, since the schedule runs when nobody looks.
DUE_ROWS = 1000
_DUE_SHARE = 0.04
# A table larger than this is also due while the planner knows nothing of it.
KNOWN_BYTES = 1 << 20
# Share of the age at which the server freezes a table by itself, whatever goes on beside: come before that.
FREEZE_SHARE = 0.5
# Five times autovacuum's own pace. A graph costs thousands of pages a row: at the highest limit its repair
# sleeps about as long as it works (docs/decisions/0015).
_COST_LIMIT, _COST_LIMIT_OF_GRAPHS = 1_000, 10_000


class Due(NamedTuple):
    """A table that needs VACUUM. `dead`, `live`: rows. `has_graph`: a vector index goes with it.

    `stale`: the planner knows nothing of it, or not what changed. `aged`: its rows are to be frozen.
    """

    table: str
    dead: int
    live: int
    has_graph: bool
    stale: bool
    aged: bool

    @property
    def is_worn(self) -> bool:
        """Tell whether so many rows are dead that it is due for them alone."""
        return self.dead > DUE_ROWS + _DUE_SHARE * self.live

    @property
    def dead_share(self) -> float:
        """The share of the rows that are dead."""
        return self.dead / max(self.dead + self.live, 1)


def due(connection: Connection) -> list[Due]:
    """Give the tables that need VACUUM, the smallest first."""
    found = connection.execute(
        text(f"""
            SELECT * FROM ({_STATES}) AS states
            WHERE dead > :rows + :share * live OR stale OR aged ORDER BY size_bytes"""),
        {"rows": DUE_ROWS, "share": _DUE_SHARE, "bytes": KNOWN_BYTES, "frozen": FREEZE_SHARE},
    )
    return [Due(row.name, row.dead, row.live, row.has_graph, row.stale, row.aged) for row in found]


def state(connection: Connection, table: str) -> Row[Any]:
    """Give (vacuumed, analyzed, dead): how often each was done by command, and the dead rows now."""
    return connection.execute(
        text("""
            SELECT vacuum_count AS vacuumed, analyze_count AS analyzed, n_dead_tup AS dead
            FROM pg_stat_user_tables
            WHERE relid = to_regclass(quote_ident(:table))"""),
        {"table": table},
    ).one()


def may_vacuum(connection: Connection, table: str) -> bool:
    """Tell whether our role may: VACUUM of another's table is skipped with a mere warning."""
    found = connection.execute(
        text("""
            SELECT pg_has_role(d.datdba, 'USAGE') OR CASE
                WHEN current_setting('server_version_num')::int < 170000 THEN pg_has_role(c.relowner, 'USAGE')
                ELSE has_table_privilege(c.oid, 'MAINTAIN') END
            FROM pg_class c, pg_database d
            WHERE c.oid = to_regclass(quote_ident(:table)) AND d.datname = current_database()"""),
        {"table": table},
    )
    return bool(found.scalar_one())


def vacuum(connection: Connection, table: Due, *, freeze: bool) -> None:
    """Take away what is dead, bring the planner's statistics up to date, and freeze where asked; gently.

    Not in a transaction. SKIP_LOCKED: who holds the table does not queue everybody else behind us.
    """
    limit = _COST_LIMIT_OF_GRAPHS if table.has_graph else _COST_LIMIT
    connection.execute(text(f"SET vacuum_cost_delay = '2ms'; SET vacuum_cost_limit = {limit}"))
    frozen = ", FREEZE" if freeze else ""
    connection.execute(text(f'VACUUM (ANALYZE, SKIP_LOCKED{frozen}) "{table.table}"'))


def analyze(connection: Connection, table: str) -> None:
    """Bring the planner's statistics up to date, unless somebody has locked the table."""
    connection.execute(text(f'ANALYZE (SKIP_LOCKED) "{table}"'))


def oldest_unfrozen(connection: Connection) -> Row[Any]:
    """Give (name, age, share) of the table nearest to a forced VACUUM; `share`: of the way there."""
    return connection.execute(
        text(f"""
            SELECT name, age, round(unfrozen::numeric, 3)::float AS share FROM ({_STATES}) AS states
            ORDER BY unfrozen DESC LIMIT 1"""),
        {"rows": 0, "share": 0, "bytes": KNOWN_BYTES, "frozen": 1},
    ).one()


def under_way(connection: Connection) -> Sequence[Row[Any]]:
    """Give (leaf, phase, done, index_pass, indexes_done, indexes_total, has_graph) of each VACUUM here.

    `done`: the share of the table's pages. The indexes are counted since PostgreSQL 17. The function reads it
    (worker/db/policies.py): the statistics show an ordinary role nothing of others.
    """
    return connection.execute(text("SELECT * FROM vacuums() ORDER BY leaf")).all()


def without_statistics(connection: Connection) -> list[str]:
    """Name the tables that the planner knows nothing of, as after an upgrade of the server."""
    found = connection.execute(
        text(f"SELECT name FROM ({_STATES}) AS states WHERE unknown ORDER BY name"),
        {"rows": 0, "share": 0, "bytes": KNOWN_BYTES, "frozen": 1},
    )
    return list(found.scalars())


# Whose columns we may not read, of that we cannot tell whether it was analysed. What is locked is not
# measured: that would wait for it, and no other table would have its turn.
_STATES = """
SELECT *, unknown OR changed > :rows + :share * live AS stale, unfrozen > :frozen AS aged FROM (
    SELECT c.relname AS name, s.n_dead_tup AS dead, s.n_live_tup AS live, s.n_mod_since_analyze AS changed,
           size_bytes,
           greatest(age(c.relfrozenxid), age(t.relfrozenxid)) AS age,
           greatest(greatest(age(c.relfrozenxid), age(t.relfrozenxid))::float
                        / current_setting('autovacuum_freeze_max_age')::int,
                    greatest(mxid_age(c.relminmxid), mxid_age(t.relminmxid))::float
                        / current_setting('autovacuum_multixact_freeze_max_age')::int) AS unfrozen,
           coalesce(size_bytes > :bytes, false) AND has_table_privilege(c.oid, 'SELECT') AND NOT EXISTS (
               SELECT 1 FROM pg_stats p
               WHERE p.schemaname = current_schema() AND p.tablename = c.relname) AS unknown,
           EXISTS (SELECT 1 FROM pg_index i
                   JOIN pg_class x ON x.oid = i.indexrelid JOIN pg_am m ON m.oid = x.relam
                   WHERE i.indrelid = c.oid AND m.amname = 'hnsw') AS has_graph
    FROM pg_class c JOIN pg_stat_user_tables s ON s.relid = c.oid
    LEFT JOIN pg_class t ON t.oid = c.reltoastrelid
    LEFT JOIN (SELECT DISTINCT relation FROM pg_locks
               WHERE mode = 'AccessExclusiveLock' AND granted
                 AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
              ) AS held ON held.relation = c.oid
    CROSS JOIN LATERAL (
        SELECT CASE WHEN held.relation IS NULL THEN pg_relation_size(c.oid) END AS size_bytes) AS measured
    WHERE c.relnamespace = current_schema()::regnamespace AND c.relkind = 'r') AS known"""
