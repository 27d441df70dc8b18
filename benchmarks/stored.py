"""What is in the database when all is loaded: its sizes, and no work left that would be done by the way."""

from sqlalchemy import text

from benchmarks.ours import sealed_leaves
from worker.db.builds import index_name
from worker.db.engine import single_connection_engine, transaction
from worker.resources import Resources


def settle_down(resources: Resources) -> None:
    """Do now what the server would do beside the searches: vacuum what was loaded, write what is dirty."""
    engine = single_connection_engine(resources.settings.maintenance_url, "benchmark")
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        for statement in ("VACUUM (ANALYZE) chunks, postings, documents", "CHECKPOINT"):
            connection.execute(text(statement))


def sizes(resources: Resources) -> tuple[int, int, int]:
    """Give the bytes of the sealed tables, of their vector indexes, and of all postings with their index."""
    leaves = sealed_leaves(resources)
    with transaction(resources.engine) as connection:
        found = connection.execute(
            text("""
                SELECT sum(pg_table_size(to_regclass(leaf))), sum(pg_relation_size(to_regclass(index))),
                       sum(pg_total_relation_size(to_regclass(replace(leaf, 'chunks', 'postings'))))
                FROM unnest(CAST(:leaves AS text[]), CAST(:indexes AS text[])) AS sealed(leaf, index)"""),
            {"leaves": list(leaves), "indexes": [index_name(leaf) for leaf in leaves]},
        ).one()
    return int(found[0]), int(found[1]), int(found[2])
