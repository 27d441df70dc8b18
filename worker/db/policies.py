"""Row-level security: which rows a role sees that does not own the tables, and who is meant to see more.

The policies are on parents only: a leaf is nobody's but its owner's, for want of grants. They are not
forced: the owner, and who inherits from it, works over all tenants. So do the roles that
`worker/db/roles.py` gives policies of their own.
"""

from sqlalchemy import Connection, text

# Every table that bears a tenant. Its column is `tenant_id` in each.
TENANT_TABLES = (
    "tenants", "projects", "pauses", "batches", "documents", "chunks", "postings", "evaluation_runs",
)  # fmt: skip
POLICY = "tenant"

# Behind the transaction that set it, the setting is the empty string. A statement that says the tenant,
# too, has both compared once, before a leaf is read: both are constants equal to one column.
MINE = "tenant_id = nullif(current_setting('app.tenant', true), '')::uuid"

# Names in their bodies are looked up when they are made, not in the path of who calls them.
FUNCTIONS = {
    # from a name to an id: the search role sees no other row of `tenants` than its own
    "tenant_named(text)": """
CREATE FUNCTION tenant_named(wanted text) RETURNS uuid
LANGUAGE sql STABLE STRICT SECURITY DEFINER SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC SELECT t.tenant_id FROM tenants t WHERE t.name = wanted; END""",
    # what index builds wait for, without the statements of others, which pg_read_all_stats shows
    "index_builds()": """
CREATE FUNCTION index_builds(
    OUT leaf text, OUT phase text, OUT done float,
    OUT blocker int, OUT waits_for text, OUT since_seconds float)
RETURNS SETOF record
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
    SELECT c.relname::text, p.phase,
           coalesce(p.tuples_done::float / nullif(p.tuples_total, 0),
                    p.blocks_done::float / nullif(p.blocks_total, 0)),
           p.current_locker_pid::int, coalesce(nullif(a.application_name, ''), a.backend_type),
           extract(epoch FROM clock_timestamp() - a.xact_start)::float
    FROM pg_stat_progress_create_index p
    JOIN pg_class c ON c.oid = p.relid
    LEFT JOIN pg_stat_activity a ON a.pid = p.current_locker_pid AND p.current_locker_pid <> 0
    WHERE p.datname = current_database();
END""",
    # how far VACUUM is, autovacuum's too; by way of JSON, as PostgreSQL 16 does not count indexes
    "vacuums()": """
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
END""",
}


def statements() -> list[str]:
    """Give the DDL that binds roles to a tenant, in order."""
    bound = [statement for table in TENANT_TABLES for statement in binding(table)]
    closed = [f"REVOKE ALL ON FUNCTION {name} FROM PUBLIC" for name in FUNCTIONS]
    return [*bound, *FUNCTIONS.values(), *closed]


def binding(table: str) -> list[str]:
    """Give the DDL that binds roles to their tenant in one table."""
    return [
        f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY",
        f"CREATE POLICY {POLICY} ON {table} USING ({MINE})",
    ]


def repair(connection: Connection) -> None:
    """Bind roles to their tenant wherever somebody undid it."""
    for table in TENANT_TABLES:
        enabled, other = connection.execute(
            text(f"""
                SELECT c.relrowsecurity, NOT {_SOUND.format(policy="p")} FROM pg_class c
                LEFT JOIN pg_policy p ON p.polrelid = c.oid AND p.polname = :policy
                WHERE c.oid = CAST(:table AS regclass)"""),
            {"table": table, "policy": POLICY, "mine": _MINE_AS_STORED},
        ).one()
        enable, bind = binding(table)
        if not enabled:
            connection.execute(text(enable))
        if other is not False:
            connection.execute(text(f"DROP POLICY IF EXISTS {POLICY} ON {table}"))
            connection.execute(text(bind))


