"""The tables, as the newest migration leaves them. docs/database/ explains every column and index.

`schema()` builds them for one embedding space. A test compares the catalogue these models give
with the one the migrations give, so neither can drift.
"""

from pgvector.sqlalchemy import HALFVEC, VECTOR
from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    DateTime,
    Double,
    ForeignKeyConstraint,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    PrimaryKeyConstraint,
    Sequence,
    SmallInteger,
    Table,
    Text,
    UniqueConstraint,
    Uuid,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSONB

from worker.db.autovacuum import TABLES as AUTOVACUUM
from worker.types import EmbeddingType, FileType, Lane, Metric, SegmentState, Status

BATCH_STATES = ("queued", "running", "finished", "abandoned", "cancelled")
SEGMENT_STATES = tuple(state.value for state in SegmentState)
LANES = tuple(Lane)
STATUSES = tuple(Status)
FILE_TYPES = tuple(FileType)


def schema(dimension: int, column_type: EmbeddingType) -> MetaData:
    """Give all tables for vectors of `dimension` numbers stored as `column_type`."""
    metadata = MetaData()
    _tenants(metadata)
    _projects(metadata)
    _pauses(metadata)
    _batches(metadata)
    _documents(metadata)
    _segments(metadata)
    _chunks(metadata, HALFVEC(dimension) if column_type is EmbeddingType.HALFVEC else VECTOR(dimension))
    _postings(metadata)
    _heartbeats(metadata)
    _maintenance_runs(metadata)
    _evaluation_runs(metadata)
    return metadata


def _uuid_key(name: str) -> Column[object]:
    return Column(name, Uuid, nullable=False, server_default=text("gen_random_uuid()"))


def _times() -> tuple[Column[object], Column[object]]:
    return (_time("created_at"), _time("updated_at"))


def _time(name: str) -> Column[object]:
    return Column(name, DateTime(timezone=True), nullable=False, server_default=text("now()"))


def _moment(name: str) -> Column[object]:
    return Column(name, DateTime(timezone=True))


def _metadata() -> Column[object]:
    return Column("metadata", JSONB, nullable=False, server_default=text("'{}'::jsonb"))


def _one_of(column: str, words: tuple[str, ...]) -> str:
    return f"{column} IN ({', '.join(repr(str(word)) for word in words)})"


def _check(condition: str, name: str) -> CheckConstraint:
    return CheckConstraint(text(condition), name=name)


def _tenants(metadata: MetaData) -> Table:
    return Table(
        "tenants",
        metadata,
        _uuid_key("tenant_id"),
        Column("name", Text, nullable=False),
        _moment("bulk_served_at"),
        _moment("interactive_served_at"),
        _metadata(),
        *_times(),
        PrimaryKeyConstraint("tenant_id", name="tenants_pkey"),
        UniqueConstraint("name", name="tenants_name_key"),
        _check("name <> '' AND length(name) <= 200", "tenants_name_check"),
        _check("jsonb_typeof(metadata) = 'object'", "tenants_metadata_check"),
    )


def _projects(metadata: MetaData) -> Table:
    return Table(
        "projects",
        metadata,
        _uuid_key("project_id"),
        Column("tenant_id", Uuid, nullable=False),
        Column("name", Text, nullable=False),
        Column("language", Text),
        _metadata(),
        *_times(),
        PrimaryKeyConstraint("project_id", name="projects_pkey"),
        ForeignKeyConstraint(["tenant_id"], ["tenants.tenant_id"], name="projects_tenant_id_fkey"),
        UniqueConstraint("tenant_id", "name", name="projects_tenant_id_name_key"),
        UniqueConstraint("tenant_id", "project_id", name="projects_tenant_id_project_id_key"),
        _check("name <> '' AND length(name) <= 200", "projects_name_check"),
        _check("language <> ''", "projects_language_check"),
        _check("jsonb_typeof(metadata) = 'object'", "projects_metadata_check"),
    )


