"""Engines, and what a server's errors mean to the policy. The errors are made by a real server."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import psycopg2
import pytest
from pydantic import SecretStr
from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import DBAPIError

from worker.db.engine import (
    describe,
    driver_url,
    is_retryable,
    make_engine,
    reach,
    single_connection_engine,
    transaction,
    unavailable,
    violates_constraint,
)
from worker.embedded import RunningPostgres
from worker.errors import DatabaseUnavailableError, SchemaError
from worker.resources import Resources
from worker.settings import Settings

Session = Callable[[], Connection]


@pytest.fixture
def session(resources: Resources) -> Iterator[Session]:
    """Open sessions of their own, with a table to quarrel about."""
    opened: list[Connection] = []
    engine = single_connection_engine(resources.settings.database_url)
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE quarrel (id int PRIMARY KEY, word text NOT NULL)"))
        connection.execute(text("INSERT INTO quarrel VALUES (1, 'one'), (2, 'two')"))

    def start() -> Connection:
        opened.append(engine.connect())
        return opened[-1]

    yield start
    for connection in opened:
        connection.invalidate()
        connection.close()


def run(connection: Connection, statement: str, **parameters: Any) -> None:
    connection.execute(text(statement), parameters)


@contextmanager
def error_of(code: str | None) -> Iterator[list[DBAPIError]]:
    """Collect the one error of a block, which has this SQLSTATE."""
    found: list[DBAPIError] = []
    with pytest.raises(DBAPIError) as caught:
        yield found
    assert isinstance(caught.value.orig, psycopg2.Error)
    assert caught.value.orig.pgcode == code
    found.append(caught.value)


# -- errors after which the same work may succeed --------------------------------------------------


def test_deadlock_is_retryable(session: Session) -> None:
    one, other = session(), session()
    run(one, "SET deadlock_timeout = '50ms'; UPDATE quarrel SET word = 'a' WHERE id = 1")
    run(other, "SET deadlock_timeout = '50ms'; UPDATE quarrel SET word = 'b' WHERE id = 2")
    errors: list[DBAPIError] = []

    def quarrel(connection: Connection, number: int) -> None:
        try:
            run(connection, f"UPDATE quarrel SET word = 'c' WHERE id = {number}")
        except DBAPIError as error:
            errors.append(error)
            connection.rollback()

    sides = [threading.Thread(target=quarrel, args=side) for side in ((one, 2), (other, 1))]
    for side in sides:
        side.start()
    for side in sides:
        side.join()
    [loser] = errors
    assert isinstance(loser.orig, psycopg2.Error)
    assert loser.orig.pgcode == "40P01"
    assert is_retryable(loser)


def test_serialization_failure_is_retryable(session: Session) -> None:
    one, other = session(), session()
    run(one, "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
    run(one, "SELECT * FROM quarrel")
    run(other, "UPDATE quarrel SET word = 'b' WHERE id = 1")
    other.commit()
    with error_of("40001") as found:
        run(one, "UPDATE quarrel SET word = 'a' WHERE id = 1")
    assert is_retryable(found[0])


def test_lock_that_was_not_given_is_retryable(session: Session) -> None:
    one, other = session(), session()
    run(one, "LOCK TABLE quarrel")
    with error_of("55P03") as found:
        run(other, "SET LOCAL lock_timeout = '10ms'; SELECT * FROM quarrel")
    assert is_retryable(found[0])


def test_session_that_is_terminated_at_work_is_retryable(session: Session) -> None:
    one = session()
    with pytest.raises(DBAPIError) as caught:
        run(one, "SELECT pg_terminate_backend(pg_backend_pid()), pg_sleep(60)")
    assert is_retryable(caught.value)
    assert caught.value.connection_invalidated


def test_session_that_was_terminated_before_is_retryable(session: Session) -> None:
    one, other = session(), session()
    pid = one.execute(text("SELECT pg_backend_pid()")).scalar_one()
    run(other, "SELECT pg_terminate_backend(:pid, 10000)", pid=pid)
    with pytest.raises(DBAPIError) as caught:
        run(one, "SELECT 1")
    assert is_retryable(caught.value)
    assert caught.value.connection_invalidated


def test_session_that_idled_in_a_transaction_is_retryable(session: Session) -> None:
    one, other = session(), session()
    pid = one.execute(text("SELECT pg_backend_pid()")).scalar_one()
    run(one, "SET idle_in_transaction_session_timeout = '20ms'")
    gone = "SELECT 1 FROM pg_stat_activity WHERE pid = :pid"
    while other.execute(text(gone), {"pid": pid}).first():
        other.rollback()
    with pytest.raises(DBAPIError) as caught:
        run(one, "SELECT 1")
    assert is_retryable(caught.value)


def test_server_that_is_not_there_is_retryable() -> None:
    engine = single_connection_engine(SecretStr("postgresql://u:hush@127.0.0.1:1/d"))
    with error_of(None) as found:
        engine.connect()
    assert is_retryable(found[0])
    assert "hush" not in describe(found[0])


def test_too_many_connections_are_retryable(
    session: Session, settings: Settings, administrate: Callable[[str], None]
) -> None:
    name = driver_url(settings.database_url).database
    administrate(f"CREATE ROLE crowded LOGIN CONNECTION LIMIT 1; GRANT CONNECT ON DATABASE {name} TO crowded")
    crowded = SecretStr(str(driver_url(settings.database_url).set(username="crowded")))
    engine = single_connection_engine(crowded)
    try:
        with engine.connect(), pytest.raises(DBAPIError) as caught:
            engine.connect()
    finally:
        administrate(f"REVOKE ALL ON DATABASE {name} FROM crowded; DROP ROLE crowded")
    assert is_retryable(caught.value)


def test_closed_connection_is_retryable(session: Session) -> None:
    one = session()
    driver: Any = one.connection.driver_connection
    driver.close()
    with error_of(None) as found:
        run(one, "SELECT 1")
    assert is_retryable(found[0])


# -- errors that stay ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("statement", "code"),
    [
        ("INSERT INTO quarrel VALUES (1, 'hush')", "23505"),
        ("INSERT INTO quarrel VALUES (3, NULL)", "23502"),
        ("SELECT 'hush'::int", "22P02"),
        ("SELECT * FROM nothing", "42P01"),
        ("SELECT 1/0", "22012"),
    ],
)
def test_mistakes_and_refusals_are_final(session: Session, statement: str, code: str) -> None:
    with error_of(code) as found:
        run(session(), statement)
    assert not is_retryable(found[0])
    assert "\n" not in describe(found[0])
    assert "INSERT" not in describe(found[0])


@pytest.mark.parametrize("error", [ValueError("x"), OSError("x"), KeyboardInterrupt()])
def test_errors_of_others_are_not_retryable(error: BaseException) -> None:
    assert not is_retryable(error)
    assert describe(error)


def test_violated_constraint_is_told_by_its_name(session: Session) -> None:
    with error_of("23505") as found:
        run(session(), "INSERT INTO quarrel VALUES (1, 'hush')")
    assert violates_constraint(found[0], "quarrel_pkey")
    assert not violates_constraint(found[0], "quarrel")
    with error_of("42P01") as found:
        run(session(), "SELECT * FROM nothing")
    assert not violates_constraint(found[0], "quarrel_pkey")


def test_other_parameters_are_in_no_description(resources: Resources) -> None:
    with resources.engine.connect() as connection, pytest.raises(DBAPIError) as caught:
        run(connection, "SELECT CAST(:number AS int), CAST(:word AS text)", number="many", word="hush")
    assert "hush" not in describe(caught.value)


# -- connections -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("postgres://u:p@h:1/d", "postgresql+psycopg2://u:p@h:1/d"),
        ("postgresql://u:p@h/d", "postgresql+psycopg2://u:p@h/d"),
        ("postgresql+asyncpg://u:p@h/d", "postgresql+psycopg2://u:p@h/d"),
        ("postgresql+psycopg://u:p@h/d?sslmode=require", "postgresql+psycopg2://u:p@h/d?sslmode=require"),
        ("postgresql://u@/d?host=/run/pg&port=5433", "postgresql+psycopg2://u@/d?host=/run/pg&port=5433"),
        ("postgresql://u:postgres%3A%2F%2F@h/d", "postgresql+psycopg2://u:postgres%3A%2F%2F@h/d"),
    ],
)
def test_every_spelling_names_our_driver(url: str, expected: str) -> None:
    found = driver_url(SecretStr(url))
    assert found.render_as_string(hide_password=False).replace("%2F", "/") == expected.replace("%2F", "/")


def engine_settings(engine: Engine) -> dict[str, str]:
    with engine.connect() as connection:
        return {
            name: connection.execute(text(f"SHOW {name}")).scalar_one()
            for name in (
                "application_name", "statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout"
            )
        }  # fmt: skip


def test_transaction_is_bounded_and_leaves_the_session_as_it_was(settings: Settings) -> None:
    engine = make_engine(settings, application="ingest test")
    before = engine_settings(engine)
    with transaction(engine, 7) as connection:
        limits = [
            connection.execute(text(f"SHOW {name}")).scalar_one()
            for name in ("statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout")
        ]
    assert limits == ["7s", "5s", "1min"]
    assert engine_settings(engine) == before
    assert before["application_name"] == "ingest test"
    engine.dispose()


def test_transaction_commits_at_its_end_or_not_at_all(resources: Resources) -> None:
    def written(name: str) -> int:
        with transaction(resources.engine) as connection:
            return len(
                connection.execute(text("SELECT 1 FROM tenants WHERE name = :name"), {"name": name}).all()
            )

    def write(name: str, statement: str) -> None:
        with transaction(resources.engine) as connection:
            run(connection, "INSERT INTO tenants (name) VALUES (:name)", name=name)
            run(connection, statement)

    write("kept", "SELECT 1")
    with pytest.raises(DBAPIError):
        write("undone", "SELECT 1/0")
    assert (written("kept"), written("undone")) == (1, 0)


def test_engine_mends_a_connection_that_died_in_the_pool(
    resources: Resources, connection: Connection
) -> None:
    with resources.engine.connect() as pooled:
        pid = pooled.execute(text("SELECT pg_backend_pid()")).scalar_one()
    connection.execute(text("SELECT pg_terminate_backend(:pid, 10000)"), {"pid": pid})
    for _ in range(2):
        with transaction(resources.engine) as found:
            assert found.execute(text("SELECT 1")).scalar_one() == 1


@pytest.mark.parametrize(
    ("part", "hint"), [({"database": "nowhere"}, "create it"), ({"username": "nobody"}, "user name")]
)
def test_database_that_refuses_us_is_said_in_one_line(
    postgres: RunningPostgres, part: dict[str, Any], hint: str
) -> None:
    url = driver_url(SecretStr(postgres.url)).set(password="hush").set(**part)
    with pytest.raises(DatabaseUnavailableError) as caught:
        reach(SecretStr(url.render_as_string(hide_password=False)), lambda _: None)
    said = str(caught.value)
    assert "does not exist" in said
    assert hint in said
    assert "\n" not in said
    assert "hush" not in said


@pytest.mark.parametrize(
    ("said", "hint"),
    [
        ('FATAL:  password authentication failed for user "u"', "password in DATABASE_URL"),
        ("fe_sendauth: no password supplied", "put the password"),
        ("FATAL:  sorry, too many clients already", "max_connections"),
        ("could not translate host name", "check that PostgreSQL runs there"),
    ],
)
def test_hint_follows_what_the_server_says(said: str, hint: str) -> None:
    error = DBAPIError("connect", None, psycopg2.OperationalError(f"{said}\nmore lines"))
    url = SecretStr("postgresql://u:hush@h/d")
    assert hint in unavailable(url, error).hint
    assert (
        hint.replace("DATABASE_URL", "SEARCH_DATABASE_URL")
        in unavailable(url, error, "SEARCH_DATABASE_URL").hint
    )


def test_reach_names_the_setting_the_url_comes_from() -> None:
    with pytest.raises(DatabaseUnavailableError) as caught:
        reach(SecretStr("postgresql://u:hush@127.0.0.1:1/d"), lambda _: None, "SEARCH_DATABASE_URL")
    assert "127.0.0.1:1/d is not usable" in caught.value.message
    assert "that SEARCH_DATABASE_URL names" in caught.value.hint


def test_role_that_may_not_read_is_said_in_one_line(
    settings: Settings, administrate: Callable[[str], None]
) -> None:
    administrate("CREATE ROLE stranger LOGIN")
    url = SecretStr(str(driver_url(settings.database_url).set(username="stranger")))
    try:
        with pytest.raises(SchemaError) as caught:
            reach(url, lambda connection: connection.execute(text("SELECT 1 FROM documents")))
    finally:
        administrate("DROP ROLE stranger")
    assert "may not read the schema: permission denied for table documents" in caught.value.message


def test_reach_gives_the_answer(settings: Settings) -> None:
    assert (
        reach(settings.database_url, lambda connection: connection.execute(text("SELECT 5")).scalar_one())
        == 5
    )
