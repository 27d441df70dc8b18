"""A database of two tenants, made by SQL alone, and its roles. What is the stranger's says SECRET."""

from collections.abc import Callable
from dataclasses import dataclass
from uuid import UUID

from pydantic import SecretStr
from sqlalchemy import Connection, Engine, create_engine, text

from worker.db.engine import driver_url, single_connection_engine
from worker.db.grants import Role
from worker.db.logins import role_names
from worker.db.migrate import migrate
from worker.db.roles import make_roles
from worker.embedded import RunningValkey
from worker.settings import read_settings

DIMENSION = 16
ROWS = 4_000  # of a sealed leaf; one in eight is ours
SEALED, OPEN, TRASH = (1, 2), 3, -1
SECRET = "SECRET"

# Ours are numbers: whoever computes with a text that is none, or divides by zero, has read the stranger's.
ROWS_OF_TENANTS = f"""
INSERT INTO tenants (name, metadata) VALUES ('ours', '{{"n": "1"}}'), ('theirs', '{{"n": "{SECRET}"}}');
INSERT INTO projects (tenant_id, name) SELECT tenant_id, CASE name WHEN 'ours' THEN '1' ELSE '{SECRET}' END
FROM tenants;
INSERT INTO documents (tenant_id, project_id, filename, source_path, source_key, file_type, language, content,
                       status, content_hash, fingerprint, total_chunks, claimed_version, settled_at, metadata)
SELECT t.tenant_id, p.project_id, p.name, p.name, sha256(p.name::bytea), 'text', 'english', p.name::bytea,
       'completed', sha256(p.name::bytea), sha256(p.name::bytea), 1, 1, now(), t.metadata
FROM tenants t JOIN projects p USING (tenant_id);
INSERT INTO pauses (tenant_id, reason, paused_by) SELECT tenant_id, metadata ->> 'n', 'somebody' FROM tenants;
INSERT INTO batches (tenant_id, lane, documents) SELECT tenant_id, 'bulk', 1 FROM tenants;
INSERT INTO evaluation_runs (tenant_id, query, metadata)
SELECT tenant_id, metadata ->> 'n', metadata FROM tenants;
"""
CHUNKS = """
INSERT INTO {leaf} (segment, document_id, tenant_id, project_id, chunk_index, char_length, text, language,
                    content_hash, metadata, embedding)
SELECT {segment}, d.document_id, d.tenant_id, d.project_id, ({segment} + 2) * 1000000 + n, 1, d.source_path,
       'english', sha256(('{segment} ' || n)::bytea), d.metadata,
       (SELECT array_agg(sin(n * i * 7.31 + {segment})) FROM generate_series(1, {dimension}) i)::vector
FROM generate_series(1, {rows}) n
JOIN documents d ON d.source_path = CASE n % 8 WHEN 1 THEN '1' ELSE 'SECRET' END"""
POSTINGS = """
INSERT INTO {leaf} (tenant_id, term, block, chunks, occurrences, entries)
SELECT d.tenant_id, CASE n WHEN 0 THEN 'common' ELSE d.source_path || n END, {segment}, 1, n, '\\x0000010100'
FROM documents d, generate_series(0, {rows}) n"""


@dataclass(frozen=True)
class World:
    """The database, by name; who is who in it; and its roles."""

    database: str
    ours: UUID
    theirs: UUID
    roles: dict[Role, str]
    url: str

    def engine(self, role: Role = Role.SEARCH, pool_size: int = 1) -> Engine:
        """Give a pool of this role's connections."""
        url = driver_url(SecretStr(self.url)).set(username=self.roles[role])
        return create_engine(url, pool_size=pool_size, max_overflow=0, hide_parameters=True)


def build(new_database: Callable[[str | None], str], valkey: RunningValkey, prefix: str) -> World:
    """Make it all in an empty database."""
    settings = read_settings(
        database_url=new_database(None),
        broker_url=valkey.url,
        embedding_provider="none",
        embedding_dimension=DIMENSION,
    )
    migrate(settings)
    make_roles(settings, prefix)
    engine = single_connection_engine(settings.database_url)
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text(ROWS_OF_TENANTS))
        for segment, rows in (*((sealed, ROWS) for sealed in SEALED), (OPEN, ROWS // 4), (TRASH, 80)):
            _fill(connection, segment, rows)
        connection.execute(text("VACUUM ANALYZE"))
        found = connection.execute(text("SELECT name, tenant_id FROM tenants"))
        tenants: dict[str, UUID] = {row.name: row.tenant_id for row in found}
    return World(
        str(driver_url(settings.database_url).database),
        tenants["ours"],
        tenants["theirs"],
        role_names(prefix),
        settings.database_url.get_secret_value(),
    )


def _fill(connection: Connection, segment: int, rows: int) -> None:
    leaf = "chunks_trash" if segment == TRASH else f"chunks_s{segment:06d}"
    connection.execute(text(f"ALTER TABLE {leaf} SET (autovacuum_enabled = off)"))
    connection.execute(text(CHUNKS.format(leaf=leaf, segment=segment, rows=rows, dimension=DIMENSION)))
    if segment == TRASH:
        return
    connection.execute(text(POSTINGS.format(leaf=f"postings_s{segment:06d}", segment=segment, rows=rows)))
    if segment in SEALED:
        index = f"CREATE INDEX {leaf}_embedding_idx ON {leaf} USING hnsw (embedding vector_cosine_ops)"
        connection.execute(text(index))
    states = {**dict.fromkeys(SEALED, f"'sealed', sealed_rows = {rows}"), OPEN: "'open'"}
    connection.execute(text(f"UPDATE segments SET state = {states[segment]} WHERE segment = {segment}"))