def _pauses(metadata: MetaData) -> Table:
    return Table(
        "pauses",
        metadata,
        _uuid_key("pause_id"),
        Column("tenant_id", Uuid),
        Column("project_id", Uuid),
        Column("lane", Text),
        Column("reason", Text),
        Column("paused_by", Text, nullable=False),
        *_times(),
        PrimaryKeyConstraint("pause_id", name="pauses_pkey"),
        ForeignKeyConstraint(
            ["tenant_id"], ["tenants.tenant_id"], name="pauses_tenant_id_fkey", ondelete="CASCADE"
        ),
        ForeignKeyConstraint(
            ["tenant_id", "project_id"],
            ["projects.tenant_id", "projects.project_id"],
            name="pauses_project_id_fkey",
            ondelete="CASCADE",
        ),
        UniqueConstraint(
            "tenant_id", "project_id", "lane", name="pauses_scope_key", postgresql_nulls_not_distinct=True
        ),
        _check("project_id IS NULL OR tenant_id IS NOT NULL", "pauses_project_check"),
        _check(_one_of("lane", LANES), "pauses_lane_check"),
        _check("reason <> '' AND length(reason) <= 500 AND paused_by <> ''", "pauses_words_check"),
    )


def _batches(metadata: MetaData) -> Table:
    return Table(
        "batches",
        metadata,
        _uuid_key("batch_id"),
        Column("tenant_id", Uuid, nullable=False),
        Column("lane", Text, nullable=False),
        Column("state", Text, nullable=False, server_default=text("'queued'")),
        Column("documents", Integer, nullable=False),
        _time("published_at"),
        Column("publications", Integer, nullable=False, server_default=text("1")),
        Column("lease_token", Uuid),
        _moment("lease_expires_at"),
        Column("worker", Text),
        Column("progress", Integer, nullable=False, server_default=text("0")),
        _moment("finished_at"),
        *_times(),
        _moment("claimed_at"),
        Column("settled", Integer, nullable=False, server_default=text("0")),
        Column("chunks", BigInteger, nullable=False, server_default=text("0")),
        Column("size_bytes", BigInteger, nullable=False, server_default=text("0")),
        Column("trouble", Text),
        PrimaryKeyConstraint("batch_id", name="batches_pkey"),
        # documents refer to (tenant, batch): a batch with documents of another tenant is unstorable
        UniqueConstraint("tenant_id", "batch_id", name="batches_tenant_id_batch_id_key"),
        ForeignKeyConstraint(["tenant_id"], ["tenants.tenant_id"], name="batches_tenant_id_fkey"),
        _check(_one_of("state", BATCH_STATES), "batches_state_check"),
        _check(_one_of("lane", LANES), "batches_lane_check"),
        _check(
            "documents > 0 AND progress BETWEEN 0 AND documents"
            " AND (state <> 'queued' OR progress = 0) AND (state <> 'finished' OR progress = documents)",
            "batches_progress_check",
        ),
        _check("publications >= 1", "batches_publications_check"),
        _check(
            "(state = 'running') = (lease_token IS NOT NULL AND lease_expires_at IS NOT NULL)"
            " AND (lease_token IS NULL) = (lease_expires_at IS NULL)",
            "batches_lease_check",
        ),
        _check(
            "CASE state WHEN 'queued' THEN worker IS NULL WHEN 'running' THEN worker IS NOT NULL"
            " ELSE true END",
            "batches_worker_check",
        ),
        _check("settled BETWEEN 0 AND documents AND chunks >= 0 AND size_bytes >= 0", "batches_done_check"),
        _check(
            "(state IN ('finished', 'abandoned', 'cancelled')) = (finished_at IS NOT NULL)",
            "batches_finished_check",
        ),
        _check("trouble <> '' AND length(trouble) <= 500", "batches_trouble_check"),
        Index("batches_unfinished_idx", "state", "lane", postgresql_where=text("finished_at IS NULL")),
        Index("batches_finished_at_idx", "finished_at", postgresql_where=text("finished_at IS NOT NULL")),
        postgresql_with=AUTOVACUUM["batches"],
    )


