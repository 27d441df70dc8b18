"""COPY: rows into a table as a stream, and rows out of a query, without text in between."""

from collections.abc import Iterator, Mapping, Sequence
from io import BytesIO
from typing import Any, Protocol

import psycopg2
from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError

from worker.steps.copyrows import read_rows

_COPY_READ_BYTES = 1 << 20


class Readable(Protocol):
    """What COPY reads from."""

    def read(self, size: int = -1) -> bytes:
        """Give at most `size` bytes, b"" at the end."""
        ...


def copy_in(connection: Connection, table: str, columns: Sequence[str], data: Readable) -> int:
    """Stream a binary COPY into columns of a table; gives the number of rows."""
    statement = f"COPY {table} ({', '.join(columns)}) FROM STDIN (FORMAT binary)"
    return _copy(connection, statement, data)


def copy_out(
    connection: Connection, query: str, parameters: Mapping[str, Any]
) -> Iterator[Sequence[memoryview]]:
    """Give the rows of a query, each field as PostgreSQL's binary format has it; none may be NULL.

    `query` has its parameters as the driver writes them, `%(name)s`. A bytea comes through a cursor as
    twice its size in hexadecimal digits: that is five times slower.
    """
    out = BytesIO()
    with _driver(connection).cursor() as cursor:
        asked = cursor.mogrify(query, parameters).decode()
    _copy(connection, f"COPY ({asked}) TO STDOUT (FORMAT binary)", out)
    return read_rows(out.getbuffer())


def _copy(connection: Connection, statement: str, stream: Any) -> int:
    """Run a COPY. Its errors are wrapped as SQLAlchemy wraps all others: policy reads one family."""
    try:
        with _driver(connection).cursor() as cursor:
            cursor.copy_expert(statement, stream, _COPY_READ_BYTES)
            return int(cursor.rowcount)
    except psycopg2.Error as error:
        wrapped: Exception = DBAPIError.instance("COPY", None, error, psycopg2.Error, hide_parameters=True)
        raise wrapped from error


def _driver(connection: Connection) -> Any:
    return connection.connection.driver_connection