def loopholes(connection: Connection, role: str | None = None) -> list[str]:
    """Say what lets a role, or ours, see more than the tenant that is set, in words that follow its name."""
    found = connection.execute(
        text(_LOOPHOLES.format(sound=_SOUND.format(policy="p"))),
        {"role": role, "tables": list(TENANT_TABLES), "policy": POLICY, "mine": _MINE_AS_STORED},
    )
    return list(found.scalars())


def is_blind(connection: Connection) -> bool:
    """Tell whether our role is bound to one tenant: submitting and ingesting need all of them."""
    found = connection.execute(
        text("""
            SELECT row_security_active('documents') AND NOT EXISTS (
                SELECT 1 FROM pg_policy, unnest(polroles) AS granted
                WHERE polrelid = 'documents'::regclass AND granted <> 0
                  AND pg_has_role(granted, 'USAGE'))""")
    )
    return bool(found.scalar_one())


# As PostgreSQL writes it back.
_MINE_AS_STORED = "(tenant_id = (NULLIF(current_setting('app.tenant'::text, true), ''::text))::uuid)"
_SOUND = """(
    {policy}.polcmd = '*' AND {policy}.polroles = '{{0}}' AND {policy}.polpermissive
    AND pg_get_expr({policy}.polqual, {policy}.polrelid) = :mine AND {policy}.polwithcheck IS NULL)"""
_LOOPHOLES = r"""
WITH asked AS (SELECT * FROM pg_roles WHERE rolname = coalesce(CAST(:role AS name), current_user)),
bound AS (SELECT c.* FROM pg_class c, unnest(CAST(:tables AS regclass[])) AS given WHERE c.oid = given),
leaves AS (
    SELECT c.* FROM pg_inherits h JOIN bound ON h.inhparent = bound.oid JOIN pg_class c ON c.oid = h.inhrelid)
SELECT 'is a superuser' FROM asked WHERE rolsuper
UNION ALL
SELECT 'has BYPASSRLS' FROM asked WHERE rolbypassrls AND NOT rolsuper
UNION ALL
SELECT DISTINCT 'is a member of ' || r.rolname FROM asked, pg_roles r
WHERE NOT asked.rolsuper AND asked.oid <> r.oid AND pg_has_role(asked.oid, r.oid, 'MEMBER')
  AND (r.rolname LIKE 'pg\_%' OR r.rolsuper OR r.rolbypassrls OR r.oid IN (SELECT relowner FROM bound))
UNION ALL
SELECT 'owns ' || string_agg(bound.relname, ', ' ORDER BY bound.relname) FROM asked, bound
WHERE NOT asked.rolsuper AND bound.relowner = asked.oid HAVING count(*) > 0
UNION ALL
SELECT 'may use leaves, such as ' || min(leaves.relname)
FROM asked JOIN pg_roles r ON pg_has_role(asked.oid, r.oid, 'MEMBER') CROSS JOIN leaves
WHERE NOT asked.rolsuper AND NOT r.rolsuper AND leaves.relowner <> r.oid
  AND (has_any_column_privilege(r.oid, leaves.oid, 'SELECT, INSERT, UPDATE')
       OR has_table_privilege(r.oid, leaves.oid, 'DELETE, TRUNCATE, TRIGGER')) HAVING count(*) > 0
UNION ALL
SELECT 'finds no row-level security on ' || relname FROM asked, bound
WHERE NOT rolsuper AND NOT relrowsecurity
UNION ALL
SELECT 'finds the policy ' || p.polname || ' on ' || bound.relname || ', which is not ours'
FROM asked, bound JOIN pg_policy p ON p.polrelid = bound.oid
WHERE NOT asked.rolsuper AND p.polpermissive AND (p.polname <> :policy OR NOT {sound}) AND EXISTS (
    SELECT 1 FROM unnest(p.polroles) AS granted
    WHERE granted = 0 OR pg_has_role(asked.oid, granted, 'MEMBER'))"""