def _documents(metadata: MetaData) -> Table:
    return Table(
        "documents",
        metadata,
        _uuid_key("document_id"),
        Column("tenant_id", Uuid, nullable=False),
        Column("project_id", Uuid),
        Column("filename", Text, nullable=False),
        Column("source_path", Text, nullable=False),
        Column("source_key", LargeBinary, nullable=False),
        Column("content", LargeBinary),
        Column("file_type", Text, nullable=False),
        Column("language", Text, nullable=False, server_default=text("'english'")),
        Column("size_bytes", BigInteger),
        _moment("source_modified_at"),
        Column("content_hash", LargeBinary),
        Column("fingerprint", LargeBinary),
        Column("total_chunks", Integer),
        Column("chunks_embedded", Integer, nullable=False, server_default=text("0")),
        Column("chunks_reused", Integer, nullable=False, server_default=text("0")),
        _metadata(),
        Column("searched_metadata", JSONB),
        Column("cleaned", JSONB, nullable=False, server_default=text("'{}'::jsonb")),
        Column("lane", Text, nullable=False, server_default=text("'bulk'")),
        Column("status", Text, nullable=False, server_default=text("'pending'")),
        Column("duplicate_of", Uuid),
        Column("requested_version", Integer, nullable=False, server_default=text("1")),
        Column("claimed_version", Integer, nullable=False, server_default=text("0")),
        Column("batch_id", Uuid),
        Column("isolated", Boolean, nullable=False, server_default=text("false")),
        Column("attempts", Integer, nullable=False, server_default=text("0")),
        _moment("next_attempt_at"),
        Column("error_code", Text),
        Column("error_message", Text),
        _time("queued_at"),
        _moment("settled_at"),
        _moment("deleted_at"),
        *_times(),
        Column("trace", Text),
        Column("content_digest", LargeBinary),
        PrimaryKeyConstraint("document_id", name="documents_pkey"),
        *_document_keys(),
        *_document_checks(),
        *_document_indexes(),
        postgresql_with=AUTOVACUUM["documents"],
    )


def _document_keys() -> list[ForeignKeyConstraint | UniqueConstraint]:
    return [
        # chunks refer to (tenant, document): a chunk of another tenant than its document is unstorable
        UniqueConstraint("tenant_id", "document_id", name="documents_tenant_id_document_id_key"),
        ForeignKeyConstraint(["tenant_id"], ["tenants.tenant_id"], name="documents_tenant_id_fkey"),
        ForeignKeyConstraint(
            ["tenant_id", "project_id"],
            ["projects.tenant_id", "projects.project_id"],
            name="documents_project_id_fkey",
        ),
        ForeignKeyConstraint(
            ["tenant_id", "batch_id"],
            ["batches.tenant_id", "batches.batch_id"],
            name="documents_batch_id_fkey",
        ),
        ForeignKeyConstraint(
            ["tenant_id", "duplicate_of"],
            ["documents.tenant_id", "documents.document_id"],
            name="documents_duplicate_of_fkey",
        ),
    ]


def _document_checks() -> list[CheckConstraint]:
    rules = {
        "status": _one_of("status", STATUSES),
        "lane": _one_of("lane", LANES),
        "file_type": _one_of("file_type", FILE_TYPES),
        "language": "language <> ''",
        "filename": "filename <> '' AND source_path <> ''",
        "source_key": "source_key = sha256(convert_to(source_path, 'UTF8'))",
        "content_hash": "octet_length(content_hash) = 32",
        "content_digest": "octet_length(content_digest) = 32",
        "fingerprint": "octet_length(fingerprint) = 32",
        "size_bytes": "size_bytes >= 0",
        "chunk_set": "(fingerprint IS NULL) = (total_chunks IS NULL) AND total_chunks > 0"
        " AND (fingerprint IS NULL OR content_hash IS NOT NULL)",
        "chunk_counts": "chunks_embedded >= 0 AND chunks_reused >= 0"
        " AND chunks_embedded + chunks_reused <= total_chunks",
        "metadata": "jsonb_typeof(metadata) = 'object' AND jsonb_typeof(cleaned) = 'object'",
        "versions": "requested_version > 0 AND claimed_version BETWEEN 0 AND requested_version"
        " AND (status <> 'processing' OR claimed_version > 0)",
        # an outcome is that of the newest version: an edit underway is never taken for done
        "outcome": "status IN ('pending', 'processing', 'cancelled') OR claimed_version = requested_version",
        "attempts": "attempts >= 0",
        "completed": "status <> 'completed' OR fingerprint IS NOT NULL",
        "duplicate": "(status = 'duplicate') = (duplicate_of IS NOT NULL) AND duplicate_of <> document_id"
        " AND (status <> 'duplicate' OR fingerprint IS NULL AND content_hash IS NOT NULL)",
        "skipped": "status <> 'skipped' OR fingerprint IS NULL",
        "error": "(error_code IS NULL) = (error_message IS NULL) AND error_code <> ''",
        "reason": "CASE WHEN status IN ('skipped', 'failed') THEN error_code IS NOT NULL"
        " WHEN status IN ('completed', 'duplicate', 'cancelled') THEN error_code IS NULL ELSE true END",
        "batch": "CASE status WHEN 'processing' THEN batch_id IS NOT NULL"
        " WHEN 'pending' THEN batch_id IS NULL OR deleted_at IS NULL ELSE batch_id IS NULL END",
        "next_attempt": "next_attempt_at IS NULL OR status = 'pending'",
        "settled": "(status IN ('pending', 'processing')) = (settled_at IS NULL)",
        "trace": "trace <> '' AND length(trace) <= 200",
    }
    return [_check(rule, f"documents_{name}_check") for name, rule in rules.items()]


