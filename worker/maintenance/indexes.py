"""indexes: every index that should exist does, and is valid."""

from typing import Any

from sqlalchemy import Connection, text

from worker.db.leaves import leaf_name
from worker.resources import Resources


def run(resources: Resources, connection: Connection) -> dict[str, Any]:  # noqa: ARG001 -- every chore's signature
    """Give the invalid indexes, and the leaves that lack one of their parent's."""
    return {"invalid": invalid(connection), "missing": missing(connection)}


def invalid(connection: Connection) -> list[str]:
    """Name the indexes that a build left unusable and that no build is working on."""
    found = connection.execute(
        text("""
            SELECT i.indexrelid::regclass::text FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid
            WHERE NOT i.indisvalid AND c.relnamespace = current_schema()::regnamespace
              AND NOT EXISTS (SELECT 1 FROM pg_stat_progress_create_index p WHERE p.index_relid = i.indexrelid)
            ORDER BY 1""")
    )
    return list(found.scalars())


def missing(connection: Connection) -> list[str]:
    """Name, as leaf and parent index, what a leaf of `chunks` lacks; or the leaf, where it is gone."""
    leaves = connection.execute(text("SELECT segment FROM segments ORDER BY segment")).scalars()
    names = [leaf_name(segment) for segment in leaves]
    found = connection.execute(
        text("""
            SELECT name || CASE WHEN to_regclass(name) IS NULL THEN ' is gone'
                                ELSE ' lacks ' || p.indexrelid::regclass END
            FROM unnest(CAST(:leaves AS text[])) AS leaf(name)
            JOIN pg_index p ON p.indrelid = 'chunks'::regclass
            WHERE NOT EXISTS (
                SELECT 1 FROM pg_inherits h JOIN pg_index i ON i.indexrelid = h.inhrelid
                WHERE h.inhparent = p.indexrelid AND i.indrelid = to_regclass(name))
            ORDER BY 1"""),
        {"leaves": names},
    )
    return sorted(set(found.scalars()))
