"""`ingest roles`: what each role may do, that it mends what was undone, and everything it refuses."""

import base64
import hashlib
import hmac
import itertools
import json
import os
import re
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr
from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError, ProgrammingError
from tenacity import Retrying, retry_if_result, stop_after_delay, wait_fixed

from tests.conftest import Run
from tests.migration.catalogue import differences, read
from worker import Document, submit
from worker import resources as processes
from worker.cli.roles import PasswordFile
from worker.db import policies
from worker.db.engine import driver_url, single_connection_engine, transaction
from worker.db.grants import FUNCTIONS, SEQUENCES, TABLES, WITHHELD, Role
from worker.db.leaves import add_segment
from worker.db.logins import Passwords, role_names, role_urls
from worker.db.models import schema
from worker.db.policies import loopholes
from worker.db.roles import make_roles
from worker.embedded import RunningPostgres
from worker.errors import DatabaseUnavailableError, Exit, IngestError, SchemaError
from worker.maintenance.run import CHORES, run_chore
from worker.resources import Resources
from worker.settings import Settings
from worker.types import EmbeddingType

PRIVILEGES = ("SELECT", "INSERT", "UPDATE", "DELETE", "TRUNCATE", "REFERENCES", "TRIGGER")
OURS = ["alembic_version", *schema(256, EmbeddingType.VECTOR).tables]
_numbers = itertools.count(1)

Administrate = Callable[[str], None]
NewDatabase = Callable[[str | None], str]


@pytest.fixture
def prefix() -> str:
    """Roles are the cluster's: each test has its own."""
    return f"r{next(_numbers)}_"


@pytest.fixture
def names(settings: Settings, prefix: str) -> dict[Role, str]:
    made = make_roles(settings, prefix)
    assert made == set(Role)
    return role_names(prefix)


@contextmanager
def as_role(settings: Settings, name: str) -> Iterator[Connection]:
    url = driver_url(settings.database_url).set(username=name).render_as_string(hide_password=False)
    engine = single_connection_engine(SecretStr(url))
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as opened:
        yield opened


def elsewhere(settings: Settings, url: str) -> Settings:
    return settings.model_copy(update={"database_url": SecretStr(url)})


# -- what each may do -------------------------------------------------------------------------------


def allowed(connection: Connection, name: str, table: str) -> dict[str, set[str]]:
    """What a role may do with a table: {privilege: the columns, or "" for all}."""
    whole = {
        privilege
        for privilege in PRIVILEGES
        if connection.execute(
            text("SELECT has_table_privilege(:name, CAST(:table AS regclass), :privilege)"),
            {"name": name, "table": table, "privilege": privilege},
        ).scalar_one()
    }
    columns = connection.execute(
        text("""
            SELECT privilege, attname FROM pg_attribute,
                   unnest(ARRAY['SELECT', 'INSERT', 'UPDATE', 'REFERENCES']) AS privilege
            WHERE attrelid = CAST(:table AS regclass) AND attnum > 0 AND NOT attisdropped
              AND has_column_privilege(:name, attrelid, attnum, privilege)"""),
        {"name": name, "table": table},
    )
    found: dict[str, set[str]] = {privilege: {""} for privilege in whole}
    for privilege, column in columns:
        if privilege not in whole:
            found.setdefault(privilege, set()).add(column)
    return found


def granted(role: Role, table: str, columns: set[str]) -> dict[str, set[str]]:
    """What grants.py says, in the same form."""
    said = re.findall(r"(\w+)(?: \(([^)]*)\))?(?:, |$)", TABLES[role].get(table, ""))
    found = {privilege: set(listed.split(", ")) if listed else {""} for privilege, listed in said}
    withheld = WITHHELD.get(role, {}).get(table)
    return {"SELECT": columns - {withheld}} if withheld else found


@pytest.mark.parametrize("role", list(TABLES))
def test_a_role_may_do_what_the_table_of_grants_says_and_no_more(
    role: Role, names: dict[Role, str], connection: Connection
) -> None:
    tables = schema(256, EmbeddingType.VECTOR).tables
    for table in OURS:
        columns = set(tables[table].columns.keys()) if table in tables else set()
        assert allowed(connection, names[role], table) == granted(role, table, columns), table
    for sequence, privilege in (("chunk_numbers", "USAGE"),):
        has = text(f"SELECT has_sequence_privilege('{names[role]}', '{sequence}', '{privilege}')")
        assert connection.execute(has).scalar_one() == (sequence in SEQUENCES.get(role, {}))
    for function in policies.FUNCTIONS:
        has = text(f"SELECT has_function_privilege('{names[role]}', '{function}', 'EXECUTE')")
        assert connection.execute(has).scalar_one() == (function in FUNCTIONS[role])


