"""The indexes there should be, and those there are: what is gone, unusable, doubled or never read."""

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, PrimaryKeyConstraint, Row, Table, UniqueConstraint, text

from worker.db.models import schema
from worker.settings import Settings

# A smaller one costs nothing worth a word.
_LARGE = 1 << 20
# Counters younger than this tell nothing: what is used once a week is used.
_JUDGED_DAYS = 7


def expected(settings: Settings) -> Mapping[str, str]:
    """Give the indexes of the schema, by name, with their tables; those of keys, too."""
    found: dict[str, str] = {}
    for table in schema(settings.embedding_dimension, settings.embedding_type).tables.values():
        found |= {str(index.name): table.name for index in table.indexes}
        found |= dict.fromkeys(_keys(table), table.name)
    return found


def _keys(table: Table) -> list[str]:
    keys = [rule for rule in table.constraints if isinstance(rule, PrimaryKeyConstraint | UniqueConstraint)]
    # an empty key has no name; postings have no primary key
    return [str(key.name) for key in keys if key.name and key.columns]


def absent(connection: Connection, settings: Settings) -> list[str]:
    """Name the indexes of the schema that do not exist, on tables that do."""
    wanted = expected(settings)
    found = connection.execute(
        text("""
            SELECT name FROM unnest(CAST(:names AS text[]), CAST(:tables AS text[])) AS wanted(name, on_table)
            WHERE NOT EXISTS (
                SELECT 1 FROM pg_index i
                WHERE i.indexrelid = to_regclass(name) AND i.indrelid = to_regclass(on_table))
            ORDER BY name"""),
        {"names": list(wanted), "tables": list(wanted.values())},
    )
    return list(found.scalars())


def invalid(connection: Connection) -> list[str]:
    """Name the indexes that a build left unusable and that no build is working on."""
    found = connection.execute(
        text("""
            SELECT i.indexrelid::regclass::text FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid
            WHERE NOT i.indisvalid AND c.relnamespace = current_schema()::regnamespace
              AND NOT EXISTS (
                SELECT 1 FROM pg_stat_progress_create_index p WHERE p.index_relid = i.indexrelid)
            ORDER BY 1""")
    )
    return list(found.scalars())


def missing(connection: Connection) -> list[str]:
    """Name, as leaf and parent index, what a leaf lacks of its parent's; or the leaf, where it is gone."""
    found = connection.execute(
        text("""
            SELECT name || CASE WHEN to_regclass(name) IS NULL THEN ' is gone'
                                ELSE ' lacks ' || p.indexrelid::regclass END
            FROM (SELECT leaf, 'chunks' FROM segments UNION ALL
                  SELECT replace(leaf, 'chunks', 'postings'), 'postings' FROM segments WHERE state <> 'trash')
                 AS leaf(name, parent)
            JOIN pg_index p ON p.indrelid = parent::regclass
            WHERE NOT EXISTS (
                SELECT 1 FROM pg_inherits h JOIN pg_index i ON i.indexrelid = h.inhrelid
                WHERE h.inhparent = p.indexrelid AND i.indrelid = to_regclass(name))
            GROUP BY 1 ORDER BY 1""")
    )
    return list(found.scalars())


def duplicates(connection: Connection, settings: Settings) -> list[dict[str, Any]]:
    """Give the indexes that another says the same as, which is ours or stricter; with their bytes."""
    found = connection.execute(text(_DUPLICATES), {"ours": list(expected(settings))})
    return [row._asdict() for row in found]


def unused(connection: Connection) -> Sequence[Row[Any]]:
    """Give (index, bytes, since) of what no statement has read since the counters began.

    Of a parent with all its leaves. What forbids, such as a key, is of use without being read.
    """
    return connection.execute(text(_UNUSED), {"large": _LARGE, "days": _JUDGED_DAYS}).all()


# The first of a group stays: one that the schema or a parent has, else one that forbids.
_DUPLICATES = """
SELECT name AS index, kept AS same_as, bytes FROM (
    SELECT c.relname::text AS name, pg_relation_size(c.oid) AS bytes, c.relispartition AS attached,
           first_value(c.relname::text) OVER same AS kept
    FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid
    WHERE i.indisvalid AND c.relnamespace = current_schema()::regnamespace
    WINDOW same AS (
        PARTITION BY i.indrelid, c.relam, i.indkey::text, i.indclass::text, i.indcollation::text,
                     i.indoption::text, i.indnkeyatts, pg_get_expr(i.indpred, i.indrelid),
                     pg_get_expr(i.indexprs, i.indrelid)
        ORDER BY NOT (c.relispartition OR c.relname = ANY(:ours)), NOT i.indisunique, c.oid)) AS alike
WHERE name <> kept AND NOT attached ORDER BY name"""
_UNUSED = """
WITH counted AS (
    SELECT greatest(d.stats_reset, e.created_at) AS since FROM pg_stat_database d, embedding_space e
    WHERE d.datname = current_database())
SELECT coalesce(h.inhparent, i.indexrelid)::regclass::text AS index,
       sum(pg_relation_size(i.indexrelid))::bigint AS bytes, min(since) AS since
FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid
JOIN pg_stat_user_indexes s ON s.indexrelid = i.indexrelid
LEFT JOIN pg_inherits h ON h.inhrelid = i.indexrelid, counted
WHERE c.relnamespace = current_schema()::regnamespace AND NOT i.indisunique
  AND since < now() - make_interval(days => :days)
GROUP BY 1 HAVING sum(s.idx_scan) = 0 AND sum(pg_relation_size(i.indexrelid)) >= :large ORDER BY 1"""
