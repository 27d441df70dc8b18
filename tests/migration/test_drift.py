"""The models and the migrations give one and the same database, and every difference would be seen."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from pydantic import SecretStr
from sqlalchemy import Connection, text

from tests.migration.catalogue import QUERIES, Catalogue, differences, read
from worker.db import policies
from worker.db.engine import single_connection_engine
from worker.db.leaves import TRASH, add_segment
from worker.db.migrate import migrate
from worker.db.models import schema
from worker.embedded import RunningValkey
from worker.settings import Settings, read_settings
from worker.types import EmbeddingType

SPACES = [
    (256, "vector"),
    (1536, "vector"),
    (2000, "vector"),
    (3, "halfvec"),
    (3072, "halfvec"),
    (4000, "halfvec"),
]
SEGMENTS = {TRASH: "trash", 1: "open", 2: "spare", 3: "spare", 4: "spare"}

NewDatabase = Callable[[str | None], str]


def settings_of(url: str, valkey: RunningValkey, dimension: int, column_type: str) -> Settings:
    return read_settings(
        database_url=url,
        broker_url=valkey.url,
        embedding_provider="none",
        embedding_dimension=dimension,
        embedding_type=column_type,
    )


def catalogue_of_migrations(url: str, valkey: RunningValkey, dimension: int, column_type: str) -> Catalogue:
    settings = settings_of(url, valkey, dimension, column_type)
    migrate(settings)
    with single_connection_engine(settings.database_url).connect() as connection:
        return read(connection)


def catalogue_of_models(url: str, dimension: int, column_type: str) -> Catalogue:
    kind = EmbeddingType(column_type)
    with single_connection_engine(SecretStr(url)).begin() as connection:
        connection.execute(text("CREATE EXTENSION vector"))
        schema(dimension, kind).create_all(connection)
        for segment, state in SEGMENTS.items():
            add_segment(connection, segment, state, dimension, kind)
        connection.execute(
            text("""INSERT INTO embedding_space (dimension, column_type, metric)
                    VALUES (:dimension, :kind, 'cosine')"""),
            {"dimension": dimension, "kind": kind.value},
        )
        for statement in policies.statements():
            connection.execute(text(statement))
        return read(connection)


@pytest.mark.parametrize(("dimension", "column_type"), SPACES)
def test_models_and_migrations_give_the_same_catalogue(
    dimension: int, column_type: str, new_database: NewDatabase, valkey: RunningValkey
) -> None:
    migrated = catalogue_of_migrations(new_database(None), valkey, dimension, column_type)
    modelled = catalogue_of_models(new_database(None), dimension, column_type)
    assert differences(modelled, migrated) == {}
    for kind in (
        "tables",
        "columns",
        "storage",
        "constraints",
        "indexes",
        "options",
        "partitions",
        "segments",
        "policies",
        "functions",
    ):
        assert modelled[kind], f"nothing was compared of {kind}"
    assert set(map(int, migrated["segments"])) == SEGMENTS.keys()
    bound = {table for table, (enabled, forced) in migrated["row security"].items() if enabled and not forced}
    assert bound == set(policies.TENANT_TABLES)


def test_every_parent_with_a_tenant_is_bound_to_it() -> None:
    bearing = {
        name for name, table in schema(3, EmbeddingType.VECTOR).tables.items() if "tenant_id" in table.c
    }
    assert set(policies.TENANT_TABLES) == bearing


def test_the_queries_read_what_the_kinds_are_called(connection: Connection) -> None:
    found = read(connection)
    assert found["columns"]["documents.status"][1:4] == ("text", True, "'pending'::text")
    assert found["storage"]["chunks_s000001.embedding"][0] == "p"
    assert found["options"]["chunks_trash"][0] == ["toast_tuple_target=8160"]
    assert found["partitions"]["chunks_trash"] == ("chunks", "FOR VALUES IN ('-1')")
    assert found["constraints"]["segments.segments_pkey"][0] == "PRIMARY KEY (segment)"
    assert all(found["indexes"][name][1] for name in found["indexes"])
    assert found["extensions"].keys() == {"plpgsql", "vector"}


# a change that a migration might forget, and the kind of the catalogue that shows it
CHANGES = [
    ("tables", "CREATE TABLE left_behind (id int)"),
    ("tables", "DROP TABLE chunks_s000004"),
    ("tables", "ALTER TABLE heartbeats SET UNLOGGED"),
    ("tables", "CREATE SEQUENCE left_behind"),
    ("tables", "CREATE VIEW left_behind AS SELECT 1 AS one"),
    ("columns", "ALTER TABLE documents ALTER COLUMN filename DROP NOT NULL"),
    ("columns", "ALTER TABLE documents ALTER COLUMN lane SET DEFAULT 'interactive'"),
    ("columns", "ALTER TABLE documents ALTER COLUMN lane DROP DEFAULT"),
    ("columns", "ALTER TABLE documents ALTER COLUMN size_bytes TYPE numeric"),
    ("columns", "ALTER TABLE documents ADD COLUMN extra int"),
    ("columns", 'ALTER TABLE projects ALTER COLUMN name TYPE text COLLATE "C"'),
    ("columns", "ALTER TABLE chunks_s000001 ALTER COLUMN segment SET DEFAULT 2"),
    ("storage", "ALTER TABLE chunks_s000002 ALTER COLUMN embedding SET STORAGE EXTERNAL"),
    ("storage", "ALTER TABLE documents ALTER COLUMN content SET COMPRESSION pglz"),
    ("constraints", "ALTER TABLE documents DROP CONSTRAINT documents_settled_check"),
    ("constraints", "ALTER TABLE documents DROP CONSTRAINT documents_duplicate_of_fkey"),
    ("constraints", "ALTER TABLE tenants ADD CONSTRAINT extra CHECK (name <> 'x')"),
    ("constraints", "ALTER TABLE tenants RENAME CONSTRAINT tenants_name_check TO renamed"),
    ("constraints", "ALTER TABLE tenants ADD CONSTRAINT unchecked CHECK (name <> 'y') NOT VALID"),
    ("indexes", "DROP INDEX documents_content_hash_idx"),
    ("indexes", "CREATE INDEX extra ON documents (filename)"),
    ("indexes", "DROP INDEX segments_open_key; CREATE INDEX segments_open_key ON segments (state)"),
    ("indexes", "ALTER INDEX documents_status_idx SET (fillfactor = 50)"),
    ("indexes", "CREATE INDEX extra ON ONLY chunks (updated_at)"),
    ("options", "ALTER TABLE chunks_trash RESET (toast_tuple_target)"),
    ("options", "ALTER TABLE documents SET (toast.autovacuum_enabled = off)"),
    ("partitions", "ALTER TABLE chunks DETACH PARTITION chunks_s000003"),
    ("row security", "ALTER TABLE chunks DISABLE ROW LEVEL SECURITY"),
    ("row security", "ALTER TABLE chunks FORCE ROW LEVEL SECURITY"),
    ("row security", "ALTER TABLE chunks_s000001 ENABLE ROW LEVEL SECURITY"),
    ("policies", "CREATE POLICY everything ON documents USING (true)"),
    ("policies", "ALTER POLICY tenant ON documents USING (true)"),
    ("policies", "ALTER POLICY tenant ON documents WITH CHECK (true)"),
    ("policies", "ALTER POLICY tenant ON documents TO pg_monitor"),
    ("policies", "DROP POLICY tenant ON postings"),
    (
        "triggers",
        """CREATE TRIGGER same BEFORE UPDATE ON tenants FOR EACH ROW
           EXECUTE FUNCTION suppress_redundant_updates_trigger()""",
    ),
    ("functions", "CREATE FUNCTION one() RETURNS int LANGUAGE sql AS 'SELECT 1'"),
    ("functions", "ALTER FUNCTION tenant_named(text) SECURITY INVOKER"),
    ("functions", "ALTER FUNCTION tenant_named(text) RESET search_path"),
    ("functions", "GRANT EXECUTE ON FUNCTION tenant_named(text) TO PUBLIC"),
    ("types", "CREATE TYPE colour AS ENUM ('red')"),
    ("comments", "COMMENT ON TABLE documents IS 'a remark'"),
    ("comments", "COMMENT ON COLUMN documents.status IS 'a remark'"),
    ("grants", "GRANT SELECT ON chunks_s000001 TO PUBLIC"),
    ("grants", "GRANT SELECT (name) ON tenants TO PUBLIC"),
    ("segments", "UPDATE segments SET state = 'emptied' WHERE segment = 2"),
    ("embedding space", "UPDATE embedding_space SET dimension = 255"),
    ("embedding space", "UPDATE embedding_space SET metric = 'l2'"),
    ("extensions", "UPDATE pg_extension SET extversion = '0.8.3' WHERE extname = 'vector'"),
]


@pytest.fixture(scope="module")
def playground(new_database: NewDatabase, template: str) -> Iterator[Connection]:
    with single_connection_engine(SecretStr(new_database(template))).connect() as connection:
        yield connection


@pytest.mark.parametrize(("kind", "change"), CHANGES)
def test_a_change_is_seen(kind: str, change: str, playground: Connection) -> None:
    before = read(playground)
    playground.execute(text(change))
    seen = differences(before, read(playground))
    playground.rollback()
    assert seen.get(kind), f"of {kind}, only {seen.keys()} differ"
    assert differences(before, read(playground)) == {}


def test_every_kind_of_the_catalogue_has_a_change_that_shows_it() -> None:
    assert {kind for kind, _ in CHANGES} == QUERIES.keys()


def test_the_migrations_folder_does_not_shadow_the_library() -> None:
    assert not (Path(__file__).parents[2] / "alembic/__init__.py").exists()