def _document_indexes() -> list[Index]:
    return [
        Index(
            "documents_source_key",
            "tenant_id",
            "project_id",
            "source_key",
            unique=True,
            postgresql_nulls_not_distinct=True,
            postgresql_where=text("deleted_at IS NULL"),
        ),
        # one owner a content; `fingerprint` is set exactly while the document has a chunk set
        Index(
            "documents_owner_key",
            "tenant_id",
            "project_id",
            "content_hash",
            unique=True,
            postgresql_nulls_not_distinct=True,
            postgresql_where=text("fingerprint IS NOT NULL AND deleted_at IS NULL"),
        ),
        Index("documents_content_hash_idx", "content_hash"),
        Index(
            "documents_status_idx",
            "status",
            "tenant_id",
            "project_id",
            postgresql_where=text("deleted_at IS NULL"),
        ),
        Index(
            "documents_waiting_idx",
            "lane",
            "tenant_id",
            "queued_at",
            postgresql_where=text("status = 'pending' AND batch_id IS NULL AND deleted_at IS NULL"),
        ),
        # a tenant of whom some projects are paused: what the others have, without reading past theirs
        Index(
            "documents_waiting_project_idx",
            "lane",
            "tenant_id",
            "project_id",
            "queued_at",
            postgresql_where=text("status = 'pending' AND batch_id IS NULL AND deleted_at IS NULL"),
        ),
        Index("documents_project_id_idx", "project_id", postgresql_where=text("project_id IS NOT NULL")),
        Index("documents_batch_id_idx", "batch_id", postgresql_where=text("batch_id IS NOT NULL")),
        Index(
            "documents_duplicate_of_idx",
            "tenant_id",
            "duplicate_of",
            postgresql_where=text("duplicate_of IS NOT NULL"),
        ),
        Index("documents_created_at_idx", "created_at"),
        Index("documents_deleted_at_idx", "deleted_at", postgresql_where=text("deleted_at IS NOT NULL")),
        Index(
            "documents_content_idx",
            "status",
            "settled_at",
            postgresql_where=text("content IS NOT NULL AND status IN ('completed', 'skipped')"),
        ),
        Index("documents_trace_idx", "trace", postgresql_where=text("trace IS NOT NULL")),
    ]


