"""The search role tries to see another tenant: by every kind of statement, and by every way around them."""

import io
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from random import Random
from typing import Any
from uuid import UUID, uuid4

import pytest
from psycopg2 import errors as pg
from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from tests.integration.tenancy import DIMENSION, OPEN, ROWS, SEALED, SECRET, World, build
from worker.db import policies
from worker.db.grants import Role
from worker.db.tenants import enter, set_tenant, tenant_transaction
from worker.embedded import RunningValkey
from worker.errors import IngestError

READABLE = [table for table in policies.TENANT_TABLES if table not in ("batches", "pauses")]
LEAVES = ["chunks_s000001", "chunks_s000003", "chunks_s000004", "chunks_trash", "postings_s000001"]
VECTOR = str([1.0] + [0.1] * (DIMENSION - 1))
OURS_IN_SIGHT = (2 * ROWS + ROWS // 4 + 80) // 8


@pytest.fixture(scope="module")
def world(new_database: Callable[[str | None], str], valkey: RunningValkey) -> World:
    return build(new_database, valkey, "attack_")


@pytest.fixture(scope="module")
def pooled(world: World) -> Iterator[Engine]:
    """A pool of one connection, as the search role: what one transaction leaves, the next finds."""
    engine = world.engine()
    yield engine
    engine.dispose()


@contextmanager
def nobody(engine: Engine) -> Iterator[Connection]:
    """A transaction that sets no tenant."""
    with engine.begin() as connection:
        yield connection


def refused(connection: Connection, statement: str, **parameters: Any) -> type[Exception]:
    """Run what must fail; gives what PostgreSQL called it."""
    with pytest.raises(DBAPIError) as failure, connection.begin_nested():
        connection.execute(text(statement), parameters)
    assert SECRET not in str(failure.value.orig)
    assert failure.value.orig is not None
    return type(failure.value.orig)


# -- no tenant, a wrong one, and nonsense -----------------------------------------------------------


@pytest.mark.parametrize("table", READABLE)
def test_without_a_tenant_nothing_is_seen(table: str, pooled: Engine) -> None:
    with nobody(pooled) as connection:
        assert connection.execute(text(f"SELECT count(*) FROM {table}")).scalar_one() == 0


@pytest.mark.parametrize("table", READABLE)
def test_with_a_tenant_its_own_rows_are_seen(table: str, world: World, pooled: Engine) -> None:
    for tenant in (world.ours, world.theirs):
        with tenant_transaction(pooled, tenant) as connection:
            owners = connection.execute(text(f"SELECT DISTINCT tenant_id FROM {table}")).scalars()
            assert list(owners) == [tenant]


@pytest.mark.parametrize("table", READABLE)
@pytest.mark.parametrize("value", ["", "6d1f8f6c-64f0-4b6a-9d0b-9e2b7a0c5d11", str(UUID(int=0))])
def test_who_is_nobody_sees_nothing(value: str, table: str, pooled: Engine) -> None:
    with nobody(pooled) as connection:
        connection.execute(text("SELECT set_config('app.tenant', :value, true)"), {"value": value})
        assert connection.execute(text(f"SELECT count(*) FROM {table}")).scalar_one() == 0


@pytest.mark.parametrize("value", [" ", "ours", "*", "%", "' OR true --", "{ours}, {theirs}", "null"])
def test_nonsense_is_an_error_and_not_a_way_in(value: str, world: World, pooled: Engine) -> None:
    value = value.format(ours=world.ours, theirs=world.theirs)
    with nobody(pooled) as connection:
        connection.execute(text("SELECT set_config('app.tenant', :value, true)"), {"value": value})
        for table in READABLE:
            assert refused(connection, f"SELECT * FROM {table}") is pg.InvalidTextRepresentation


def test_the_tenant_ends_with_its_transaction_however_that_ends(world: World, pooled: Engine) -> None:
    count = text("SELECT count(*) FROM chunks")

    def left() -> int:
        with nobody(pooled) as connection:
            return int(connection.execute(count).scalar_one())

    with tenant_transaction(pooled, world.ours):
        pass
    assert left() == 0
    with pytest.raises(DBAPIError), tenant_transaction(pooled, world.ours) as connection:
        connection.execute(text("SELECT 1 / 0"))
    assert left() == 0
    with suppress(KeyError), tenant_transaction(pooled, world.ours) as connection:
        set_tenant(connection, world.theirs)
        raise KeyError
    assert left() == 0
    with tenant_transaction(pooled, world.ours) as connection:
        before = connection.execute(count).scalar_one()
        with suppress(DBAPIError), connection.begin_nested():
            set_tenant(connection, world.theirs)
            connection.execute(text("SELECT 'x'::int"))
        assert connection.execute(count).scalar_one() == before == OURS_IN_SIGHT, "and to a savepoint"
    assert left() == 0


def test_outside_a_transaction_no_tenant_is_left_behind(world: World, pooled: Engine) -> None:
    with pooled.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        set_tenant(connection, world.ours)
        assert connection.execute(text("SELECT count(*) FROM chunks")).scalar_one() == 0


def test_tenants_at_the_same_time_on_one_connection_never_meet(world: World, pooled: Engine) -> None:
    """What goes wrong in one transaction, on the server or before it, is not seen in the next."""
    meeting = threading.Barrier(8)

    def asks(number: int) -> int:
        chance, seen = Random(number), 0
        meeting.wait()
        for _ in range(40):
            tenant = chance.choice([world.ours, world.theirs, None])
            trouble = chance.choice(["SELECT 1", "SELECT 1 / 0", "SELECT * FROM chunks_s000001", ":bound"])
            try:
                with pooled.begin() as connection:
                    if tenant is not None:
                        set_tenant(connection, tenant)
                    found = set(connection.execute(text("SELECT tenant_id FROM documents")).scalars())
                    assert found == ({tenant} if tenant else set())
                    seen += len(found)
                    connection.execute(text(trouble))
            except SQLAlchemyError:
                continue
        return seen

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(asks, range(8))) > 100