def test_nobody_but_who_ingests_is_granted_a_leaf_and_that_role_may_only_add_rows(
    names: dict[Role, str], connection: Connection
) -> None:
    leaves = list(
        connection.execute(
            text("""SELECT inhrelid::regclass::text FROM pg_inherits
                    WHERE inhparent IN ('chunks'::regclass, 'postings'::regclass)""")
        ).scalars()
    )
    assert len(leaves) == 9
    for leaf in leaves:
        for role in (Role.SEARCH, Role.MONITOR):
            assert allowed(connection, names[role], leaf) == {}
        expected = {} if leaf == "chunks_trash" else {"INSERT": {""}}
        assert allowed(connection, names[Role.INGEST], leaf) == expected


def test_the_owner_has_everything_and_maintenance_inherits_it(
    names: dict[Role, str], connection: Connection
) -> None:
    owners = connection.execute(
        text("""SELECT DISTINCT relowner::regrole::text FROM pg_class
                WHERE relnamespace = 'public'::regnamespace
                UNION SELECT DISTINCT proowner::regrole::text FROM pg_proc
                WHERE proname IN ('tenant_named', 'index_builds')""")
    )
    assert list(owners.scalars()) == [names[Role.OWNER]]
    for role in (Role.OWNER, Role.MAINTENANCE):
        assert set(allowed(connection, names[role], "chunks_s000001")) == set(PRIVILEGES)


def test_no_role_has_a_power_over_the_cluster(names: dict[Role, str], connection: Connection) -> None:
    found = connection.execute(
        text("""
            SELECT rolname, rolcanlogin,
                   rolsuper OR rolbypassrls OR rolcreaterole OR rolcreatedb OR rolreplication
            FROM pg_roles WHERE rolname = ANY(:names)"""),
        {"names": list(names.values())},
    ).all()
    assert sorted(found) == sorted((name, True, False) for name in names.values())
    groups = connection.execute(
        text("""
            SELECT member::regrole::text, roleid::regrole::text FROM pg_auth_members
            WHERE member::regrole::text = ANY(:names)"""),
        {"names": list(names.values())},
    ).all()
    assert sorted(map(tuple, groups)) == [
        (names[Role.MAINTENANCE], names[Role.OWNER]),
        (names[Role.OWNER], "pg_read_all_settings"),
        (names[Role.OWNER], "pg_read_all_stats"),
    ]


def test_who_reads_documents_to_count_them_does_not_read_them(
    names: dict[Role, str], settings: Settings
) -> None:
    for role in (Role.SEARCH, Role.MONITOR):
        with as_role(settings, names[role]) as connection:
            connection.execute(text("SELECT status, source_path, metadata FROM documents")).all()
            with pytest.raises(ProgrammingError, match="permission denied for table documents"):
                connection.execute(text("SELECT content FROM documents"))
    with as_role(settings, names[Role.MONITOR]) as connection:
        for table in ("chunks", "postings", "evaluation_runs"):
            with pytest.raises(ProgrammingError, match=f"permission denied for table {table}"):
                connection.execute(text(f"SELECT count(*) FROM {table}"))


# -- what works as which role ------------------------------------------------------------------------


def in_roles(settings: Settings, prefix: str) -> Settings:
    urls = role_urls(settings, prefix, {})
    fields = {setting.lower(): SecretStr(str(url)) for setting, url in urls.items()}
    del fields["monitor_database_url"]
    return settings.model_copy(update=fields)


@pytest.mark.parametrize("chore", [name for name in CHORES if name != "dispatch"])
def test_every_chore_runs_as_maintenance(
    chore: str, names: dict[Role, str], settings: Settings, prefix: str
) -> None:
    own = in_roles(settings, prefix)
    maintaining = Resources(own.model_copy(update={"database_url": own.maintenance_database_url}))
    assert run_chore(maintaining, chore)["outcome"] == "done"
    with as_role(settings, names[Role.MAINTENANCE]) as connection:
        assert connection.execute(text("SELECT count(*) FROM maintenance_runs")).scalar_one() == 1
    maintaining.close()