def _segments(metadata: MetaData) -> None:
    Table(
        "embedding_space",
        metadata,
        Column("singleton", Boolean, nullable=False, server_default=text("true")),
        Column("dimension", Integer, nullable=False),
        Column("column_type", Text, nullable=False),
        Column("metric", Text, nullable=False, server_default=text("'cosine'")),
        *_times(),
        PrimaryKeyConstraint("singleton", name="embedding_space_pkey"),
        _check("singleton", "embedding_space_singleton_check"),
        _check(
            "dimension BETWEEN 1 AND CASE column_type WHEN 'vector' THEN 2000 ELSE 4000 END",
            "embedding_space_dimension_check",
        ),
        _check(_one_of("column_type", tuple(EmbeddingType)), "embedding_space_column_type_check"),
        _check(_one_of("metric", tuple(Metric)), "embedding_space_metric_check"),
    )
    Table(
        "segments",
        metadata,
        Column("segment", Integer, nullable=False, autoincrement=False),
        Column("leaf", Text, nullable=False),
        Column("state", Text, nullable=False),
        *_times(),
        Column("sealed_rows", BigInteger),
        PrimaryKeyConstraint("segment", name="segments_pkey"),
        UniqueConstraint("leaf", name="segments_leaf_key"),
        _check(_one_of("state", SEGMENT_STATES), "segments_state_check"),
        _check(
            "(state = 'trash') = (segment = -1) AND segment >= -1 AND segment <> 0", "segments_trash_check"
        ),
        _check(
            "leaf = CASE segment WHEN -1 THEN 'chunks_trash'"
            " ELSE 'chunks_s' || lpad(segment::text, greatest(6, length(segment::text)), '0') END",
            "segments_leaf_check",
        ),
        _check(
            "(state = 'sealed') = (sealed_rows IS NOT NULL) AND sealed_rows >= 0",
            "segments_sealed_rows_check",
        ),
        Index("segments_open_key", "state", unique=True, postgresql_where=text("state = 'open'")),
    )


def _chunks(metadata: MetaData, vector: HALFVEC | VECTOR) -> Table:
    numbers = Sequence("chunk_numbers", metadata=metadata)
    return Table(
        "chunks",
        metadata,
        Column("segment", Integer, nullable=False, autoincrement=False),
        _uuid_key("chunk_id"),
        Column("number", BigInteger, nullable=False, server_default=numbers.next_value()),
        Column("document_id", Uuid, nullable=False),
        Column("tenant_id", Uuid, nullable=False),
        Column("project_id", Uuid),
        Column("chunk_index", BigInteger, nullable=False),
        Column("char_length", Integer, nullable=False),
        Column("text", Text, nullable=False),
        Column("heading_path", ARRAY(Text), nullable=False, server_default=text("'{}'::text[]")),
        Column("language", Text, nullable=False, server_default=text("'english'")),
        Column("content_hash", LargeBinary, nullable=False),
        Column("embedding", vector),
        _metadata(),
        *_times(),
        PrimaryKeyConstraint("segment", "chunk_id", name="chunks_pkey"),
        ForeignKeyConstraint(
            ["tenant_id", "document_id"],
            ["documents.tenant_id", "documents.document_id"],
            name="chunks_document_id_fkey",
        ),
        _check("chunk_index >= 0 AND char_length > 0", "chunks_position_check"),
        _check("number > 0", "chunks_number_check"),
        _check("text <> ''", "chunks_text_check"),
        _check("language <> ''", "chunks_language_check"),
        # The cosine distance of a zero vector, and of one whose squares underflow, is NaN; where they
        # overflow it is wrong: such a row would be stored and never found.
        _check("(embedding <#> embedding) BETWEEN '-1e38' AND '-1e-38'", "chunks_embedding_check"),
        _check("octet_length(content_hash) = 32", "chunks_content_hash_check"),
        _check("jsonb_typeof(metadata) = 'object'", "chunks_metadata_check"),
        # `segment` only because a unique index of a partitioned table must hold its key; what it includes is
        # where a chunk begins, without a page of the table for each chunk before it
        Index(
            "chunks_place_key",
            "document_id",
            "chunk_index",
            "segment",
            unique=True,
            postgresql_include=["tenant_id", "char_length"],
        ),
        Index("chunks_content_hash_idx", "tenant_id", "content_hash"),
        Index("chunks_project_id_idx", "project_id", postgresql_where=text("project_id IS NOT NULL")),
        Index("chunks_created_at_idx", "created_at"),
        Index("chunks_number_idx", "number"),
        # empty where everything is embedded: what backfill looks for is found without a scan
        Index(
            "chunks_unembedded_idx",
            "document_id",
            "chunk_index",
            postgresql_where=text("embedding IS NULL"),
        ),
        postgresql_partition_by="LIST (segment)",
    )


