"""indexes: every index that should exist does, and is valid."""

from typing import Any

from sqlalchemy import Connection, PrimaryKeyConstraint, UniqueConstraint, text

from worker.db.models import schema
from worker.maintenance.turn import Turn
from worker.settings import Settings


def run(turn: Turn) -> dict[str, Any]:
    """Give the invalid indexes, those that are gone, and the leaves that lack one of their parent's."""
    gone = [f"{index} is gone" for index in absent(turn.connection, turn.settings)]
    return {"invalid": invalid(turn.connection), "missing": gone + missing(turn.connection)}


def absent(connection: Connection, settings: Settings) -> list[str]:
    """Name the indexes of the schema that do not exist, on tables that do."""
    tables = schema(settings.embedding_dimension, settings.embedding_type).tables.values()
    wanted = {str(index.name): table.name for table in tables for index in table.indexes}
    for table in tables:
        keys = [
            rule
            for rule in table.constraints
            if isinstance(rule, PrimaryKeyConstraint | UniqueConstraint)
            and rule.name  # an empty key has none
        ]
        wanted |= {str(key.name): table.name for key in keys if key.columns}  # postings have no primary key
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
