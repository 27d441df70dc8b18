"""Which documents the names in a judged set may mean."""

from collections.abc import Collection

from sqlalchemy import Connection, text

from worker.db.submissions import Scope
from worker.steps.judged import Likeness, Named


def named(connection: Connection, scope: Scope, names: Collection[str]) -> list[Named]:
    """Give the searchable documents that have one of these names; for a duplicate, the one it is found as."""
    found = connection.execute(
        text(f"""
            WITH wanted AS MATERIALIZED (SELECT name FROM unnest(CAST(:names AS text[])) AS name),
            searchable AS MATERIALIZED (
                SELECT d.document_id, coalesce(d.duplicate_of, d.document_id) AS found_as, d.source_path,
                       d.filename, regexp_replace(d.filename, '(.)\\.[^.]*$', '\\1') AS stem
                FROM documents d
                WHERE {scope.condition()} AND d.deleted_at IS NULL
                  AND (d.fingerprint IS NOT NULL OR d.duplicate_of IS NOT NULL))
            SELECT name, {Likeness.ID:d} AS likeness, found_as
            FROM wanted JOIN searchable ON CAST(document_id AS text) = name
            UNION ALL
            SELECT name, {Likeness.SOURCE_PATH:d}, found_as FROM wanted JOIN searchable ON source_path = name
            UNION ALL
            SELECT name, {Likeness.FILENAME:d}, found_as FROM wanted JOIN searchable ON filename = name
            UNION ALL
            SELECT name, {Likeness.STEM:d}, found_as FROM wanted JOIN searchable ON stem = name"""),
        {"names": [name for name in names if "\0" not in name], **scope.parameters},
    )
    return [Named(row.name, Likeness(row.likeness), row.found_as) for row in found]