# -- every shape of SELECT ----------------------------------------------------------------------------

SHAPES = [
    f"SELECT * FROM chunks ORDER BY embedding <=> '{VECTOR}' LIMIT 50",
    f"SELECT * FROM chunks ORDER BY embedding <-> '{VECTOR}' LIMIT 50",
    f"SELECT * FROM chunks WHERE embedding <=> '{VECTOR}' < 0.9 LIMIT 500",
    f"SELECT * FROM chunks WHERE tenant_id <> '{{ours}}' ORDER BY embedding <=> '{VECTOR}' LIMIT 50",
    "SELECT * FROM chunks WHERE tenant_id = '{theirs}' OR true LIMIT 900",
    "SELECT * FROM chunks WHERE segment = -1",
    "SELECT * FROM chunks WHERE chunk_id IN (SELECT chunk_id FROM chunks) LIMIT 900",
    "SELECT * FROM postings WHERE term IN ('common', '11', 'SECRET1')",
    "SELECT * FROM postings WHERE tenant_id = '{theirs}' AND term = 'common'",
    "SELECT term, sum(chunks) FROM postings GROUP BY term ORDER BY 1 DESC LIMIT 50",
    "SELECT p.*, d.filename FROM postings p JOIN documents d ON d.tenant_id <> p.tenant_id",
    "SELECT c.text FROM chunks c JOIN documents d USING (document_id) JOIN tenants t ON true LIMIT 900",
    "SELECT c.* FROM tenants t, LATERAL (SELECT c.text, t.name FROM chunks c LIMIT 900) c",
    "SELECT DISTINCT text, tenant_id FROM chunks",
    "SELECT string_agg(DISTINCT text, ','), min(text), max(text), array_agg(DISTINCT tenant_id) FROM chunks",
    "SELECT json_agg(t)::text FROM tenants t",
    "SELECT t, t.*, row_to_json(t)::text, t.ctid, t.tableoid::regclass::text FROM tenants t",
    "SELECT text, lag(text) OVER (ORDER BY number), rank() OVER (ORDER BY text) FROM chunks LIMIT 900",
    "SELECT name FROM tenants UNION ALL SELECT name FROM projects UNION SELECT text FROM chunks",
    "SELECT text FROM chunks EXCEPT SELECT '1'",
    "SELECT (SELECT max(text) FROM chunks), (SELECT count(*) FROM documents WHERE tenant_id = '{theirs}')",
    "SELECT 1 WHERE EXISTS (SELECT 1 FROM documents WHERE tenant_id = '{theirs}')",
    "WITH RECURSIVE r AS (SELECT text, 1 n FROM chunks UNION SELECT text, n + 1 FROM r WHERE n < 3) TABLE r",
    "WITH all_of AS MATERIALIZED (SELECT * FROM chunks) SELECT * FROM all_of LIMIT 900",
    "SELECT * FROM chunks TABLESAMPLE SYSTEM (100) LIMIT 900",
    "SELECT * FROM chunks TABLESAMPLE BERNOULLI (50) LIMIT 900",
    "SELECT ctid, text FROM chunks WHERE ctid IN ('(0,1)', '(0,2)', '(0,3)', '(0,4)')",
    "SELECT text FROM chunks WHERE number BETWEEN 1 AND 900",
    "SELECT text FROM chunks WHERE text LIKE '%' ORDER BY text DESC LIMIT 20",
    'SELECT text FROM chunks WHERE metadata @> \'{{"n": "SECRET"}}\'',
    "SELECT filename, source_path, metadata FROM documents WHERE source_path ~ '.*'",
    "SELECT * FROM evaluation_runs",
    "SELECT * FROM projects FULL JOIN tenants USING (tenant_id)",
    "SELECT * FROM ts_stat('SELECT to_tsvector(''simple'', text) FROM chunks')",
    "SELECT name, setting FROM pg_settings WHERE name LIKE 'app.%'",
    "TABLE tenants",
    "SELECT GROUPING(text), text, count(*) FROM chunks GROUP BY ROLLUP (text)",
]