@pytest.mark.usefixtures("names")
def test_a_producer_whose_role_may_not_write_is_told_so_in_a_line(
    settings: Settings, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    searching = in_roles(settings, prefix).search_database_url
    mine = Resources(settings.model_copy(update={"database_url": searching}))
    monkeypatch.setitem(processes._mine, os.getpid(), mine)
    with pytest.raises(SchemaError) as refused:
        submit([Document.text("words", source_path="a.txt")])
    mine.close()
    assert refused.value.message == "the database's role may not do this: permission denied for table tenants"
    assert "ingest roles" in refused.value.hint


def test_a_leaf_that_maintenance_makes_is_the_owners_and_takes_rows_of_who_ingests(
    names: dict[Role, str], settings: Settings, connection: Connection
) -> None:
    with as_role(settings, names[Role.MAINTENANCE]) as maintaining:
        add_segment(maintaining, 9, "spare", 256, EmbeddingType.VECTOR)
    for leaf in ("chunks_s000009", "postings_s000009"):
        owner = f"SELECT relowner::regrole::text FROM pg_class WHERE relname = '{leaf}'"
        assert connection.execute(text(owner)).scalar_one() == names[Role.OWNER]
        assert allowed(connection, names[Role.INGEST], leaf) == {"INSERT": {""}}
        assert allowed(connection, names[Role.SEARCH], leaf) == {}


def test_default_privileges_give_nobody_a_leaf(
    names: dict[Role, str], settings: Settings, connection: Connection
) -> None:
    maker = names[Role.MAINTENANCE]
    connection.execute(text(f"ALTER DEFAULT PRIVILEGES FOR ROLE {maker} GRANT SELECT ON TABLES TO PUBLIC"))
    with as_role(settings, maker) as maintaining:
        add_segment(maintaining, 9, "spare", 256, EmbeddingType.VECTOR)
    for leaf in ("chunks_s000009", "postings_s000009"):
        assert allowed(connection, names[Role.INGEST], leaf) == {"INSERT": {""}}
        assert allowed(connection, names[Role.SEARCH], leaf) == {}
    with as_role(settings, names[Role.SEARCH]) as searching:
        assert loopholes(searching) == []


def test_a_leaf_made_where_there_are_no_roles_is_nobody_elses(connection: Connection) -> None:
    add_segment(connection, 9, "spare", 256, EmbeddingType.VECTOR)
    acl = "SELECT relacl FROM pg_class WHERE relname IN ('chunks_s000009', 'postings_s000009')"
    assert list(connection.execute(text(acl)).scalars()) == [None, None]


def test_the_role_that_ingests_works_over_all_tenants_and_copies_into_leaves(
    names: dict[Role, str], settings: Settings
) -> None:
    with as_role(settings, names[Role.INGEST]) as connection:
        connection.execute(text("INSERT INTO tenants (name) VALUES ('a'), ('b')"))
        connection.execute(
            text("""
                INSERT INTO documents (tenant_id, filename, source_path, source_key, file_type, language)
                SELECT tenant_id, 'f', 'f', sha256('f'), 'text', 'english' FROM tenants""")
        )
        documents = connection.execute(text("SELECT document_id, tenant_id FROM documents")).all()
        assert len(documents) == 2
        driver: Any = connection.connection.driver_connection
        with driver.cursor() as cursor:
            rows = "".join(f"{d}\t{t}\t1\t1\tx\tenglish\t\\\\x{'00' * 32}\n" for d, t in documents)
            columns = "document_id, tenant_id, chunk_index, char_length, text, language, content_hash"
            _copy(cursor, f"COPY chunks_s000001 ({columns}) FROM STDIN", rows)
            with pytest.raises(Exception, match="COPY FROM not supported with row-level security"):
                _copy(cursor, f"COPY chunks ({columns}) FROM STDIN", rows)
        for statement in (
            "SELECT 1 FROM segments WHERE state = 'open' FOR KEY SHARE",
            "UPDATE chunks SET segment = -1 WHERE segment = 1",
            "DELETE FROM chunks WHERE segment = -1",
            "UPDATE documents SET updated_at = now()",
            "SELECT tenant_named('a')",
        ):
            assert connection.execute(text(statement)).rowcount > 0, statement
        with pytest.raises(ProgrammingError, match="permission denied for table segments"):
            connection.execute(text("UPDATE segments SET state = 'sealing' WHERE state = 'open'"))


def _copy(cursor: Any, statement: str, rows: str) -> None:
    import io

    cursor.copy_expert(statement, io.StringIO(rows))


def test_monitoring_needs_no_more_than_its_role(
    ingest: Run, names: dict[Role, str], settings: Settings, prefix: str
) -> None:
    url = str(role_urls(settings, prefix, {})["MONITOR_DATABASE_URL"])
    assert ingest("status", DATABASE_URL=url).returncode == Exit.OK
    assert ingest("status", "--json", DATABASE_URL=url).returncode == Exit.OK
    found = {
        f["name"]: f for f in json.loads(ingest("doctor", "--json", DATABASE_URL=url).stdout)["findings"]
    }
    assert {found[name]["state"] for name in ("database", "migrations", "embedding space", "sealing")} == {
        "ok"
    }
    assert "database role" not in found


def test_the_builds_under_way_are_told_without_the_statements_of_others(
    names: dict[Role, str], settings: Settings, other: Connection
) -> None:
    other.execute(text("SELECT 'a question of somebody'"))
    for role in (Role.INGEST, Role.MONITOR):
        with as_role(settings, names[role]) as connection:
            assert connection.execute(text("SELECT * FROM index_builds()")).all() == []
            connection.execute(text("SELECT leaf, phase FROM vacuums()")).all()  # autovacuum may run
            seen = connection.execute(text("SELECT query FROM pg_stat_activity")).scalars()
            assert not [query for query in seen if query and "a question of somebody" in query]


# -- again, and after somebody undid something -----------------------------------------------------


def test_a_second_run_changes_nothing(
    names: dict[Role, str], settings: Settings, prefix: str, connection: Connection
) -> None:
    before = read(connection)
    assert make_roles(settings, prefix) == set()
    assert differences(before, read(connection)) == {}


def test_a_second_run_does_not_wait_for_an_index_to_be_built(
    names: dict[Role, str],
    settings: Settings,
    prefix: str,
    other: Connection,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("worker.db.roles._TRIES", 1)
    other.execute(text("LOCK TABLE chunks_s000001, postings_s000001 IN SHARE UPDATE EXCLUSIVE MODE"))
    assert make_roles(settings, prefix) == set()


UNDONE = [
    "GRANT SELECT ON chunks_s000001 TO {search}",
    "GRANT ALL ON documents TO {search}",
    "GRANT SELECT (content) ON documents TO {monitor}",
    "GRANT ALL ON ALL SEQUENCES IN SCHEMA public TO {search}",
    "GRANT SELECT ON postings_s000001 TO PUBLIC",
    "REVOKE SELECT ON chunks FROM {search}",
    "REVOKE EXECUTE ON FUNCTION tenant_named(text) FROM {search}",
    "REVOKE INSERT ON chunks_s000002 FROM {ingest}",
    "ALTER TABLE documents DISABLE ROW LEVEL SECURITY",
    "DROP POLICY tenant ON chunks",
    "ALTER POLICY tenant ON chunks USING (true)",
    "ALTER POLICY tenant ON chunks WITH CHECK (true)",
    "DROP POLICY {ingest} ON chunks",
    "ALTER POLICY {ingest} ON chunks USING (false)",
    "ALTER POLICY {monitor} ON documents TO {search}",
    "ALTER TABLE chunks OWNER TO postgres",
    "ALTER FUNCTION tenant_named(text) OWNER TO postgres",
    "GRANT CREATE ON SCHEMA public TO PUBLIC",
    "ALTER ROLE {search} NOLOGIN",
    "REVOKE {owner} FROM {maintenance}",
    "REVOKE CREATE ON SCHEMA public FROM {owner}",
]


@pytest.mark.parametrize("undone", UNDONE)
def test_what_was_undone_is_mended(
    undone: str, names: dict[Role, str], settings: Settings, prefix: str, connection: Connection
) -> None:
    def look() -> Any:
        roles = connection.execute(
            text("SELECT rolname, rolcanlogin FROM pg_roles WHERE rolname = ANY(:names) ORDER BY 1"),
            {"names": list(names.values())},
        ).all()
        more = connection.execute(
            text("""SELECT nspacl::text, pg_has_role(:maintenance, :owner, 'USAGE')
                    FROM pg_namespace WHERE nspname = 'public'"""),
            {"maintenance": names[Role.MAINTENANCE], "owner": names[Role.OWNER]},
        ).one()
        return read(connection), list(map(tuple, roles)), tuple(more)

    before = look()
    connection.execute(text(undone.format(**names)))
    assert look() != before
    make_roles(settings, prefix)
    after = look()
    assert differences(before[0], after[0]) == {}
    assert after[1:] == before[1:]


def test_the_owner_mends_what_needs_no_new_role(
    names: dict[Role, str], settings: Settings, prefix: str, connection: Connection
) -> None:
    before = read(connection)
    connection.execute(text(f"GRANT SELECT ON chunks_s000001 TO {names[Role.SEARCH]}"))
    assert make_roles(in_roles(settings, prefix), prefix) == set()
    assert differences(before, read(connection)) == {}


def sessions(connection: Connection, name: str) -> dict[str, str]:
    """What a role's sessions begin with."""
    found = connection.execute(text("SELECT rolconfig FROM pg_roles WHERE rolname = :name"), {"name": name})
    return dict(one.split("=", 1) for one in found.scalar_one() or [])


def test_sessions_of_our_processes_have_limits_and_an_operators_own_stay(
    names: dict[Role, str], settings: Settings, prefix: str, connection: Connection
) -> None:
    ours = {
        "idle_in_transaction_session_timeout": "60s", "tcp_keepalives_idle": "60",
        "tcp_keepalives_interval": "10", "tcp_keepalives_count": "3", "tcp_user_timeout": "90s",
    }  # fmt: skip
    assert {role: sessions(connection, name) for role, name in names.items()} == {
        role: {} if role == Role.OWNER else ours for role in Role
    }
    ingesting = names[Role.INGEST]
    connection.execute(text(f"ALTER ROLE {ingesting} SET tcp_keepalives_idle = 5"))
    connection.execute(text(f"ALTER ROLE {ingesting} RESET tcp_keepalives_count"))
    make_roles(in_roles(settings, prefix), prefix)
    assert "tcp_keepalives_count" not in sessions(connection, ingesting), "the owner may not"
    make_roles(settings, prefix)
    assert sessions(connection, ingesting) == ours | {"tcp_keepalives_idle": "5"}


def test_a_transaction_that_failed_and_was_left_ends(
    names: dict[Role, str], settings: Settings, connection: Connection
) -> None:
    ingesting = names[Role.INGEST]
    connection.execute(text(f"ALTER ROLE {ingesting} SET idle_in_transaction_session_timeout = '100ms'"))
    url = driver_url(settings.database_url).set(username=ingesting)
    engine = single_connection_engine(SecretStr(url.render_as_string(hide_password=False)))
    with suppress(DBAPIError), transaction(engine) as opened:  # whose end finds its session gone
        session = opened.execute(text("SELECT pg_backend_pid()")).scalar_one()
        with suppress(DBAPIError):
            opened.execute(text("SELECT 1/0"))
        there = text("SELECT count(*) FROM pg_stat_activity WHERE pid = :pid")
        gone = Retrying(stop=stop_after_delay(30), wait=wait_fixed(0.05), retry=retry_if_result(bool))
        gone(lambda: connection.execute(there, {"pid": session}).scalar_one())
    assert connection.execute(there, {"pid": session}).scalar_one() == 0


def test_another_database_of_the_cluster_shares_the_roles(
    names: dict[Role, str], settings: Settings, prefix: str, new_database: NewDatabase, template: str
) -> None:
    other = elsewhere(settings, new_database(template))
    assert make_roles(other, prefix) == set()
    with as_role(other, names[Role.INGEST]) as connection:
        assert connection.execute(text("SELECT count(*) FROM tenants")).scalar_one() == 0
    assert make_roles(other, f"{prefix}own_") == set(Role)
    with as_role(other, f"{prefix}own_maintenance") as connection:
        connection.execute(text("TRUNCATE chunks_s000004"))


def test_runs_at_the_same_time_come_to_the_same(
    settings: Settings, prefix: str, new_database: NewDatabase, template: str
) -> None:
    one, two = (elsewhere(settings, new_database(template)) for _ in range(2))
    with ThreadPoolExecutor(6) as pool:
        made = list(pool.map(lambda where: make_roles(where, prefix), [one, two] * 3))
    assert sorted(len(roles) for roles in made) == [0, 0, 0, 0, 0, 5]
    for where in (one, two):
        with as_role(where, f"{prefix}search") as connection:
            assert loopholes(connection) == []


# -- what it refuses --------------------------------------------------------------------------------


def test_a_database_that_is_not_migrated(settings: Settings, new_database: NewDatabase, prefix: str) -> None:
    with pytest.raises(SchemaError, match="not migrated → run `ingest migrate`"):
        make_roles(elsewhere(settings, new_database(None)), prefix)


@pytest.mark.parametrize("prefix", ["", "pg_", "Ingest_", "a b", '"; --', "1", "a" * 41, "é_"])
def test_prefixes_that_make_no_names(prefix: str) -> None:
    with pytest.raises(IngestError, match="cannot begin the names of roles"):
        role_names(prefix)


@pytest.mark.parametrize("power", ["SUPERUSER", "BYPASSRLS", "CREATEROLE", "CREATEDB", "REPLICATION"])
def test_a_role_with_powers_is_somebody_elses(
    power: str, settings: Settings, prefix: str, connection: Connection, administrate: Administrate
) -> None:
    administrate(f"CREATE ROLE {prefix}search {power}")
    before = read(connection)
    with pytest.raises(SchemaError, match=f"{prefix}search exists and has {power}.*NO{power}"):
        make_roles(settings, prefix)
    assert differences(before, read(connection)) == {}
    assert connection.execute(text(f"SELECT to_regrole('{prefix}owner')")).scalar_one() is None


@pytest.mark.parametrize(
    ("group", "seen"),
    [
        ("pg_read_all_data", "is a member of pg_read_all_data"),
        ("{owner}", "is a member of {owner}"),
        ("{ingest}", "finds the policy {ingest} on batches"),
    ],
)
@pytest.mark.parametrize("how", ["", " WITH INHERIT FALSE"])
def test_a_search_role_that_sees_more_in_another_way_is_refused(
    group: str,
    seen: str,
    how: str,
    settings: Settings,
    names: dict[Role, str],
    prefix: str,
    administrate: Administrate,
) -> None:
    administrate(f"GRANT {group.format(**names)} TO {names[Role.SEARCH]}{how}")
    with pytest.raises(SchemaError, match="would not be bound to a tenant: .*" + seen.format(**names)):
        make_roles(settings, prefix)


def test_a_policy_for_everybody_is_found(
    settings: Settings, names: dict[Role, str], prefix: str, connection: Connection
) -> None:
    connection.execute(text("CREATE POLICY theirs ON chunks USING (true)"))
    with pytest.raises(SchemaError, match="it finds the policy theirs on chunks, which is not ours"):
        make_roles(settings, prefix)


def test_who_may_not_make_roles_is_told_what_it_takes(
    settings: Settings, prefix: str, administrate: Administrate
) -> None:
    administrate(f"CREATE ROLE {prefix}plain LOGIN")
    administrate(f"GRANT pg_read_all_data TO {prefix}plain")
    url = driver_url(settings.database_url).set(username=f"{prefix}plain", drivername="postgresql")
    with pytest.raises(DatabaseUnavailableError) as refused:
        make_roles(elsewhere(settings, str(url)), prefix)
    assert refused.value.message == f"{prefix}plain may not do this: permission denied to create role"
    assert "a superuser's, or to one of a role with CREATEROLE" in refused.value.hint


def test_an_administrator_who_is_no_superuser_will_do(
    settings: Settings, prefix: str, connection: Connection, administrate: Administrate
) -> None:
    admin = f"{prefix}admin"
    database = driver_url(settings.database_url).database
    administrate(f"CREATE ROLE {admin} LOGIN CREATEROLE")
    administrate(f"GRANT pg_read_all_stats TO {admin} WITH ADMIN OPTION")
    administrate(f"ALTER DATABASE {database} OWNER TO {admin}")
    everything = connection.execute(
        text("""SELECT CASE relkind WHEN 'S' THEN 'SEQUENCE' ELSE 'TABLE' END, relname FROM pg_class
                WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p', 'S')""")
    )
    for kind, name in everything.all():
        connection.execute(text(f"ALTER {kind} {name} OWNER TO {admin}"))
    for function in policies.FUNCTIONS:
        connection.execute(text(f"ALTER FUNCTION {function} OWNER TO {admin}"))
    url = driver_url(settings.database_url).set(username=admin, drivername="postgresql")
    mine = elsewhere(settings, str(url))
    assert make_roles(mine, prefix) == set(Role)
    assert make_roles(mine, prefix) == set()
    with as_role(settings, f"{prefix}search") as searching:
        assert loopholes(searching) == []


def test_a_table_in_use_is_waited_for_and_then_left(
    settings: Settings, prefix: str, other: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.db.roles._TRIES", 1)
    other.execute(text("SELECT count(*) FROM documents"))
    with pytest.raises(DatabaseUnavailableError, match="lock timeout → another session holds what is needed"):
        make_roles(settings, prefix)
    other.rollback()
    assert make_roles(settings, prefix) == set(Role)


# -- passwords ------------------------------------------------------------------------------------


def fits(connection: Connection, name: str, password: str) -> bool:
    """Whether a password is a role's, by what the server keeps (RFC 5803)."""
    kept = connection.execute(
        text("SELECT rolpassword FROM pg_authid WHERE rolname = :name"), {"name": name}
    ).scalar_one()
    iterations, salt, stored = re.fullmatch(r"SCRAM-SHA-256\$(\d+):(.+)\$(.+):.+", kept).groups()  # type: ignore[union-attr] # it matches
    salted = hashlib.pbkdf2_hmac("sha256", password.encode(), base64.b64decode(salt), int(iterations))
    key = hmac.digest(salted, b"Client Key", "sha256")
    return bool(base64.b64encode(hashlib.sha256(key).digest()).decode() == stored)


def test_new_passwords_are_kept_in_a_file_of_ones_own_and_printed_nowhere(
    ingest: Run, settings: Settings, prefix: str, connection: Connection
) -> None:
    done = ingest("roles", "--prefix", prefix)
    assert done.returncode == Exit.OK, done.stderr
    file = settings.data_dir / "roles.env"
    assert file.stat().st_mode & 0o777 == 0o600
    urls = dict(re.findall(r"^(\w+)='(.*)'$", file.read_text(), re.MULTILINE))
    assert list(urls) == [
        *("DATABASE_URL", "SEARCH_DATABASE_URL", "MAINTENANCE_DATABASE_URL", "DIRECT_DATABASE_URL"),
        "MONITOR_DATABASE_URL",
    ]
    for url in urls.values():
        parsed = driver_url(SecretStr(url))
        assert parsed.username
        assert isinstance(parsed.password, str)
        assert fits(connection, parsed.username, parsed.password)
        assert parsed.password not in done.stdout.decode() + done.stderr.decode()
    assert len({driver_url(SecretStr(url)).password for url in urls.values()}) == 5
    assert str(file) in done.stdout.decode()


def test_a_second_run_leaves_passwords_and_file_alone(
    ingest: Run, settings: Settings, prefix: str, connection: Connection
) -> None:
    ingest("roles", "--prefix", prefix)
    kept = "SELECT rolname, rolpassword FROM pg_authid WHERE rolname LIKE :like ORDER BY 1"
    before = connection.execute(text(kept), {"like": f"{prefix}%"}).all()
    file = settings.data_dir / "roles.env"
    written = file.read_text()
    done = ingest("roles", "--prefix", prefix, "--json")
    assert json.loads(done.stdout)["passwords_in"] is None
    assert file.read_text() == written
    assert connection.execute(text(kept), {"like": f"{prefix}%"}).all() == before


def test_a_file_in_the_way_is_never_written_over(ingest: Run, settings: Settings, prefix: str) -> None:
    file = settings.data_dir / "roles.env"
    file.parent.mkdir()
    file.write_text("precious")
    done = ingest("roles", "--prefix", prefix)
    assert done.returncode == Exit.SETTINGS
    assert b"may hold the only copy of other passwords" in done.stderr
    assert file.read_text() == "precious"
    file.unlink()
    assert ingest("roles", "--prefix", prefix).returncode == Exit.OK


def test_a_run_that_fails_leaves_no_file(
    ingest: Run, settings: Settings, prefix: str, administrate: Administrate
) -> None:
    administrate(f"CREATE ROLE {prefix}search SUPERUSER")
    assert ingest("roles", "--prefix", prefix).returncode == Exit.SCHEMA
    assert not (settings.data_dir / "roles.env").exists()


def test_passwords_that_may_be_in_force_are_kept(
    settings: Settings, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the connection breaks while the server commits, nobody knows what came of it."""
    path = settings.data_dir / "roles.env"
    passwords = Passwords({}, dict.fromkeys(Role, "fresh"))
    file = PasswordFile(path, settings, prefix, passwords)
    file.keep(frozenset(Role))
    file.keep(frozenset())  # the second attempt finds the roles there
    assert file.written
    assert "fresh" in path.read_text()
    file.keep(frozenset(Role))  # or makes them once more
    assert "fresh" in path.read_text()


def test_passwords_of_the_environment_are_set_each_time_and_never_said(
    ingest: Run, settings: Settings, prefix: str, connection: Connection
) -> None:
    given = {f"{role.name}_ROLE_PASSWORD": f"hush'{role}:@/ é" for role in Role}
    for number in ("1", "2"):
        done = ingest("roles", "--prefix", prefix, **{name: value + number for name, value in given.items()})
        assert done.returncode == Exit.OK, done.stderr
        assert b"hush" not in done.stdout + done.stderr
        for role in Role:
            assert fits(connection, f"{prefix}{role}", f"hush'{role}:@/ é{number}")
    assert not (settings.data_dir / "roles.env").exists()


def test_the_server_never_sees_a_password(
    postgres: RunningPostgres, settings: Settings, prefix: str, connection: Connection
) -> None:
    connection.execute(text("ALTER SYSTEM SET log_statement = 'all'"))
    connection.execute(text("SELECT pg_reload_conf()"))
    try:
        make_roles(settings, prefix, Passwords(dict.fromkeys(Role, "hush-hush"), {}))
    finally:
        connection.execute(text("ALTER SYSTEM RESET log_statement"))
        connection.execute(text("SELECT pg_reload_conf()"))
    logged = postgres.log.read_text()
    assert f"ALTER ROLE {prefix}search PASSWORD" in logged
    assert "hush-hush" not in logged


def test_without_passwords_none_is_set_or_shown(
    ingest: Run, settings: Settings, prefix: str, connection: Connection
) -> None:
    done = ingest("roles", "--prefix", prefix, "--no-passwords", "--json")
    said = json.loads(done.stdout)
    assert set(said["roles"].values()) == {"made"}
    assert all("***" not in url for url in said["settings"].values())
    kept = "SELECT count(rolpassword) FROM pg_authid WHERE rolname LIKE :like"
    assert connection.execute(text(kept), {"like": f"{prefix}%"}).scalar_one() == 0


# -- dumps ----------------------------------------------------------------------------------------


def test_a_dump_restored_is_as_safe_as_what_was_dumped(
    postgres: RunningPostgres, names: dict[Role, str], settings: Settings, new_database: NewDatabase
) -> None:
    other = elsewhere(settings, new_database(None))
    programs = postgres._binaries
    dump = subprocess.run(
        [programs / "pg_dump", settings.database_url.get_secret_value()], capture_output=True, check=True
    )
    subprocess.run(
        [programs / "psql", "-qX", "-vON_ERROR_STOP=1", other.database_url.get_secret_value()],
        input=dump.stdout, capture_output=True, check=True,
    )  # fmt: skip
    kinds = ("row security", "policies", "functions", "grants")
    with as_role(settings, "postgres") as one, as_role(other, "postgres") as two:
        before, after = read(one), read(two)
    different = differences(before, after)
    assert {kind: different[kind] for kind in kinds if kind in different} == {}
    with as_role(other, names[Role.SEARCH]) as searching:
        assert loopholes(searching) == []


# -- what the doctor says of it ------------------------------------------------------------------------


def findings(done: Any) -> dict[str, dict[str, str]]:
    return {finding["name"]: finding for finding in json.loads(done.stdout)["findings"]}


def test_the_doctor_looks_at_the_role_that_searches(
    ingest: Run, names: dict[Role, str], settings: Settings, prefix: str, connection: Connection
) -> None:
    def asked(url: str) -> dict[str, str]:
        return findings(ingest("doctor", "--json", SEARCH_DATABASE_URL=url))["search role"]

    url = str(role_urls(settings, prefix, {})["SEARCH_DATABASE_URL"])
    assert asked(url) == {
        "name": "search role", "state": "ok", "seen": "bound to the tenant it searches for", "mend": ""
    }  # fmt: skip
    connection.execute(text(f"GRANT SELECT ON chunks_s000001 TO {names[Role.SEARCH]}"))
    assert asked(url)["seen"] == "not bound to one tenant: it may use leaves, such as chunks_s000001"
    superuser = asked(settings.database_url.get_secret_value())
    assert (superuser["state"], superuser["seen"]) == (
        "warning",
        "not bound to one tenant: it is a superuser",
    )
    owner = asked(str(role_urls(settings, prefix, {})["DIRECT_DATABASE_URL"]))
    assert "it owns batches, chunks, documents" in owner["seen"]
    assert "search role" not in findings(ingest("doctor", "--json"))


def test_the_doctor_finds_a_role_that_sees_no_tenant(
    ingest: Run, names: dict[Role, str], settings: Settings, prefix: str, connection: Connection
) -> None:
    connection.execute(text(f"GRANT SELECT ON ALL TABLES IN SCHEMA public TO {names[Role.SEARCH]}"))
    connection.execute(text(f"GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA public TO {names[Role.SEARCH]}"))
    url = str(role_urls(settings, prefix, {})["SEARCH_DATABASE_URL"])
    found = findings(ingest("doctor", "--json", DATABASE_URL=url))["database role"]
    assert (found["state"], found["seen"]) == ("failed", "row-level security hides every tenant from it")


def test_files_are_where_the_command_says(ingest: Run, tmp_path: Path, prefix: str) -> None:
    folder = tmp_path / "not/yet there"
    done = ingest("roles", "--prefix", prefix, "--json", DATA_DIR=str(folder))
    assert json.loads(done.stdout)["passwords_in"] == str(folder / "roles.env")
