"""Indexes larger than fresh ones would be: by estimate, or measured where the server can."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from sqlalchemy import Connection, Row, text

from worker.db.contrib import extension_function
from worker.steps.indexsizes import PAGE, btree_bytes, hnsw_bytes

ESTIMATE, MEASURED = "estimate", "pgstattuple"
# Keys that come in no order leave a B-tree at 1.4 times a fresh one, and it stays so.
_MOST_TIMES = {"btree": 2.0, "hnsw": 1.25}
# Less than this is not worth a build.
_LEAST_WASTE = 1 << 20
# Of fewer, the bytes a row are those of the page that any index has.
_FEWEST_ROWS = 1000
_FILLED = 90  # percent of a leaf page, when it is built


class Oversized(NamedTuple):
    """An index and its table; its rows and bytes, and those of a fresh one, by what they are known."""

    name: str
    table: str
    rows: float
    size_bytes: int
    fresh_bytes: int
    known_by: str = ESTIMATE

    @property
    def waste(self) -> int:
        """Bytes that a build would give back."""
        return self.size_bytes - self.fresh_bytes

    def record(self) -> dict[str, Any]:
        """Give it as a run of a chore records it."""
        times = round(self.size_bytes / self.fresh_bytes, 1)
        rows = round(self.rows)
        return {"index": self.name, "rows": rows, "bytes": self.size_bytes, "times_a_fresh_one": times}


def oversized(connection: Connection) -> list[Oversized]:
    """Give the indexes that are too large for the rows they hold, the worst first.

    An estimate goes by the planner's statistics: an index whose columns have none is left out. A B-tree that
    it finds is measured, where pgstattuple is installed and ours to use: that reads all of it. What was built
    anew and was larger than estimated is known since.
    """
    built = _built(connection)
    trees = [_btree(row) for row in connection.execute(text(_BTREES)) if row.key_bytes is not None]
    found = [tree for tree in (_known(tree, built) for tree in trees) if _is_oversized(tree, "btree")]
    if measure := _measure(connection):
        found = [_measured(connection, measure, tree) for tree in found]
        found = [tree for tree in found if _is_oversized(tree, "btree")]
    graphs = [_known(_graph(row), built) for row in connection.execute(text(_GRAPHS))]
    found += [graph for graph in graphs if _is_oversized(graph, "hnsw")]
    return sorted(found, key=lambda index: index.waste, reverse=True)


def _measure(connection: Connection) -> str | None:
    return extension_function(connection, "pgstattuple", "pgstatindex", "regclass")


def _built(connection: Connection) -> Mapping[str, float]:
    """Give the bytes a row that indexes had when the chore `reindex` had just built them, by name."""
    found = connection.execute(
        text("""
            SELECT DISTINCT ON (name) r ->> 'index' AS name,
                   (r ->> 'bytes_after')::float / greatest((r ->> 'rows')::float, 1) AS row_bytes
            FROM maintenance_runs, jsonb_array_elements(details -> 'rebuilt') AS r
            WHERE chore = 'reindex' AND outcome = 'done' AND (r ->> 'rows')::float >= :fewest
            ORDER BY name, started_at DESC"""),
        {"fewest": _FEWEST_ROWS},
    )
    return {row.name: row.row_bytes for row in found}


def _known(index: Oversized, built: Mapping[str, float]) -> Oversized:
    before = round(built.get(index.name, 0) * index.rows)
    return index._replace(fresh_bytes=max(index.fresh_bytes, before))


def known_by(connection: Connection) -> str:
    """Say by what the sizes of B-trees are judged in this database."""
    return MEASURED if _measure(connection) else ESTIMATE


def _is_oversized(index: Oversized, kind: str) -> bool:
    return index.waste >= _LEAST_WASTE and index.size_bytes > _MOST_TIMES[kind] * index.fresh_bytes


def _btree(row: Row[Any]) -> Oversized:
    distinct = min(row.distinct_keys or row.rows, row.rows) if row.shares else None
    fresh = btree_bytes(row.rows, row.key_bytes, distinct)
    return Oversized(row.name, row.on_table, row.rows, row.size_bytes, fresh)


def _graph(row: Row[Any]) -> Oversized:
    fresh = hnsw_bytes(row.rows, row.vector_bytes, row.m)
    return Oversized(row.name, row.on_table, row.rows, row.size_bytes, fresh)


def _measured(connection: Connection, function: str, tree: Oversized) -> Oversized:
    row = connection.execute(
        text(f"""
            SELECT index_size, leaf_pages, internal_pages, avg_leaf_density
            FROM {function}(CAST(:index AS regclass))"""),
        {"index": tree.name},
    ).one()
    pages = row.leaf_pages * row.avg_leaf_density / _FILLED + row.internal_pages + 1
    return tree._replace(size_bytes=row.index_size, fresh_bytes=round(pages * PAGE), known_by=MEASURED)


# Counts of the last ANALYZE, stretched by what came since; nothing is known of a table that had none.
_BTREES = """
SELECT i.indexrelid::regclass::text AS name, i.indrelid::regclass::text AS on_table,
       pg_relation_size(i.indexrelid) AS size_bytes,
       c.reltuples * greatest(coalesce(live.rows / nullif(t.reltuples, 0), 1), 1) AS rows,
       CASE WHEN t.reltuples = 0 THEN 0 ELSE k.key_bytes END AS key_bytes, k.distinct_keys,
       NOT i.indisunique AND i.indnatts = i.indnkeyatts AS shares
FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid JOIN pg_class t ON t.oid = i.indrelid
JOIN pg_am m ON m.oid = c.relam
CROSS JOIN LATERAL (SELECT pg_stat_get_live_tuples(t.oid) AS rows) AS live
CROSS JOIN LATERAL (
    SELECT CASE WHEN count(p.attname) = i.indnatts THEN sum(p.avg_width * (1 - p.null_frac)) END AS key_bytes,
           exp(least(sum(ln(greatest(CASE WHEN p.n_distinct < 0 THEN -p.n_distinct * t.reltuples
                                          ELSE p.n_distinct END, 1))), 50)) AS distinct_keys
    FROM unnest(i.indkey) AS key(number)
    JOIN pg_attribute a ON a.attrelid = t.oid AND a.attnum = key.number
    LEFT JOIN pg_stats p ON p.schemaname = current_schema() AND p.tablename = t.relname
         AND p.attname = a.attname AND NOT p.inherited) AS k
WHERE m.amname = 'btree' AND i.indisvalid AND c.relkind = 'i'
  AND c.relnamespace = current_schema()::regnamespace
  AND (t.reltuples > 0 OR t.reltuples = 0 AND live.rows = 0)"""
# What `recall` left of one that it built anew is its own to drop.
_GRAPHS = r"""
SELECT i.indexrelid::regclass::text AS name, i.indrelid::regclass::text AS on_table,
       pg_relation_size(i.indexrelid) AS size_bytes,
       greatest(pg_stat_get_live_tuples(t.oid), t.reltuples, 1) AS rows,
       8 + a.atttypmod * CASE format_type(a.atttypid, NULL) WHEN 'halfvec' THEN 2 ELSE 4 END AS vector_bytes,
       coalesce((SELECT o.option_value FROM pg_options_to_table(c.reloptions) o WHERE o.option_name = 'm'),
                '16')::int AS m
FROM pg_index i
JOIN pg_class c ON c.oid = i.indexrelid JOIN pg_class t ON t.oid = i.indrelid JOIN pg_am m ON m.oid = c.relam
JOIN pg_attribute a ON a.attrelid = t.oid AND a.attnum = i.indkey[0]
WHERE m.amname = 'hnsw' AND i.indisvalid AND c.relnamespace = current_schema()::regnamespace
  AND c.relname !~ '_cc(new|old)\d*$'"""