@pytest.mark.parametrize("shape", SHAPES)
def test_no_shape_of_select_shows_a_row_of_the_other(shape: str, world: World, pooled: Engine) -> None:
    statement = shape.format(ours=world.ours, theirs=world.theirs)
    with tenant_transaction(pooled, world.ours) as connection:
        connection.execute(text("SET LOCAL hnsw.iterative_scan = relaxed_order"))
        rows = connection.execute(text(statement)).all()
    assert SECRET not in repr(rows)
    assert str(world.theirs) not in repr(rows)
    assert "secret" not in repr(rows), "nor its words"


COUNTS = {"chunks": OURS_IN_SIGHT, "documents": 1, "tenants": 1, "postings": (2 * ROWS + ROWS // 4) + 3}


@pytest.mark.parametrize("table", COUNTS)
def test_nor_is_it_counted(table: str, world: World, pooled: Engine) -> None:
    with tenant_transaction(pooled, world.ours) as connection:
        for counted in ("count(*)", "count(*) FILTER (WHERE true)", "sum(1)"):
            found = connection.execute(text(f"SELECT {counted} FROM {table}")).scalar_one()
            assert found == COUNTS[table]


# Each fails on the stranger's rows, or tells them, where it is evaluated before the policy.
LEAKS = [
    "SELECT count(*) FROM chunks WHERE text::int = 1",
    "SELECT count(*) FROM chunks WHERE 1 / (CASE text WHEN 'SECRET' THEN 0 ELSE 1 END) = 1",
    "SELECT count(*) FROM chunks WHERE (metadata ->> 'n')::int = 1",
    "SELECT count(*) FROM documents WHERE source_path::numeric / 1 > 0",
    "SELECT count(*) FROM documents WHERE 1 / (length(source_path) - 6) < 9",
    "SELECT count(*) FROM tenants WHERE (metadata ->> 'n')::int = 1",
    "SELECT count(*) FROM postings WHERE term <> 'common' AND term::bigint > 0",
    "SELECT count(*) FROM evaluation_runs WHERE query::int = 1",
    "SELECT count(*) FROM projects p JOIN chunks c ON c.text::int = p.name::int",
    "SELECT text::int FROM chunks ORDER BY text::int LIMIT 5",
    "SELECT sum(text::int) FROM chunks GROUP BY text::int HAVING sum(text::int) > 0",
    "SELECT count(*) FROM chunks WHERE embedding <=> {short} < 2",
    "SELECT * FROM chunks ORDER BY embedding <=> {short} LIMIT 3",
]


SHORT = f"(CASE text WHEN 'SECRET' THEN '[1]' ELSE '{VECTOR}' END)::vector"


@pytest.mark.parametrize("leak", LEAKS)
def test_no_predicate_fails_on_a_row_of_the_other(leak: str, world: World, pooled: Engine) -> None:
    with tenant_transaction(pooled, world.ours) as connection:
        assert connection.execute(text(leak.format(short=SHORT))).all()
        for setting in ("enable_seqscan", "enable_indexscan"):
            connection.execute(text(f"SET LOCAL {setting} = off"))
            assert connection.execute(text(leak.format(short=SHORT))).all()


def told(connection: Connection, statement: str) -> list[str]:
    """Run a statement past SQLAlchemy, which swallows notices; gives these."""
    driver: Any = connection.connection.driver_connection
    driver.notices.clear()
    with driver.cursor() as cursor:
        cursor.execute(statement)
    return list(driver.notices)


def test_a_function_of_ones_own_is_shown_no_row_of_the_other(world: World, pooled: Engine) -> None:
    with tenant_transaction(pooled, world.ours) as connection:
        connection.execute(
            text("""
                CREATE FUNCTION pg_temp.tell(told text) RETURNS bool LANGUAGE plpgsql COST 0.0000001
                AS $$BEGIN RAISE NOTICE 'told %', told; RETURN true; END$$""")
        )
        for statement in (
            "SELECT count(*) FROM chunks WHERE pg_temp.tell(text) AND segment = 1",
            "SELECT count(*) FROM documents WHERE pg_temp.tell(source_path)",
            "SELECT count(*) FROM tenants t JOIN projects p USING (tenant_id) WHERE pg_temp.tell(p.name)",
            "SELECT count(*) FROM postings WHERE term = 'common' AND pg_temp.tell(tenant_id::text)",
        ):
            said = "".join(told(connection, statement))
            assert "told" in said
            assert SECRET not in said
            assert str(world.theirs) not in said
        connection.rollback()


def test_a_block_of_code_sees_what_its_transaction_sees(world: World, pooled: Engine) -> None:
    block = """
        DO $$DECLARE seen text; BEGIN
            EXECUTE 'SELECT string_agg(DISTINCT text, '','') FROM chunks' INTO seen;
            RAISE NOTICE 'seen %', seen;
        END$$"""
    with tenant_transaction(pooled, world.ours) as connection:
        assert told(connection, block) == ["NOTICE:  seen 1\n"]
        inner = block.replace("FROM chunks", "FROM chunks_s000001")
        assert refused(connection, inner) is pg.InsufficientPrivilege


def test_explaining_shows_no_more_than_asking(world: World, pooled: Engine) -> None:
    """Estimates and counts of filtered rows are the planner's; rows, and whose they are, are not told."""
    explain = "EXPLAIN (ANALYZE, FORMAT JSON) "
    with tenant_transaction(pooled, world.ours) as connection:
        [ours] = connection.execute(text(explain + "SELECT text FROM chunks")).scalar_one()
        assert ours["Plan"]["Actual Rows"] == OURS_IN_SIGHT
        theirs = f"SELECT text FROM chunks WHERE tenant_id = '{world.theirs}'"
        [foreign] = connection.execute(text(explain + theirs)).scalar_one()
        assert foreign["Plan"]["Actual Rows"] == 0
        assert SECRET not in repr(foreign)
        for leaf in LEAVES:
            assert refused(connection, f"EXPLAIN SELECT * FROM {leaf}") is pg.InsufficientPrivilege


def test_a_statement_prepared_for_one_tenant_answers_another_with_its_own(
    world: World, pooled: Engine
) -> None:
    with tenant_transaction(pooled, world.ours) as connection:
        connection.execute(text("SET LOCAL plan_cache_mode = force_generic_plan"))
        connection.execute(text("PREPARE whose AS SELECT DISTINCT tenant_id FROM chunks"))
        assert list(connection.execute(text("EXECUTE whose")).scalars()) == [world.ours]
    with tenant_transaction(pooled, world.theirs) as connection:
        assert list(connection.execute(text("EXECUTE whose")).scalars()) == [world.theirs]
    with nobody(pooled) as connection:
        assert connection.execute(text("EXECUTE whose")).all() == []
        connection.execute(text("DEALLOCATE whose"))


def test_a_cursor_held_beyond_its_transaction_has_its_tenants_rows_alone(
    world: World, pooled: Engine
) -> None:
    with tenant_transaction(pooled, world.ours) as connection:
        connection.execute(text("DECLARE kept CURSOR WITH HOLD FOR SELECT DISTINCT tenant_id FROM chunks"))
    with tenant_transaction(pooled, world.theirs) as connection:
        assert list(connection.execute(text("FETCH ALL FROM kept")).scalars()) == [world.ours]
        connection.execute(text("CLOSE kept"))


# -- around the policies -----------------------------------------------------------------------------


@pytest.mark.parametrize("leaf", LEAVES)
def test_leaves_are_refused(leaf: str, world: World, pooled: Engine) -> None:
    with tenant_transaction(pooled, world.ours) as connection:
        for statement in (
            "SELECT * FROM {leaf}",
            "SELECT 1 FROM ONLY {leaf}",
            "SELECT count(*) FROM {leaf}",
            "SELECT tenant_id FROM {leaf} LIMIT 0",
            "SELECT c.text FROM chunks c JOIN {leaf} USING (tenant_id)",
            "SELECT * FROM ts_stat('SELECT to_tsvector(tenant_id::text) FROM {leaf}')",
            "COPY {leaf} TO STDOUT",
            "INSERT INTO {leaf} DEFAULT VALUES",
            "UPDATE {leaf} SET tenant_id = tenant_id",
            "DELETE FROM {leaf}",
            "TRUNCATE {leaf}",
            "LOCK TABLE {leaf} IN ACCESS SHARE MODE",
        ):
            assert refused(connection, statement.format(leaf=leaf)) is pg.InsufficientPrivilege, statement


@pytest.mark.parametrize("table", READABLE)
def test_copying_out_is_bound_too(table: str, world: World, pooled: Engine) -> None:
    with tenant_transaction(pooled, world.ours) as connection:
        driver: Any = connection.connection.driver_connection
        shown = io.StringIO()
        with driver.cursor() as cursor:
            cursor.copy_expert(f"COPY (SELECT tenant_id FROM {table}) TO STDOUT", shown)
            assert set(shown.getvalue().split()) == {str(world.ours)}
    if table in {"tenants", "projects", "evaluation_runs"}:
        with tenant_transaction(pooled, world.ours) as connection:
            driver = connection.connection.driver_connection
            shown = io.StringIO()
            with driver.cursor() as cursor:
                cursor.copy_expert(f"COPY {table} TO STDOUT", shown)
            assert shown.getvalue().count("\n") == 1
            assert SECRET not in shown.getvalue()


AROUND = [
    "SET ROLE {owner}",
    "SET ROLE {ingest}",
    "SET ROLE {maintenance}",
    "SET ROLE postgres",
    "SET SESSION AUTHORIZATION {owner}",
    "SELECT content FROM documents",
    "SELECT * FROM documents",
    "SELECT * FROM batches",
    "SELECT * FROM maintenance_runs",
    "SELECT * FROM index_builds()",
    "SELECT * FROM chunks FOR UPDATE",
    "SELECT * FROM pg_statistic",
    "SELECT * FROM pg_authid",
    "SELECT nextval('chunk_numbers')",
    "SELECT setval('chunk_numbers', 1)",
    "SELECT last_value FROM chunk_numbers",
    "SELECT pg_read_file('PG_VERSION')",
    "SELECT pg_ls_dir('.')",
    "SELECT lo_import('/etc/passwd')",
    "COPY tenants FROM PROGRAM 'true'",
    "COPY (SELECT 1) TO PROGRAM 'true'",
    "COPY (SELECT 1) TO '/tmp/out'",
    "CREATE TABLE mine (id int)",
    "CREATE TABLE mine AS SELECT * FROM chunks",
    "CREATE VIEW mine AS SELECT * FROM chunks",
    "CREATE MATERIALIZED VIEW mine AS SELECT * FROM chunks",
    "CREATE FUNCTION mine() RETURNS int LANGUAGE sql AS 'SELECT 1'",
    "CREATE TYPE mine AS ENUM ('one')",
    "CREATE SCHEMA mine",
    "CREATE ROLE mine",
    "CREATE POLICY mine ON chunks USING (true)",
    "ALTER POLICY tenant ON chunks USING (true)",
    "DROP POLICY tenant ON chunks",
    "ALTER TABLE chunks DISABLE ROW LEVEL SECURITY",
    "ALTER TABLE chunks OWNER TO {search}",
    "ALTER FUNCTION tenant_named(text) SECURITY INVOKER",
    "CREATE INDEX ON chunks (text)",
    "CREATE STATISTICS mine ON text, tenant_id FROM documents",
    "CREATE TRIGGER mine BEFORE UPDATE ON tenants EXECUTE FUNCTION suppress_redundant_updates_trigger()",
    "CREATE RULE mine AS ON SELECT TO tenants DO INSTEAD SELECT 1",
    "CREATE TEMP TABLE mine PARTITION OF chunks FOR VALUES IN (99)",
    "TRUNCATE chunks",
    "DELETE FROM chunks",
    "UPDATE chunks SET tenant_id = '{ours}'",
    "INSERT INTO documents SELECT * FROM documents",
    "INSERT INTO tenants (name) VALUES ('mine')",
    "UPDATE segments SET state = 'open'",
    "DELETE FROM evaluation_runs",
]


@pytest.mark.parametrize("statement", AROUND)
def test_what_is_not_granted_is_refused(statement: str, world: World, pooled: Engine) -> None:
    names = {**{role.value: name for role, name in world.roles.items()}, "ours": world.ours}
    with tenant_transaction(pooled, world.ours) as connection:
        failed = refused(connection, statement.format(**names))
    assert failed in {pg.InsufficientPrivilege, pg.WrongObjectType}


def test_turning_row_security_off_shows_nothing(world: World, pooled: Engine) -> None:
    with tenant_transaction(pooled, world.ours) as connection:
        connection.execute(text("SET LOCAL row_security = off"))
        for table in READABLE:
            assert refused(connection, f"SELECT 1 FROM {table}") is pg.InsufficientPrivilege
        assert enter(connection, "ours") == world.ours


def test_statistics_tell_nothing_of_what_is_in_the_tables(world: World, pooled: Engine) -> None:
    with tenant_transaction(pooled, world.ours) as connection:
        for view in ("pg_stats", "pg_stats_ext", "pg_stats_ext_exprs"):
            seen = connection.execute(
                text(f"SELECT DISTINCT tablename FROM {view} WHERE schemaname = 'public'")
            )
            assert not {
                name
                for name in seen.scalars()
                if name.startswith(("chunks", "postings", *READABLE, "batches"))
            }
        others = connection.execute(text("SELECT query FROM pg_stat_activity WHERE pid <> pg_backend_pid()"))
        assert set(others.scalars()) <= {"<insufficient privilege>", "", None}
        last = "SELECT last_value FROM pg_sequences WHERE sequencename = 'chunk_numbers'"
        assert connection.execute(text(last)).scalar_one() is None


def test_a_name_gives_an_id_and_nothing_else(world: World, pooled: Engine) -> None:
    with nobody(pooled) as connection:
        named = text("SELECT tenant_named(:name)")
        assert connection.execute(named, {"name": "theirs"}).scalar_one() == world.theirs
        for name in ("", "nobody", "%", "' OR true --", "THEIRS", "theirs ", None):
            assert connection.execute(named, {"name": name}).scalar_one() is None
        assert connection.execute(text("SELECT count(*) FROM tenants")).scalar_one() == 0


def test_the_function_that_names_cannot_be_led_astray(world: World, pooled: Engine) -> None:
    with nobody(pooled) as connection:
        connection.execute(
            text(f"CREATE TEMP TABLE tenants AS SELECT 'theirs' AS name, '{uuid4()}'::uuid AS tenant_id")
        )
        connection.execute(
            text("""CREATE FUNCTION pg_temp.texteq(text, text) RETURNS bool LANGUAGE sql AS 'SELECT true';
                    CREATE OPERATOR pg_temp.= (LEFTARG = text, RIGHTARG = text, FUNCTION = pg_temp.texteq);
                    SET LOCAL search_path = pg_temp, public, pg_catalog""")
        )
        assert enter(connection, "theirs") == world.theirs
        with pytest.raises(IngestError, match="there is no tenant 'nobody'"):
            enter(connection, "nobody")
        connection.rollback()


# -- what it may write ---------------------------------------------------------------------------------

RECORD = "INSERT INTO evaluation_runs (run_id, tenant_id, query) VALUES (:run, :tenant, 'q')"


def test_a_search_is_recorded_and_judged_by_its_own_tenant_alone(world: World, pooled: Engine) -> None:
    run, stranger = uuid4(), uuid4()
    judged = "UPDATE evaluation_runs SET thumbs = 1, quality_score = 0.5, metadata = '{}', updated_at = now()"
    with tenant_transaction(pooled, world.theirs) as connection:
        connection.execute(text(RECORD), {"run": stranger, "tenant": world.theirs})
    with tenant_transaction(pooled, world.ours) as connection:
        connection.execute(text(RECORD), {"run": run, "tenant": world.ours})
        mine = text(f"{judged} WHERE run_id = :run")
        assert connection.execute(mine, {"run": run}).rowcount == 1
        assert connection.execute(mine, {"run": stranger}).rowcount == 0
        for tenant in (world.theirs, uuid4()):
            assert refused(connection, RECORD, run=uuid4(), tenant=tenant) is pg.InsufficientPrivilege
        upsert = f"{RECORD} ON CONFLICT (run_id) DO UPDATE SET thumbs = 1"
        assert refused(connection, upsert, run=stranger, tenant=world.ours) is pg.InsufficientPrivilege
        for column in ("query = 'x'", f"tenant_id = '{world.theirs}'", "response = '{}'", "run_id = run_id"):
            change = f"UPDATE evaluation_runs SET {column}"
            assert refused(connection, change) is pg.InsufficientPrivilege
    with world.engine(Role.INGEST).begin() as connection:
        kept = text("SELECT thumbs FROM evaluation_runs WHERE run_id = :run")
        assert connection.execute(kept, {"run": stranger}).scalar_one() is None
        assert connection.execute(kept, {"run": run}).scalar_one() == 1


def test_a_record_needs_a_tenant(world: World, pooled: Engine) -> None:
    with nobody(pooled) as connection:
        for tenant in (world.ours, world.theirs):
            assert refused(connection, RECORD, run=uuid4(), tenant=tenant) is pg.InsufficientPrivilege


def test_the_world_is_as_it_was_meant(world: World) -> None:
    """What is not seen above is there."""
    with world.engine(Role.OWNER).begin() as connection:
        for table in policies.TENANT_TABLES:
            owners = connection.execute(text(f"SELECT DISTINCT tenant_id FROM {table}")).scalars()
            assert set(owners) == {world.ours, world.theirs}
        seen = connection.execute(text(f"SELECT count(*) FROM chunks WHERE text = '{SECRET}'")).scalar_one()
        assert seen == 7 * OURS_IN_SIGHT
        states = connection.execute(text("SELECT segment FROM segments WHERE state IN ('sealed', 'open')"))
        assert set(states.scalars()) == {*SEALED, OPEN}
