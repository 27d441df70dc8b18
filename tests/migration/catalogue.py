"""What a database's catalogue says of our schema: `{kind: {what: how it is}}`, fit to be compared."""

from collections.abc import Mapping
from typing import Any

from sqlalchemy import Connection, text

Catalogue = dict[str, dict[str, Any]]

# Each query gives rows of a key and what is compared. Alembic's own table is no part of the schema.
_OURS = "n.nspname = current_schema() AND c.relname NOT LIKE 'alembic_version%'"
_OF_EXTENSION = "SELECT 1 FROM pg_depend e WHERE e.objid = {oid} AND e.deptype = 'e'"

QUERIES: Mapping[str, str] = {
    "tables": f"""
        SELECT c.relname, c.relkind, c.relpersistence, c.relispartition, am.amname, c.relreplident,
               pg_get_partkeydef(c.oid)
        FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace LEFT JOIN pg_am am ON am.oid = c.relam
        WHERE {_OURS} AND c.relkind NOT IN ('i', 'I')""",
    "columns": f"""
        SELECT c.relname || '.' || a.attname, a.attnum, format_type(a.atttypid, a.atttypmod), a.attnotnull,
               pg_get_expr(d.adbin, d.adrelid), a.attidentity, a.attgenerated, l.collname
        FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid
        JOIN pg_namespace n ON n.oid = c.relnamespace
        LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
        LEFT JOIN pg_collation l ON l.oid = a.attcollation
        WHERE {_OURS} AND c.relkind IN ('r', 'p') AND a.attnum > 0 AND NOT a.attisdropped""",
    "storage": f"""
        SELECT c.relname || '.' || a.attname, a.attstorage, a.attcompression, a.attstattarget
        FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid
        JOIN pg_namespace n ON n.oid = c.relnamespace
        WHERE {_OURS} AND c.relkind IN ('r', 'p') AND a.attnum > 0 AND NOT a.attisdropped""",
    "constraints": f"""
        SELECT c.relname || '.' || k.conname, pg_get_constraintdef(k.oid), k.convalidated, k.condeferrable
        FROM pg_constraint k JOIN pg_class c ON c.oid = k.conrelid
        JOIN pg_namespace n ON n.oid = c.relnamespace
        WHERE {_OURS} AND k.contype <> 'n'""",  # NOT NULL is in `columns`; PostgreSQL 16 has no such rows
    "indexes": f"""
        SELECT c.relname, pg_get_indexdef(c.oid), i.indisvalid, i.indisready, i.indisunique, i.indisclustered,
               i.indisreplident, c.reloptions, h.inhparent::regclass::text
        FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid JOIN pg_namespace n ON n.oid = c.relnamespace
        LEFT JOIN pg_inherits h ON h.inhrelid = c.oid
        WHERE {_OURS}""",
    "options": f"""
        SELECT c.relname, c.reloptions, t.reloptions
        FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
        LEFT JOIN pg_class t ON t.oid = c.reltoastrelid
        WHERE {_OURS} AND c.relkind IN ('r', 'p')""",
    "partitions": f"""
        SELECT c.relname, h.inhparent::regclass::text, pg_get_expr(c.relpartbound, c.oid)
        FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace JOIN pg_inherits h ON h.inhrelid = c.oid
        WHERE {_OURS} AND c.relkind IN ('r', 'p')""",
    "row security": f"""
        SELECT c.relname, c.relrowsecurity, c.relforcerowsecurity
        FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
        WHERE {_OURS} AND c.relkind IN ('r', 'p')""",
    "policies": f"""
        SELECT c.relname || '.' || p.polname, p.polcmd, p.polpermissive, p.polroles::regrole[]::text,
               pg_get_expr(p.polqual, p.polrelid), pg_get_expr(p.polwithcheck, p.polrelid)
        FROM pg_policy p JOIN pg_class c ON c.oid = p.polrelid JOIN pg_namespace n ON n.oid = c.relnamespace
        WHERE {_OURS}""",
    "triggers": f"""
        SELECT c.relname || '.' || t.tgname, pg_get_triggerdef(t.oid), t.tgenabled
        FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid JOIN pg_namespace n ON n.oid = c.relnamespace
        WHERE {_OURS} AND NOT t.tgisinternal""",
    "functions": f"""
        SELECT p.oid::regprocedure::text, pg_get_functiondef(p.oid), p.proacl::text, p.proowner::regrole::text
        FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
        WHERE n.nspname = current_schema() AND p.prokind IN ('f', 'p')
          AND NOT EXISTS ({_OF_EXTENSION.format(oid="p.oid")})""",
    "types": f"""
        SELECT t.typname, t.typtype, (
            SELECT string_agg(l.enumlabel, ',' ORDER BY l.enumsortorder)
            FROM pg_enum l WHERE l.enumtypid = t.oid)
        FROM pg_type t JOIN pg_namespace n ON n.oid = t.typnamespace
        WHERE n.nspname = current_schema() AND t.typtype IN ('e', 'd')
          AND NOT EXISTS ({_OF_EXTENSION.format(oid="t.oid")})""",
    "comments": f"""
        SELECT c.relname || coalesce('.' || a.attname, ''), d.description
        FROM pg_description d JOIN pg_class c ON c.oid = d.objoid AND d.classoid = 'pg_class'::regclass
        JOIN pg_namespace n ON n.oid = c.relnamespace
        LEFT JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = d.objsubid AND d.objsubid > 0
        WHERE {_OURS}""",
    "grants": f"""
        SELECT c.relname, c.relowner::regrole::text,
               coalesce(c.relacl, acldefault(
                   CASE c.relkind WHEN 'S' THEN 's' ELSE 'r' END::"char", c.relowner))::text
        FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE {_OURS}
        UNION ALL
        SELECT c.relname || '.' || a.attname, NULL, a.attacl::text
        FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid
        JOIN pg_namespace n ON n.oid = c.relnamespace
        WHERE {_OURS} AND a.attacl IS NOT NULL""",
    "extensions": "SELECT extname, extversion FROM pg_extension",
    "segments": "SELECT segment::text, leaf, state FROM segments",
    "embedding space": "SELECT 'space', dimension, column_type, metric FROM embedding_space",
}


def read(connection: Connection) -> Catalogue:
    """Read everything of a schema that a migration may change, and the rows it fills in."""
    found: Catalogue = {}
    for kind, query in QUERIES.items():
        rows = connection.execute(text(query)).all()
        found[kind] = {row[0]: tuple(row[1:]) for row in rows}
        assert len(found[kind]) == len(rows), f"two of {kind} have one name"
    return found


def differences(one: Catalogue, other: Catalogue) -> dict[str, dict[str, tuple[Any, Any]]]:
    """Give what differs: {kind: {what: (in one, in other)}}; None where it is missing."""
    found = {
        kind: {
            what: (one[kind].get(what), other[kind].get(what))
            for what in sorted(one[kind].keys() | other[kind].keys())
            if one[kind].get(what) != other[kind].get(what)
        }
        for kind in QUERIES
    }
    return {kind: changes for kind, changes in found.items() if changes}
