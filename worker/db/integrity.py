"""Whether B-trees are in order, as far as amcheck can tell; it does not know HNSW."""

from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError

from worker.db.contrib import extension_function
from worker.db.engine import describe


def checker(connection: Connection) -> str | None:
    """Give the function that checks a B-tree; None where amcheck is not installed, or not ours to use."""
    return extension_function(connection, "amcheck", "bt_index_check", "regclass")


def btrees(connection: Connection) -> list[str]:
    """Name the B-trees that hold something, in no order: one that ends early sees others the next time."""
    found = connection.execute(
        text("""
            SELECT c.oid::regclass::text FROM pg_class c
            JOIN pg_index i ON i.indexrelid = c.oid JOIN pg_am m ON m.oid = c.relam
            WHERE m.amname = 'btree' AND c.relkind = 'i' AND i.indisvalid
              AND c.relnamespace = current_schema()::regnamespace AND pg_relation_size(c.oid) > 8192
            ORDER BY random()""")
    )
    return list(found.scalars())


def fault(connection: Connection, check: str, index: str) -> str | None:
    """Check a B-tree; gives what is wrong with it, None where it is sound or gone by now."""
    try:
        connection.execute(text(f"SELECT {check}(to_regclass(:index))"), {"index": index})
    except DBAPIError as error:
        if str(getattr(error.orig, "pgcode", None) or "").startswith("XX"):  # data or index corrupted
            return describe(error)
        raise
    return None
