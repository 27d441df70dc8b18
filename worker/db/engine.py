"""Engines, and what a database error means: gone, refused, to be tried again, or a mistake."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import TypeVar

from pydantic import SecretStr
from sqlalchemy import URL, Connection, Engine, create_engine, make_url, pool, text
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError, ProgrammingError, SQLAlchemyError

from worker.db.pooling import CountedPool, NoFreeConnectionError
from worker.errors import DatabaseUnavailableError, SchemaError
from worker.settings import Settings, masked

T = TypeVar("T")

# SQLSTATE classes and codes after which the same work may succeed: connection trouble, shutdown or
# crash of the server, a cancelled or timed-out statement, serialization failure, deadlock, lock not
# available, too many connections, full disk, I/O error, a server that became a standby (PostgreSQL
# manual, appendix A). A connection cut by the kernel or an idle-in-transaction
# timeout carries no code at all.
_RETRYABLE = ("08", "57P0", "57014", "40001", "40P01", "55P03", "53", "58030", "25P03", "25P04", "25006")
# What one question over a fresh connection may take: who asks is a person, or waits for a process to start.
_REACH_SECONDS, _LOCK_SECONDS = 30, 5
# A generic plan of a search costs thirty times a custom one; so may JIT.
_READING = (
    "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY;"
    " SET LOCAL plan_cache_mode = force_custom_plan; SET LOCAL jit = off; "
)
_KEEPALIVES = {
    "connect_timeout": 5,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 15_000,
}


def driver_url(url: SecretStr) -> URL:
    """Name our driver in a PostgreSQL URL: SQLAlchemy 2.1 would take psycopg 3 for `postgresql://`."""
    return make_url(url.get_secret_value().replace("postgres://", "postgresql://", 1)).set(
        drivername="postgresql+psycopg2"
    )


def make_engine(settings: Settings, url: SecretStr | None = None, application: str = "ingest") -> Engine:
    """Build the pooled engine of one process. Call it after a fork, dispose it at exit."""
    return create_engine(
        driver_url(url or settings.database_url),
        poolclass=CountedPool,
        pool_logging_name=application,
        pool_size=settings.database_pool_size,
        max_overflow=settings.database_max_overflow,
        pool_timeout=settings.database_pool_timeout,
        pool_recycle=settings.database_pool_recycle,
        pool_pre_ping=True,
        echo=settings.database_echo,
        hide_parameters=True,
        connect_args={**_KEEPALIVES, "application_name": application},
    )


def single_connection_engine(url: SecretStr, application: str = "ingest") -> Engine:
    """Build an engine that keeps nothing open between uses: maintenance and parent processes."""
    return create_engine(
        driver_url(url),
        poolclass=pool.NullPool,
        hide_parameters=True,
        connect_args={**_KEEPALIVES, "application_name": application},
    )


@contextmanager
def transaction(
    engine: Engine, statement_seconds: int = 60, lock_seconds: int = 5, *, reading: bool = False
) -> Iterator[Connection]:
    """Run one bounded transaction: commits at the end, rolls back on any exception.

    `reading`: it sees one snapshot throughout and refuses to write, whatever it is asked.
    SET LOCAL keeps the limits right behind a transaction pooler.
    """
    with engine.begin() as connection:
        limits = _limits(statement_seconds, lock_seconds)
        connection.execute(text(f"{_READING if reading else ''}{limits}"))
        yield connection


@contextmanager
def reading(connection: Connection, statement_seconds: int = 60, lock_seconds: int = 5) -> Iterator[None]:
    """As a reading `transaction`, on a session in autocommit: for a chore, whose session can be cancelled."""
    connection.exec_driver_sql(f"BEGIN; {_READING}{_limits(statement_seconds, lock_seconds)}")
    try:
        yield
    finally:
        if not connection.invalidated:
            connection.exec_driver_sql("ROLLBACK")


def _limits(statement_seconds: int, lock_seconds: int) -> str:
    return (
        f"SET LOCAL statement_timeout = '{statement_seconds}s';"
        f" SET LOCAL lock_timeout = '{lock_seconds}s';"
        " SET LOCAL idle_in_transaction_session_timeout = '60s'"
    )


def statement_timeout(connection: Connection, seconds: float) -> None:
    """Bound each statement of this transaction, from here on."""
    connection.exec_driver_sql(_statement_timeout(seconds))


def _statement_timeout(seconds: float) -> str:
    """Say it as the driver is told it: as `text` each number would take a place in SQLAlchemy's cache."""
    return f"SET LOCAL statement_timeout = {max(int(seconds * 1000), 1)}"


@contextmanager
def attempt(connection: Connection, seconds: float) -> Iterator[None]:
    """Run a part of a reading transaction, each of its statements bounded; the rest can go on without it.

    At its end everything it set is undone. Where the database refused it, DBAPIError is raised. No
    `begin_nested`: that takes two more round trips, and a search has four such parts.
    """
    connection.exec_driver_sql(f"SAVEPOINT attempt; {_statement_timeout(seconds)}")
    try:
        yield
    finally:
        if not connection.invalidated:
            connection.exec_driver_sql("ROLLBACK TO attempt")


