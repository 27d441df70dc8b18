"""Making an index of the schema again that somebody dropped, beside its users.

Not in a transaction, except for `attach`. That of a partitioned table is built leaf by leaf; then the parent
gets one that holds them all.
"""

from sqlalchemy import Connection, Index, MetaData, Table, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.schema import AddConstraint, CreateIndex
from sqlalchemy.sql.elements import quoted_name

from worker.db import rebuilds
from worker.db.models import schema
from worker.settings import Settings


def definition(settings: Settings, name: str) -> Index | None:
    """Give an index of the schema; None for that of a key, which goes with its constraint."""
    tables = schema(settings.embedding_dimension, settings.embedding_type).tables.values()
    return next((index for table in tables for index in table.indexes if index.name == name), None)


def statement_of_key(connection: Connection, settings: Settings, name: str) -> str:
    """Give what adds a key of the schema again, with its index. It locks the table: a person's to run."""
    tables = schema(settings.embedding_dimension, settings.embedding_type).tables.values()
    [key] = [rule for table in tables for rule in table.constraints if rule.name == name]
    return " ".join(str(AddConstraint(key).compile(dialect=connection.dialect)).split())


def is_partitioned(index: Index) -> bool:
    """Tell whether its table has leaves."""
    return bool(_table(index).dialect_options["postgresql"]["partition_by"])


def is_contradicted(error: DBAPIError) -> bool:
    """Tell whether rows came that a unique index forbids (23505)."""
    return getattr(error.orig, "pgcode", None) == "23505"


def build(connection: Connection, index: Index) -> None:
    """Build it, or its part of every leaf. Raises DBAPIError; nothing half built is left, if possible."""
    if not is_partitioned(index):
        _build(connection, index)
        return
    for leaf in _leaves(connection, index):
        _build(connection, _part(index, leaf))


def attach(connection: Connection, index: Index) -> None:
    """Give the parent its index, made of the leaves' parts. In a transaction with a short lock_timeout.

    Raises DBAPIError where a leaf came meanwhile that has no part: the next run builds it.
    """
    whole = str(CreateIndex(index).compile(dialect=connection.dialect))
    connection.execute(text(whole.replace(" ON ", " ON ONLY ", 1)))
    for leaf in _leaves(connection, index):
        part = _part(index, leaf).name
        connection.execute(text(f"ALTER INDEX {index.name} ATTACH PARTITION {part}"))


def _build(connection: Connection, index: Index) -> None:
    valid = connection.execute(
        text("SELECT indisvalid FROM pg_index WHERE indexrelid = to_regclass(:name)"), {"name": index.name}
    ).scalar_one_or_none()
    if valid:
        return
    # who keeps it is waited for as the build waits: it is built under the same name
    connection.execute(text(f"DROP INDEX CONCURRENTLY IF EXISTS {index.name}"))
    index.dialect_options["postgresql"]["concurrently"] = True
    try:
        connection.execute(CreateIndex(index))
    except DBAPIError:
        if not connection.invalidated:
            rebuilds.drop(connection, str(index.name))
        raise


def _part(index: Index, leaf: str) -> Index:
    """Give the same index on a leaf, under the leaf's name."""
    table = _table(index).to_metadata(MetaData(), name=leaf)
    [part] = [copied for copied in table.indexes if copied.name == index.name]
    part.name = quoted_name(leaf + str(index.name).removeprefix(_table(index).name), quote=None)
    return part


def _leaves(connection: Connection, index: Index) -> list[str]:
    found = connection.execute(
        text(
            "SELECT inhrelid::regclass::text FROM pg_inherits"
            " WHERE inhparent = to_regclass(:parent) ORDER BY 1"
        ),
        {"parent": _table(index).name},
    )
    return list(found.scalars())


def _table(index: Index) -> Table:
    assert index.table is not None
    return index.table