def _postings(metadata: MetaData) -> Table:
    """No keys into other tables, no times: there are about five rows a chunk, written with it."""
    return Table(
        "postings",
        metadata,
        Column("segment", Integer, nullable=False, autoincrement=False),
        Column("tenant_id", Uuid, nullable=False),
        Column("term", Text(collation="C"), nullable=False),
        Column("block", BigInteger, nullable=False),
        Column("chunks", Integer, nullable=False),
        Column("occurrences", BigInteger, nullable=False),
        Column("entries", LargeBinary, nullable=False),
        _check(
            "chunks > 0 AND occurrences >= 0 AND octet_length(entries) = 5 * chunks",
            "postings_counts_check",
        ),
        Index("postings_term_idx", "tenant_id", "term"),
        postgresql_partition_by="LIST (segment)",
    )


def _heartbeats(metadata: MetaData) -> Table:
    return Table(
        "heartbeats",
        metadata,
        Column("name", Text, nullable=False),
        Column("kind", Text, nullable=False),
        Column("slots", Integer, nullable=False),
        Column("pid", Integer, nullable=False),
        _time("seen_at"),
        *_times(),
        PrimaryKeyConstraint("name", name="heartbeats_pkey"),
        _check("name <> '' AND kind <> ''", "heartbeats_name_check"),
        _check("slots >= 0 AND pid > 0", "heartbeats_slots_check"),
        postgresql_with=AUTOVACUUM["heartbeats"],
    )


def _maintenance_runs(metadata: MetaData) -> Table:
    return Table(
        "maintenance_runs",
        metadata,
        _uuid_key("run_id"),
        Column("chore", Text, nullable=False),
        Column("outcome", Text, nullable=False),
        Column("details", JSONB, nullable=False, server_default=text("'{}'::jsonb")),
        Column("error_message", Text),
        _time("started_at"),
        _moment("finished_at"),
        *_times(),
        PrimaryKeyConstraint("run_id", name="maintenance_runs_pkey"),
        _check("chore <> ''", "maintenance_runs_chore_check"),
        _check("outcome IN ('running', 'done', 'failed')", "maintenance_runs_outcome_check"),
        _check("(outcome = 'running') = (finished_at IS NULL)", "maintenance_runs_finished_check"),
        _check("(outcome = 'failed') = (error_message IS NOT NULL)", "maintenance_runs_error_message_check"),
        _check("jsonb_typeof(details) = 'object'", "maintenance_runs_details_check"),
        Index(
            "maintenance_runs_running_key", "chore", unique=True, postgresql_where=text("outcome = 'running'")
        ),
        Index("maintenance_runs_chore_idx", "chore", "started_at"),
        Index("maintenance_runs_created_at_idx", "created_at"),
    )


def _evaluation_runs(metadata: MetaData) -> Table:
    return Table(
        "evaluation_runs",
        metadata,
        _uuid_key("run_id"),
        Column("tenant_id", Uuid, nullable=False),
        Column("user_name", Text),
        Column("query", Text, nullable=False),
        Column("response", JSONB, nullable=False, server_default=text("'{}'::jsonb")),
        Column("sources", JSONB, nullable=False, server_default=text("'[]'::jsonb")),
        Column("latency_ms", JSONB, nullable=False, server_default=text("'{}'::jsonb")),
        Column("token_count", Integer),
        Column("thumbs", SmallInteger),
        Column("quality_score", Double),
        _metadata(),
        *_times(),
        PrimaryKeyConstraint("run_id", name="evaluation_runs_pkey"),
        ForeignKeyConstraint(["tenant_id"], ["tenants.tenant_id"], name="evaluation_runs_tenant_id_fkey"),
        _check("token_count >= 0", "evaluation_runs_token_count_check"),
        _check("thumbs IN (-1, 1)", "evaluation_runs_thumbs_check"),
        _check("quality_score BETWEEN 0 AND 1", "evaluation_runs_quality_score_check"),
        _check(
            "jsonb_typeof(metadata) = 'object' AND jsonb_typeof(response) = 'object'"
            " AND jsonb_typeof(latency_ms) = 'object' AND jsonb_typeof(sources) = 'array'",
            "evaluation_runs_metadata_check",
        ),
        Index("evaluation_runs_tenant_id_idx", "tenant_id", "created_at"),
        Index("evaluation_runs_created_at_idx", "created_at"),
        postgresql_with=AUTOVACUUM["evaluation_runs"],
    )