def clock(connection: Connection) -> datetime:
    """Give the database's time, now."""
    now: datetime = connection.execute(text("SELECT clock_timestamp()")).scalar_one()
    return now


def is_retryable(error: BaseException) -> bool:
    """Tell whether the same work may succeed later."""
    if has_waited(error):
        return True
    if not isinstance(error, DBAPIError):
        return False
    code = getattr(error.orig, "pgcode", None)
    if code is None:
        return error.connection_invalidated or isinstance(error, OperationalError | InterfaceError)
    return any(code.startswith(prefix) for prefix in _RETRYABLE)


def has_waited(error: BaseException) -> bool:
    """Tell whether it is the end of a wait for a connection: whoever asked has waited for long."""
    return isinstance(error, NoFreeConnectionError)


def is_forbidden(error: BaseException) -> bool:
    """Tell whether our role may not do this (42501). Tried again at once it fails as before."""
    return isinstance(error, DBAPIError) and getattr(error.orig, "pgcode", None) == "42501"


def lacks_memory(error: DBAPIError) -> bool:
    """Tell whether the server had no room, in memory or in what it shares it by (class 53)."""
    return str(getattr(error.orig, "pgcode", None) or "").startswith("53")


def is_locked_out(error: DBAPIError) -> bool:
    """Tell whether a lock was not to be had within lock_timeout (55P03)."""
    return getattr(error.orig, "pgcode", None) == "55P03"


def is_connection_trouble(error: DBAPIError) -> bool:
    """Tell whether the session failed, and not the statement: SQLSTATE classes of PostgreSQL's appendix A."""
    code = getattr(error.orig, "pgcode", None)
    return code is None or code.startswith(("08", "28", "3D", "53", "57P"))


def is_late(error: DBAPIError) -> bool:
    """Tell whether a statement was ended because it took too long (57014)."""
    return getattr(error.orig, "pgcode", None) == "57014"


def violates_constraint(error: DBAPIError, name: str) -> bool:
    """Tell whether a statement failed on this constraint or unique index."""
    return getattr(getattr(error.orig, "diag", None), "constraint_name", None) == name


def describe(error: BaseException) -> str:
    """Say in one line what the server said, without the statement or its parameters."""
    lines = str(getattr(error, "orig", None) or error).strip().splitlines()
    return lines[0].strip() if lines else type(error).__name__


def loggable(error: BaseException) -> str:
    """Say of an error what may stand in a log: of a refused statement its code alone.

    What the server says of it may quote what was asked or to be written.
    """
    if is_retryable(error):
        return describe(error)
    refused = getattr(error, "orig", error)
    return str(getattr(refused, "pgcode", None) or type(refused).__name__)


def reach(url: SecretStr, question: Callable[[Connection], T], setting: str = "DATABASE_URL") -> T:
    """Ask one question over a fresh connection; `setting` is the one the URL comes from.

    Raises DatabaseUnavailableError when the server cannot be reached, refuses us or takes too long,
    SchemaError when it lets us in and our role may not ask this.
    """
    try:
        with single_connection_engine(url).connect() as connection:
            connection.exec_driver_sql(_limits(_REACH_SECONDS, _LOCK_SECONDS))
            return question(connection)
    except OperationalError as error:
        raise unavailable(url, error, setting) from None
    except ProgrammingError as error:
        raise SchemaError(
            f"the database's role may not read the schema: {describe(error)}",
            f"run `ingest roles`, which gives each role its rights, or correct {setting}",
        ) from None


def forbidden(error: SQLAlchemyError) -> SchemaError:
    """Turn a refusal for want of a right into one line that says what to do."""
    return SchemaError(
        f"the database's role may not do this: {describe(error)}",
        "run `ingest roles`, which gives each role its rights, or correct the user in its URL",
    )


def unavailable(
    url: SecretStr, error: SQLAlchemyError, setting: str = "DATABASE_URL"
) -> DatabaseUnavailableError:
    """Turn a failed connection into one line that says what to do."""
    said = describe(error)
    if has_waited(error):
        return DatabaseUnavailableError(
            f"no connection to PostgreSQL at {masked(url)} was free: {said}",
            "raise DATABASE_POOL_SIZE, DATABASE_MAX_OVERFLOW or DATABASE_POOL_TIMEOUT, or do less at once",
        )
    hint = f"check that PostgreSQL runs there and that {setting} names its host and port"
    for sign, mend in (
        ("password authentication failed", f"correct the user or password in {setting}"),
        ("no password supplied", f"put the password into {setting}"),
        ("does not exist", f"correct the database or user name in {setting}, or create it"),
        (
            "lock timeout",
            "another session holds what is needed: try again, then `ingest doctor`",
        ),
        ("statement timeout", "the server is busy: look at its load, then run `ingest doctor` again"),
        (
            "No space left on device",
            "free some space on its disk (docs/operations/full-disk.md), then run `ingest doctor`",
        ),
        ("too many clients", "lower INGEST_CONCURRENCY, or raise max_connections on the server"),
        (
            "certificate",
            f"{setting}: sslrootcert is who signed the server's certificate, the host as there",
        ),
    ):
        if sign in said:
            hint = mend
    return DatabaseUnavailableError(f"PostgreSQL at {masked(url)} is not usable: {said}", hint)
