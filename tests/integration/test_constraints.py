"""Wrong states cannot be stored: each rule of the schema refuses what it is there for."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID, uuid4

import pytest
from psycopg2 import errors as pg
from pydantic import SecretStr
from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError

from worker.db.engine import single_connection_engine
from worker.db.models import schema
from worker.types import EmbeddingType

DIMENSION = 256
VECTOR = str([0.5] * DIMENSION)
HASH = "sha256('content')"


@dataclass
class World:
    """Valid rows of every kind, as SQL parameters: each test breaks one of them."""

    connection: Connection
    ids: dict[str, UUID] = field(default_factory=dict)

    def do(self, statement: str) -> None:
        used = {name: value for name, value in self.ids.items() if f":{name}" in statement}
        self.connection.execute(text(statement), used)

    def document(self, name: str, path: str, **columns: str) -> None:
        """Insert a document; columns are SQL expressions."""
        self.ids[name] = uuid4()
        row = {
            "document_id": f":{name}",
            "tenant_id": ":tenant",
            "filename": f"'{path}'",
            "source_path": f"'{path}'",
            "source_key": f"sha256('{path}')",
            "file_type": "'text'",
            **columns,
        }
        self.do(f"INSERT INTO documents ({', '.join(row)}) VALUES ({', '.join(row.values())})")


SETTLED = {"settled_at": "now()", "claimed_version": "1"}
OWNER = {**SETTLED, "status": "'completed'", "fingerprint": "sha256('f')", "total_chunks": "2"}
SKIPPED = {**SETTLED, "status": "'skipped'", "error_code": "'empty'", "error_message": "'it is empty'"}


@pytest.fixture(scope="module")
def world(template: str, new_database: Any) -> Iterator[World]:
    """A populated database, shared: every test rolls back."""
    with single_connection_engine(SecretStr(new_database(template))).connect() as connection:
        made = World(connection)
        _populate(made)
        connection.commit()
        yield made


@pytest.fixture(autouse=True)
def _rolled_back(world: World) -> Iterator[None]:
    before = dict(world.ids)
    yield
    world.connection.rollback()
    world.ids = before


NAMES = [
    *("tenant", "stranger", "project", "other_project", "strange_project"),
    *("queued", "running", "strange", "finished", "abandoned"),
]


NEW_PAUSE = """
    INSERT INTO pauses (tenant_id, project_id, lane, paused_by) VALUES (:tenant, :project, 'bulk', 'w')"""


def _populate(world: World) -> None:
    world.ids.update({name: uuid4() for name in NAMES})
    world.do("INSERT INTO tenants (tenant_id, name) VALUES (:tenant, 'ours'), (:stranger, 'theirs')")
    world.do("INSERT INTO projects (project_id, tenant_id, name) VALUES (:project, :tenant, 'p')")
    world.do("INSERT INTO projects (project_id, tenant_id, name) VALUES (:other_project, :tenant, 'q')")
    world.do("INSERT INTO projects (project_id, tenant_id, name) VALUES (:strange_project, :stranger, 'p')")
    world.do(NEW_PAUSE)
    for name in ("queued", "running", "finished", "abandoned"):
        world.do(_batch(f":{name}", ":tenant"))
    world.do(_batch(":strange", ":stranger"))
    world.do("""UPDATE batches SET state = 'running', worker = 'w', lease_token = gen_random_uuid(),
                lease_expires_at = now(), progress = 1 WHERE batch_id = :running""")
    world.do("""UPDATE batches SET state = 'finished', worker = 'w', progress = 2, finished_at = now()
                WHERE batch_id = :finished""")
    world.do("""UPDATE batches SET state = 'abandoned', worker = 'w', progress = 1, finished_at = now()
                WHERE batch_id = :abandoned""")
    world.document("pending", "/pending", batch_id=":queued")
    world.document("waiting", "/waiting", next_attempt_at="now()", error_code="'e'", error_message="'m'")
    world.document(
        "processing", "/processing", status="'processing'", batch_id=":running", claimed_version="1"
    )
    world.document("owner", "/owner", **OWNER, content_hash=HASH)
    world.document("projected", "/owner", **OWNER, content_hash=HASH, project_id=":project")
    twin = {**SETTLED, "status": "'duplicate'", "duplicate_of": ":owner", "content_hash": HASH}
    world.document("duplicate", "/duplicate", **twin)
    world.document("skipped", "/skipped", **SKIPPED)
    world.document("failed", "/failed", **{**SKIPPED, "status": "'failed'"})
    world.document("cancelled", "/cancelled", status="'cancelled'", settled_at="now()")
    world.document("deleted", "/pending", **OWNER, content_hash=HASH, deleted_at="now()")
    world.document("foreign", "/owner", **OWNER, content_hash=HASH, tenant_id=":stranger")
    world.ids["chunk"] = uuid4()
    world.do(_chunk("chunk_id, chunk_index", ":chunk, 1"))
    world.do(_posting("1", "'\\x0102030405'"))
    world.do("INSERT INTO heartbeats (name, kind, slots, pid) VALUES ('w', 'ingest', 2, 1)")
    world.do("INSERT INTO maintenance_runs (chore, outcome) VALUES ('vacuum', 'running')")
    world.do("""INSERT INTO maintenance_runs (chore, outcome, finished_at, error_message)
                VALUES ('vacuum', 'failed', now(), 'm'), ('vacuum', 'done', now(), NULL)""")
    world.do("INSERT INTO evaluation_runs (tenant_id, query) VALUES (:tenant, 'q')")


def _chunk(
    columns: str, values: str, *, vector: str = VECTOR, document: str = ":owner", tenant: str = ":tenant"
) -> str:
    return f"""
        INSERT INTO chunks
            (segment, document_id, tenant_id, char_length, text, content_hash, embedding, {columns})
        VALUES (1, {document}, {tenant}, 1, 'a', {HASH}, '{vector}', {values})"""


def _posting(chunks: str, entries: str, occurrences: str = "1") -> str:
    return f"""
        INSERT INTO postings (segment, tenant_id, term, block, chunks, occurrences, entries)
        VALUES (1, :tenant, 'term', 0, {chunks}, {occurrences}, {entries})"""


def _batch(batch: str = "gen_random_uuid()", tenant: str = ":tenant") -> str:
    return f"INSERT INTO batches (batch_id, tenant_id, lane, documents) VALUES ({batch}, {tenant}, 'bulk', 2)"


def _runs(outcome: str, change: str) -> str:
    return f"UPDATE maintenance_runs SET {change} WHERE outcome = '{outcome}'"


def _documents(name: str, change: str) -> str:
    return f"UPDATE documents SET {change} WHERE document_id = :{name}"


def _batches(name: str, change: str) -> str:
    return f"UPDATE batches SET {change} WHERE batch_id = :{name}"


def _new_document(columns: str, values: str, path: str = "/new") -> str:
    return f"""
        INSERT INTO documents (tenant_id, filename, source_path, source_key, file_type, {columns})
        VALUES (:tenant, 'n', '{path}', sha256('{path}'), 'text', {values})"""


def _segment(segment: int, leaf: str, state: str) -> str:
    return f"INSERT INTO segments (segment, leaf, state) VALUES ({segment}, '{leaf}', '{state}')"


CHUNK_SET = "fingerprint, total_chunks, content_hash"
OWNED = "status, claimed_version, settled_at, total_chunks, fingerprint, content_hash"
OWNS = f"'completed', 1, now(), 1, sha256('g'), {HASH}"

LEASED = "lease_token = gen_random_uuid(), lease_expires_at = now()"

SPACE_TOO_LARGE = "UPDATE embedding_space SET column_type = 'halfvec', dimension = 4001"
NEW_RUN = "INSERT INTO maintenance_runs (chore, outcome) VALUES ('vacuum', 'running')"

# the rule that refuses, and the wrong write it refuses
PLACE = "chunks_s000001_document_id_chunk_index_segment_tenant_id_ch_idx"
WRONG: list[tuple[str, str]] = [
    # tenants and projects
    ("tenants_pkey", "INSERT INTO tenants (tenant_id, name) VALUES (:tenant, 'new')"),
    ("tenants_name_key", "UPDATE tenants SET name = 'theirs' WHERE tenant_id = :tenant"),
    ("tenants_name_check", "UPDATE tenants SET name = ''"),
    ("tenants_name_check", "UPDATE tenants SET name = repeat('n', 201) WHERE tenant_id = :tenant"),
    ("tenants_metadata_check", "UPDATE tenants SET metadata = '[]'"),
    ("projects_pkey", "INSERT INTO projects (project_id, tenant_id, name) VALUES (:project, :tenant, 'new')"),
    ("projects_tenant_id_fkey", "INSERT INTO projects (tenant_id, name) VALUES (gen_random_uuid(), 'x')"),
    ("projects_tenant_id_fkey", "DELETE FROM tenants WHERE tenant_id = :stranger"),
    ("projects_tenant_id_name_key", "INSERT INTO projects (tenant_id, name) VALUES (:tenant, 'p')"),
    ("projects_language_check", "UPDATE projects SET language = ''"),
    ("projects_name_check", "UPDATE projects SET name = ''"),
    ("projects_metadata_check", "UPDATE projects SET metadata = '3'"),
    # pauses
    ("pauses_tenant_id_fkey", "UPDATE pauses SET tenant_id = gen_random_uuid(), project_id = NULL"),
    ("pauses_project_id_fkey", "UPDATE pauses SET project_id = :strange_project"),
    ("pauses_scope_key", NEW_PAUSE),
    ("pauses_project_check", "UPDATE pauses SET tenant_id = NULL"),
    ("pauses_lane_check", "UPDATE pauses SET lane = 'slow'"),
    ("pauses_words_check", "UPDATE pauses SET reason = ''"),
    ("pauses_words_check", "UPDATE pauses SET reason = repeat('r', 501)"),
    ("pauses_words_check", "UPDATE pauses SET paused_by = ''"),
    # batches
    ("batches_pkey", _batch(":queued")),
    ("batches_tenant_id_fkey", _batch(tenant="gen_random_uuid()")),
    ("batches_state_check", _batches("abandoned", "state = 'lost', finished_at = NULL")),
    ("batches_lane_check", _batches("queued", "lane = 'slow'")),
    ("batches_progress_check", _batches("running", "progress = 3")),
    ("batches_progress_check", _batches("running", "progress = -1")),
    ("batches_progress_check", _batches("queued", "documents = 0")),
    ("batches_progress_check", _batches("queued", "progress = 1")),
    ("batches_progress_check", _batches("finished", "progress = 1")),
    ("batches_publications_check", _batches("queued", "publications = 0")),
    ("batches_lease_check", _batches("running", "lease_token = NULL, lease_expires_at = NULL")),
    ("batches_lease_check", _batches("running", "lease_expires_at = NULL")),
    ("batches_lease_check", _batches("queued", LEASED)),
    ("batches_lease_check", _batches("queued", "lease_token = gen_random_uuid()")),
    ("batches_lease_check", _batches("finished", LEASED)),
    ("batches_worker_check", _batches("running", "worker = NULL")),
    ("batches_worker_check", _batches("queued", "worker = 'w'")),
    ("batches_done_check", _batches("running", "settled = 3")),
    ("batches_done_check", _batches("running", "settled = -1")),
    ("batches_done_check", _batches("running", "chunks = -1")),
    ("batches_done_check", _batches("running", "size_bytes = -1")),
    ("batches_finished_check", _batches("finished", "finished_at = NULL")),
    ("batches_finished_check", _batches("abandoned", "finished_at = NULL")),
    ("batches_finished_check", _batches("abandoned", "state = 'cancelled', finished_at = NULL")),
    ("batches_finished_check", _batches("queued", "finished_at = now()")),
    ("batches_finished_check", _batches("running", "finished_at = now()")),
    ("batches_trouble_check", _batches("running", "trouble = ''")),
    ("batches_trouble_check", _batches("running", "trouble = repeat('x', 501)")),
    # documents: whose, and which
    ("documents_trace_check", _documents("pending", "trace = ''")),
    ("documents_trace_check", _documents("pending", "trace = repeat('t', 201)")),
    ("documents_pkey", _new_document("document_id", ":owner")),
    ("documents_tenant_id_fkey", _documents("skipped", "tenant_id = gen_random_uuid()")),
    ("documents_project_id_fkey", _documents("skipped", "project_id = gen_random_uuid()")),
    ("documents_project_id_fkey", _documents("skipped", "project_id = :strange_project")),
    ("documents_batch_id_fkey", _documents("pending", "batch_id = gen_random_uuid()")),
    ("documents_batch_id_fkey", _documents("pending", "batch_id = :strange")),
    ("documents_batch_id_fkey", "DELETE FROM batches WHERE batch_id = :queued"),
    ("documents_duplicate_of_fkey", _documents("duplicate", "duplicate_of = gen_random_uuid()")),
    ("documents_duplicate_of_fkey", _documents("duplicate", "duplicate_of = :foreign")),
    ("documents_duplicate_of_fkey", "DELETE FROM chunks; DELETE FROM documents WHERE document_id = :owner"),
    ("documents_source_key", _new_document("lane", "'bulk'", "/owner")),
    ("documents_source_key", _new_document("project_id", ":project", "/owner")),
    ("documents_source_key", _documents("deleted", "deleted_at = NULL, content_hash = sha256('new')")),
    ("documents_owner_key", _new_document(OWNED, OWNS)),
    ("documents_owner_key", _new_document(f"project_id, {OWNED}", f":project, {OWNS}")),
    ("documents_owner_key", _new_document(CHUNK_SET, f"{HASH}, 1, {HASH}")),
    ("documents_language_check", _documents("pending", "language = ''")),
    ("documents_filename_check", _documents("pending", "filename = ''")),
    ("documents_filename_check", _documents("pending", "source_path = '', source_key = sha256('')")),
    ("documents_source_key_check", _documents("pending", "source_key = sha256('/another')")),
    ("documents_source_key_check", _documents("pending", "source_path = '/another'")),
    ("documents_source_key_check", _documents("pending", "source_key = 'short'")),
    ("documents_file_type_check", _documents("pending", "file_type = 'pdf'")),
    ("documents_size_bytes_check", _documents("pending", "size_bytes = -1")),
    ("documents_metadata_check", _documents("pending", "metadata = '[]'")),
    ("documents_metadata_check", _documents("pending", "cleaned = '1'")),
    ("documents_lane_check", _documents("pending", "lane = 'slow'")),
    # documents: their chunk set
    ("documents_content_hash_check", _documents("pending", "content_hash = 'short'")),
    ("documents_content_digest_check", _documents("pending", "content_digest = 'short'")),
    ("documents_fingerprint_check", _documents("owner", "fingerprint = 'short'")),
    ("documents_chunk_set_check", _documents("owner", "total_chunks = NULL")),
    ("documents_chunk_set_check", _documents("owner", "total_chunks = 0")),
    ("documents_chunk_set_check", _documents("owner", "content_hash = NULL")),
    ("documents_chunk_set_check", _documents("pending", "total_chunks = 1")),
    ("documents_chunk_set_check", _documents("pending", "fingerprint = sha256('f')")),
    ("documents_chunk_counts_check", _documents("owner", "chunks_embedded = -1")),
    ("documents_chunk_counts_check", _documents("owner", "chunks_reused = -1")),
    ("documents_chunk_counts_check", _documents("owner", "chunks_embedded = 2, chunks_reused = 1")),
    # documents: their status
    ("documents_status_check", _documents("cancelled", "status = 'stuck', claimed_version = 1")),
    ("documents_versions_check", _documents("pending", "claimed_version = 2")),
    ("documents_versions_check", _documents("pending", "claimed_version = -1")),
    ("documents_versions_check", _documents("pending", "requested_version = 0")),
    ("documents_versions_check", _documents("processing", "claimed_version = 0")),
    ("documents_outcome_check", _documents("owner", "requested_version = 2")),
    ("documents_outcome_check", _documents("duplicate", "requested_version = 2")),
    ("documents_outcome_check", _documents("skipped", "requested_version = 2")),
    ("documents_outcome_check", _documents("failed", "requested_version = 2")),
    ("documents_attempts_check", _documents("pending", "attempts = -1")),
    ("documents_completed_check", _documents("owner", "fingerprint = NULL, total_chunks = NULL")),
    ("documents_duplicate_check", _documents("duplicate", "duplicate_of = NULL")),
    ("documents_duplicate_check", _documents("duplicate", "duplicate_of = :duplicate")),
    ("documents_duplicate_check", _documents("duplicate", "content_hash = NULL")),
    (
        "documents_duplicate_check",
        _documents("duplicate", "fingerprint = sha256('g'), total_chunks = 1, content_hash = sha256('c')"),
    ),
    ("documents_duplicate_check", _documents("owner", "duplicate_of = :projected")),
    (
        "documents_skipped_check",
        _documents("skipped", "fingerprint = sha256('g'), total_chunks = 1, content_hash = sha256('c')"),
    ),
    ("documents_error_check", _documents("waiting", "error_message = NULL")),
    ("documents_error_check", _documents("waiting", "error_code = NULL")),
    ("documents_error_check", _documents("waiting", "error_code = ''")),
    ("documents_reason_check", _documents("skipped", "error_code = NULL, error_message = NULL")),
    ("documents_reason_check", _documents("failed", "error_code = NULL, error_message = NULL")),
    ("documents_reason_check", _documents("owner", "error_code = 'e', error_message = 'm'")),
    ("documents_reason_check", _documents("duplicate", "error_code = 'e', error_message = 'm'")),
    ("documents_reason_check", _documents("cancelled", "error_code = 'e', error_message = 'm'")),
    ("documents_batch_check", _documents("processing", "batch_id = NULL")),
    ("documents_batch_check", _documents("owner", "batch_id = :queued")),
    ("documents_batch_check", _documents("failed", "batch_id = :queued")),
    ("documents_batch_check", _documents("pending", "deleted_at = now()")),
    ("documents_next_attempt_check", _documents("processing", "next_attempt_at = now()")),
    ("documents_next_attempt_check", _documents("failed", "next_attempt_at = now()")),
    ("documents_settled_check", _documents("pending", "settled_at = now()")),
    ("documents_settled_check", _documents("processing", "settled_at = now()")),
    ("documents_settled_check", _documents("owner", "settled_at = NULL")),
    ("documents_settled_check", _documents("cancelled", "settled_at = NULL")),
    # the embedding space and the segments
    ("embedding_space_pkey", "INSERT INTO embedding_space (dimension, column_type) VALUES (3, 'vector')"),
    (
        "embedding_space_singleton_check",
        "INSERT INTO embedding_space (singleton, dimension, column_type) VALUES (false, 3, 'vector')",
    ),
    ("embedding_space_dimension_check", "UPDATE embedding_space SET dimension = 0"),
    ("embedding_space_dimension_check", "UPDATE embedding_space SET dimension = 2001"),
    (
        "embedding_space_dimension_check",
        SPACE_TOO_LARGE,
    ),
    ("embedding_space_column_type_check", "UPDATE embedding_space SET column_type = 'bit'"),
    ("embedding_space_metric_check", "UPDATE embedding_space SET metric = 'hamming'"),
    ("segments_pkey", _segment(2, "chunks_s000002", "spare")),
    ("segments_state_check", "UPDATE segments SET state = 'full' WHERE segment = 2"),
    ("segments_open_key", "UPDATE segments SET state = 'open' WHERE segment = 2"),
    ("segments_sealed_rows_check", "UPDATE segments SET state = 'sealed' WHERE segment = 2"),
    ("segments_sealed_rows_check", "UPDATE segments SET sealed_rows = 1 WHERE segment = 2"),
    (
        "segments_sealed_rows_check",
        "UPDATE segments SET state = 'sealed', sealed_rows = -1 WHERE segment = 2",
    ),
    ("segments_trash_check", "UPDATE segments SET state = 'trash' WHERE segment = 2"),
    ("segments_trash_check", "UPDATE segments SET state = 'open' WHERE segment = -1"),
    ("segments_trash_check", _segment(0, "chunks_s000000", "spare")),
    ("segments_trash_check", _segment(-2, "chunks_s0000-2", "spare")),
    ("segments_leaf_check", _segment(9, "chunks_s000008", "spare")),
    ("segments_leaf_check", _segment(9, "chunks_trash", "spare")),
    ("segments_leaf_check", _segment(1000000, "chunks_s100000", "spare")),
    # chunks, through the parent and straight into a leaf
    ("chunks_s000001_pkey", _chunk("chunk_id, chunk_index", ":chunk, 2")),
    ("chunks_document_id_fkey", _chunk("chunk_index", "2", document="gen_random_uuid()")),
    ("chunks_document_id_fkey", _chunk("chunk_index", "2", tenant=":stranger")),
    ("chunks_document_id_fkey", _chunk("chunk_index", "2", document=":foreign")),
    ("chunks_document_id_fkey", "DELETE FROM documents WHERE document_id IN (:owner, :duplicate)"),
    ("chunks_document_id_fkey", "UPDATE chunks SET tenant_id = :stranger"),
    (PLACE, _chunk("chunk_index", "1")),
    ("chunks_position_check", _chunk("chunk_index", "-1")),
    ("chunks_position_check", "UPDATE chunks SET char_length = 0"),
    ("chunks_number_check", "UPDATE chunks SET number = 0"),
    ("chunks_language_check", "UPDATE chunks SET language = ''"),
    ("chunks_text_check", "UPDATE chunks SET text = ''"),
    ("chunks_text_check", "UPDATE chunks_s000001 SET text = ''"),
    ("chunks_content_hash_check", "UPDATE chunks SET content_hash = 'short'"),
    ("chunks_metadata_check", "UPDATE chunks SET metadata = 'null'"),
    ("chunks_embedding_check", _chunk("chunk_index", "2", vector=str([0] * DIMENSION))),
    ("chunks_embedding_check", _chunk("chunk_index", "2", vector=str([1e-30] * DIMENSION))),
    ("chunks_embedding_check", _chunk("chunk_index", "2", vector=str([1e30] * DIMENSION))),
    ("postings_counts_check", _posting("0", "''")),
    ("postings_counts_check", _posting("2", "'\\x0102030405'")),
    ("postings_counts_check", _posting("1", "'\\x0102030405'", "-1")),
    # records
    ("heartbeats_pkey", "INSERT INTO heartbeats (name, kind, slots, pid) VALUES ('w', 'search', 1, 1)"),
    ("heartbeats_name_check", "UPDATE heartbeats SET name = ''"),
    ("heartbeats_name_check", "UPDATE heartbeats SET kind = ''"),
    ("heartbeats_slots_check", "UPDATE heartbeats SET slots = -1"),
    ("heartbeats_slots_check", "UPDATE heartbeats SET pid = 0"),
    ("maintenance_runs_running_key", NEW_RUN),
    ("maintenance_runs_chore_check", "UPDATE maintenance_runs SET chore = ''"),
    ("maintenance_runs_outcome_check", _runs("done", "outcome = 'locked'")),
    ("maintenance_runs_finished_check", _runs("done", "finished_at = NULL")),
    ("maintenance_runs_finished_check", _runs("running", "finished_at = now()")),
    ("maintenance_runs_error_message_check", _runs("failed", "error_message = NULL")),
    ("maintenance_runs_error_message_check", _runs("done", "error_message = 'm'")),
    ("maintenance_runs_details_check", "UPDATE maintenance_runs SET details = '[]'"),
    ("evaluation_runs_tenant_id_fkey", "UPDATE evaluation_runs SET tenant_id = gen_random_uuid()"),
    ("evaluation_runs_token_count_check", "UPDATE evaluation_runs SET token_count = -1"),
    ("evaluation_runs_thumbs_check", "UPDATE evaluation_runs SET thumbs = 0"),
    ("evaluation_runs_quality_score_check", "UPDATE evaluation_runs SET quality_score = 1.1"),
    ("evaluation_runs_metadata_check", "UPDATE evaluation_runs SET metadata = '[]'"),
    ("evaluation_runs_metadata_check", "UPDATE evaluation_runs SET response = '[]'"),
    ("evaluation_runs_metadata_check", "UPDATE evaluation_runs SET latency_ms = '[]'"),
    ("evaluation_runs_metadata_check", "UPDATE evaluation_runs SET sources = '{}'"),
]


@pytest.mark.parametrize(("rule", "write"), WRONG, ids=[f"{rule}-{n}" for n, (rule, _) in enumerate(WRONG)])
def test_a_wrong_state_is_refused(rule: str, write: str, world: World) -> None:
    with pytest.raises(DBAPIError) as refused:
        world.do(write)
    assert refused.value.orig.diag.constraint_name == rule, refused.value.orig  # type: ignore[union-attr] # psycopg2's


# rules whose breach another rule always notices first
UNREACHABLE = {
    "projects_tenant_id_project_id_key",  # project_id alone is the primary key
    "batches_tenant_id_batch_id_key",
    "documents_tenant_id_document_id_key",
    "segments_leaf_key",  # the name follows from the number, see segments_leaf_check
    "pauses_pkey",  # made by the database, never given
    "maintenance_runs_pkey",  # made by the database, never given
    "evaluation_runs_pkey",
}


def test_every_rule_has_a_wrong_state(world: World) -> None:
    found = world.connection.execute(
        text("""
            SELECT conname FROM pg_constraint k JOIN pg_class c ON c.oid = k.conrelid
            WHERE k.connamespace = 'public'::regnamespace AND k.contype <> 'n' AND NOT c.relispartition
              AND k.conparentid = 0 AND c.relname <> 'alembic_version'
            UNION
            SELECT c.relname FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid
            JOIN pg_class t ON t.oid = i.indrelid
            WHERE i.indisunique AND NOT t.relispartition AND t.relnamespace = 'public'::regnamespace
              AND t.relname <> 'alembic_version'""")
    )
    of_leaves = {"chunks_s000001_pkey": "chunks_pkey", PLACE: "chunks_place_key"}
    assert (
        set(found.scalars()) - UNREACHABLE == {of_leaves.get(rule, rule) for rule, _ in WRONG} - UNREACHABLE
    )


NOT_NULL = [
    (table.name, column.name)
    for table in schema(DIMENSION, EmbeddingType.VECTOR).tables.values()
    for column in table.columns
    if not column.nullable
]


@pytest.mark.parametrize(("table", "column"), NOT_NULL)
def test_what_must_be_there_cannot_be_null(table: str, column: str, world: World) -> None:
    with pytest.raises(DBAPIError) as refused:
        world.do(f"UPDATE {table} SET {column} = NULL")
    # a row that leaves its partition is refused by the partitioning instead
    assert isinstance(refused.value.orig, pg.NotNullViolation | pg.CheckViolation)
    assert column in str(refused.value.orig) or column == "segment"


@pytest.mark.parametrize(
    "write",
    [
        _documents("pending", """metadata = '{"a": NaN}'"""),
        _documents("pending", """metadata = '{"a": Infinity}'"""),
        _documents("pending", """metadata = '{"a": "\\u0000"}'"""),
        _chunk("chunk_index, metadata", """2, '{"a": NaN}'"""),
        _chunk("chunk_index", "2", vector=str([float("nan")] * DIMENSION)),
        _chunk("chunk_index", "2", vector=str([float("inf")] * DIMENSION)),
        _chunk("chunk_index", "2", vector=str([0.5] * (DIMENSION - 1))),
        _chunk("chunk_index", "2", vector=str([0.5] * (DIMENSION + 1))),
    ],
)
def test_what_the_types_refuse(write: str, world: World) -> None:
    with pytest.raises(DBAPIError) as refused:
        world.connection.exec_driver_sql(_inlined(write, world))
    assert refused.value.orig.pgcode[:2] == "22"  # type: ignore[union-attr] # psycopg2's: data exception


def _inlined(statement: str, world: World) -> str:
    """Put the ids into a statement whose JSON has colons of its own."""
    for name in sorted(world.ids, key=len, reverse=True):
        statement = statement.replace(f":{name}", f"'{world.ids[name]}'")
    return statement


CANCELLED = """status = 'cancelled', settled_at = now(), next_attempt_at = NULL,
    error_code = NULL, error_message = NULL"""

RIGHT = [
    # a deleted document makes room for its path and its content
    _new_document("lane", "'bulk'", "/deleted"),
    f"{_documents('owner', 'deleted_at = now()')}; {_documents('skipped', 'duplicate_of = NULL')}",
    # the same path and the same content in another project
    _new_document(f"project_id, {OWNED}", f":other_project, {OWNS}", "/owner"),
    # a failed edit keeps its chunk set and may be retried
    _documents("owner", "status = 'failed', error_code = 'e', error_message = 'm'"),
    # an edit while it is processed
    _documents("processing", "requested_version = 2, attempts = 0"),
    # deleted while it is processed: the batch finds out when it writes
    _documents("processing", "deleted_at = now()"),
    # a pending document is cancelled before anybody claimed it
    _documents("waiting", CANCELLED),
    # no vector, and the largest segment's leaf
    _chunk("chunk_index", "2").replace(f"'{VECTOR}'", "NULL"),
    _segment(1234567, "chunks_s1234567", "spare"),
    # another session's second run of another chore
    "INSERT INTO maintenance_runs (chore, outcome) VALUES ('rescue', 'running')",
    # a chunk goes to the trash and back
    "UPDATE chunks SET segment = -1; UPDATE chunks SET segment = 1",
]  # fmt: skip


@pytest.mark.parametrize("write", RIGHT)
def test_a_right_state_is_stored(write: str, world: World) -> None:
    world.do(write)


def test_the_key_of_a_path_is_what_the_program_computes(world: World) -> None:
    for path in ("/plain", "/ümläut/日本", "C:\\back\\slash", "/per%cent", "/emoji/🚢"):
        world.connection.execute(
            text("""
                INSERT INTO documents (tenant_id, filename, source_path, source_key, file_type)
                VALUES (:tenant, 'a', :path, :key, 'text')"""),
            {"tenant": world.ids["tenant"], "path": path, "key": hashlib.sha256(path.encode()).digest()},
        )


# indexes


def test_every_foreign_key_has_an_index_that_finds_its_rows(world: World) -> None:
    """An index whose first columns are of the key, and enough of it to name the row referred to."""
    without = world.connection.execute(
        text("""
            SELECT k.conrelid::regclass || '.' || k.conname FROM pg_constraint k
            WHERE k.contype = 'f' AND k.connamespace = 'public'::regnamespace AND NOT EXISTS (
                SELECT 1 FROM pg_index i
                JOIN pg_class c ON c.oid = i.indexrelid JOIN pg_am m ON m.oid = c.relam
                CROSS JOIN generate_series(1, i.indnkeyatts) AS width
                CROSS JOIN LATERAL (
                    SELECT array_agg(i.indkey[n]) AS columns FROM generate_series(0, width - 1) n) AS first
                WHERE i.indrelid = k.conrelid AND i.indisvalid AND m.amname = 'btree'
                  AND first.columns <@ k.conkey
                  -- a partial one serves where it leaves out only rows that refer to nothing
                  AND (i.indpred IS NULL OR pg_get_expr(i.indpred, i.indrelid) IN (
                      SELECT '(' || a.attname || ' IS NOT NULL)' FROM pg_attribute a
                      WHERE a.attrelid = k.conrelid AND a.attnum = ANY(k.conkey)))
                  AND (first.columns @> k.conkey OR EXISTS (
                      SELECT 1 FROM pg_index u
                      WHERE u.indrelid = k.confrelid AND u.indisunique AND u.indpred IS NULL
                        AND u.indkey::int2[] <@ ARRAY(
                            SELECT k.confkey[position] FROM generate_subscripts(k.conkey, 1) position
                            WHERE k.conkey[position] = ANY(first.columns)))))
            ORDER BY 1""")
    )
    assert list(without.scalars()) == []


def test_the_query_for_foreign_keys_without_an_index_finds_one(world: World) -> None:
    world.do("DROP INDEX documents_project_id_idx")
    with pytest.raises(AssertionError, match="documents_project_id_fkey"):
        test_every_foreign_key_has_an_index_that_finds_its_rows(world)


@pytest.mark.parametrize(
    ("table", "column"),
    [
        ("documents", "content_hash"),
        ("documents", "created_at"),
        ("chunks", "created_at"),
        ("maintenance_runs", "created_at"),
        ("evaluation_runs", "created_at"),
    ],
)
def test_what_is_looked_up_has_a_btree_of_all_rows(table: str, column: str, world: World) -> None:
    first = world.connection.execute(
        text("""
            SELECT count(*) FROM pg_index i
            JOIN pg_class c ON c.oid = i.indexrelid JOIN pg_am m ON m.oid = c.relam
            JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = i.indkey[0]
            WHERE i.indrelid = CAST(:table AS regclass) AND a.attname = :column AND m.amname = 'btree'
              AND i.indisvalid AND i.indpred IS NULL"""),
        {"table": table, "column": column},
    )
    assert first.scalar_one() > 0


def test_status_has_a_btree_of_all_live_documents(world: World) -> None:
    """Deleted ones are nobody's question; without them the counts are read from the index alone."""
    found = world.connection.execute(
        text("""
            SELECT pg_get_expr(i.indpred, i.indrelid) FROM pg_index i
            JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = i.indkey[0]
            WHERE i.indexrelid = 'documents_status_idx'::regclass
              AND a.attname = 'status' AND i.indisvalid""")
    )
    assert found.scalar_one() == "(deleted_at IS NULL)"


def test_every_leaf_has_every_index_of_the_parent(world: World) -> None:
    counts = world.connection.execute(
        text("""
            SELECT h.inhrelid::regclass::text, (SELECT count(*) FROM pg_index i WHERE i.indrelid = h.inhrelid)
            FROM pg_inherits h WHERE h.inhparent = 'chunks'::regclass""")
    ).all()
    parents = world.connection.execute(
        text("SELECT count(*) FROM pg_index WHERE indrelid = 'chunks'::regclass")
    )
    assert {count for _, count in counts} == {parents.scalar_one()}
    assert len(counts) == 5
