"""When autovacuum visits which table, and how far a VACUUM is.

Revision ID: 0002
Revises: 0001

Storage parameters take a lock that only maintenance and DDL wait for; where an index is being built on a leaf,
this gives up after its lock_timeout and is run again. What was set by hand for the same parameters is replaced.
"""

from sqlalchemy import text

from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

LOCK_TIMEOUT = "SET LOCAL lock_timeout = '5s'"
STATEMENT_TIMEOUT = "SET LOCAL statement_timeout = '60s'"

TABLES = {
    "documents": {
        "autovacuum_vacuum_scale_factor": "0.05",
        "autovacuum_analyze_scale_factor": "0.02",
        "toast.autovacuum_vacuum_scale_factor": "0.05",
    },
    "batches": {"autovacuum_vacuum_scale_factor": "0.01", "autovacuum_analyze_scale_factor": "0.02"},
    "heartbeats": {"autovacuum_vacuum_threshold": "1000", "autovacuum_analyze_threshold": "1000"},
    "evaluation_runs": {
        "autovacuum_vacuum_scale_factor": "0.02",
        "toast.autovacuum_vacuum_scale_factor": "0.02",
    },
}
LEAVES = {
    "chunks": {"autovacuum_vacuum_scale_factor": "0.4", "autovacuum_vacuum_cost_limit": "10000"},
    "postings": {"autovacuum_vacuum_scale_factor": "0.05", "autovacuum_vacuum_insert_threshold": "-1"},
}
TRASH = "chunks_trash"

FUNCTION = """
CREATE FUNCTION vacuums(
    OUT leaf text, OUT phase text, OUT done float, OUT index_pass bigint,
    OUT indexes_done int, OUT indexes_total int, OUT has_graph bool)
RETURNS SETOF record
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
    SELECT c.relname::text, p.phase,
           CASE p.phase WHEN 'vacuuming heap' THEN p.heap_blks_vacuumed::float ELSE p.heap_blks_scanned END
               / nullif(p.heap_blks_total, 0),
           p.index_vacuum_count + 1,
           (to_jsonb(p) ->> 'indexes_processed')::int, (to_jsonb(p) ->> 'indexes_total')::int,
           EXISTS (SELECT 1 FROM pg_index i JOIN pg_class x ON x.oid = i.indexrelid
                   JOIN pg_am m ON m.oid = x.relam WHERE i.indrelid = p.relid AND m.amname = 'hnsw')
    FROM pg_stat_progress_vacuum p
    JOIN pg_class c ON c.oid = p.relid
    WHERE p.datname = current_database();
END;
REVOKE ALL ON FUNCTION vacuums() FROM PUBLIC;
"""


def upgrade() -> None:
    op.execute(LOCK_TIMEOUT)
    op.execute(STATEMENT_TIMEOUT)
    for table, options in _tables().items():
        op.execute(
            f"ALTER TABLE {table} SET ({', '.join(f'{name} = {value}' for name, value in options.items())})"
        )
    op.execute(FUNCTION)


def downgrade() -> None:
    op.execute(LOCK_TIMEOUT)
    op.execute(STATEMENT_TIMEOUT)
    op.execute("DROP FUNCTION vacuums()")
    for table, options in _tables().items():
        op.execute(f"ALTER TABLE {table} RESET ({', '.join(options)})")


def _tables() -> dict[str, dict[str, str]]:
    """Every table with options of its own: the leaves are those that are there by now."""
    found = op.get_bind().execute(
        text("""
            SELECT inhrelid::regclass::text AS leaf, inhparent::regclass::text AS parent FROM pg_inherits
            WHERE inhparent IN ('chunks'::regclass, 'postings'::regclass) ORDER BY 1""")
    )
    return TABLES | {row.leaf: LEAVES[row.parent] for row in found if row.leaf != TRASH}
