"""The tables of the pipeline: tenants to evaluation runs, the first leaves of `chunks`, the policies.

Revision ID: 0001
Revises:

The statements are frozen here; `worker/db/models.py` says the same of the newest schema and a test
compares the two catalogues.
"""

from alembic import op
from worker.settings import load_settings

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

LOCK_TIMEOUT = "SET LOCAL lock_timeout = '5s'"
STATEMENT_TIMEOUT = "SET LOCAL statement_timeout = '60s'"

TRASH = -1
SPARES = 3
INLINE_BYTES = 7900

TABLES = """
CREATE TABLE tenants (
    tenant_id UUID DEFAULT gen_random_uuid() NOT NULL,
    name TEXT NOT NULL,
    bulk_served_at timestamptz,
    interactive_served_at timestamptz,
    metadata JSONB DEFAULT '{{}}'::jsonb NOT NULL,
    created_at timestamptz DEFAULT now() NOT NULL,
    updated_at timestamptz DEFAULT now() NOT NULL,
    CONSTRAINT tenants_pkey PRIMARY KEY (tenant_id),
    CONSTRAINT tenants_name_key UNIQUE (name),
    CONSTRAINT tenants_name_check CHECK (name <> '' AND length(name) <= 200),
    CONSTRAINT tenants_metadata_check CHECK (jsonb_typeof(metadata) = 'object')
);

CREATE TABLE projects (
    project_id UUID DEFAULT gen_random_uuid() NOT NULL,
    tenant_id UUID NOT NULL,
    name TEXT NOT NULL,
    language TEXT,
    metadata JSONB DEFAULT '{{}}'::jsonb NOT NULL,
    created_at timestamptz DEFAULT now() NOT NULL,
    updated_at timestamptz DEFAULT now() NOT NULL,
    CONSTRAINT projects_pkey PRIMARY KEY (project_id),
    CONSTRAINT projects_tenant_id_fkey FOREIGN KEY(tenant_id) REFERENCES tenants (tenant_id),
    CONSTRAINT projects_tenant_id_name_key UNIQUE (tenant_id, name),
    CONSTRAINT projects_tenant_id_project_id_key UNIQUE (tenant_id, project_id),
    CONSTRAINT projects_name_check CHECK (name <> '' AND length(name) <= 200),
    CONSTRAINT projects_language_check CHECK (language <> ''),
    CONSTRAINT projects_metadata_check CHECK (jsonb_typeof(metadata) = 'object')
);

CREATE TABLE batches (
    batch_id UUID DEFAULT gen_random_uuid() NOT NULL,
    tenant_id UUID NOT NULL,
    lane TEXT NOT NULL,
    state TEXT DEFAULT 'queued' NOT NULL,
    documents INTEGER NOT NULL,
    published_at timestamptz DEFAULT now() NOT NULL,
    publications INTEGER DEFAULT 1 NOT NULL,
    lease_token UUID,
    lease_expires_at timestamptz,
    worker TEXT,
    progress INTEGER DEFAULT 0 NOT NULL,
    finished_at timestamptz,
    created_at timestamptz DEFAULT now() NOT NULL,
    updated_at timestamptz DEFAULT now() NOT NULL,
    CONSTRAINT batches_pkey PRIMARY KEY (batch_id),
    CONSTRAINT batches_tenant_id_batch_id_key UNIQUE (tenant_id, batch_id),
    CONSTRAINT batches_tenant_id_fkey FOREIGN KEY(tenant_id) REFERENCES tenants (tenant_id),
    CONSTRAINT batches_state_check CHECK (state IN ('queued', 'running', 'finished', 'abandoned')),
    CONSTRAINT batches_lane_check CHECK (lane IN ('interactive', 'bulk')),
    CONSTRAINT batches_progress_check CHECK (documents > 0 AND progress BETWEEN 0 AND documents AND (state <> 'queued' OR progress = 0) AND (state <> 'finished' OR progress = documents)),
    CONSTRAINT batches_publications_check CHECK (publications >= 1),
    CONSTRAINT batches_lease_check CHECK ((state = 'running') = (lease_token IS NOT NULL AND lease_expires_at IS NOT NULL) AND (lease_token IS NULL) = (lease_expires_at IS NULL)),
    CONSTRAINT batches_worker_check CHECK (CASE state WHEN 'queued' THEN worker IS NULL WHEN 'running' THEN worker IS NOT NULL ELSE true END),
    CONSTRAINT batches_finished_check CHECK ((state IN ('finished', 'abandoned')) = (finished_at IS NOT NULL))
);
CREATE INDEX batches_finished_at_idx ON batches (finished_at) WHERE finished_at IS NOT NULL;
CREATE INDEX batches_unfinished_idx ON batches (state, lane) WHERE finished_at IS NULL;

CREATE TABLE documents (
    document_id UUID DEFAULT gen_random_uuid() NOT NULL,
    tenant_id UUID NOT NULL,
    project_id UUID,
    filename TEXT NOT NULL,
    source_path TEXT NOT NULL,
    source_key BYTEA NOT NULL,
    content BYTEA,
    file_type TEXT NOT NULL,
    language TEXT DEFAULT 'english' NOT NULL,
    size_bytes BIGINT,
    source_modified_at timestamptz,
    content_hash BYTEA,
    fingerprint BYTEA,
    total_chunks INTEGER,
    chunks_embedded INTEGER DEFAULT 0 NOT NULL,
    chunks_reused INTEGER DEFAULT 0 NOT NULL,
    metadata JSONB DEFAULT '{{}}'::jsonb NOT NULL,
    searched_metadata JSONB,
    cleaned JSONB DEFAULT '{{}}'::jsonb NOT NULL,
    lane TEXT DEFAULT 'bulk' NOT NULL,
    status TEXT DEFAULT 'pending' NOT NULL,
    duplicate_of UUID,
    requested_version INTEGER DEFAULT 1 NOT NULL,
    claimed_version INTEGER DEFAULT 0 NOT NULL,
    batch_id UUID,
    isolated BOOLEAN DEFAULT false NOT NULL,
    attempts INTEGER DEFAULT 0 NOT NULL,
    next_attempt_at timestamptz,
    error_code TEXT,
    error_message TEXT,
    queued_at timestamptz DEFAULT now() NOT NULL,
    settled_at timestamptz,
    deleted_at timestamptz,
    created_at timestamptz DEFAULT now() NOT NULL,
    updated_at timestamptz DEFAULT now() NOT NULL,
    CONSTRAINT documents_pkey PRIMARY KEY (document_id),
    CONSTRAINT documents_tenant_id_document_id_key UNIQUE (tenant_id, document_id),
    CONSTRAINT documents_tenant_id_fkey FOREIGN KEY(tenant_id) REFERENCES tenants (tenant_id),
    CONSTRAINT documents_project_id_fkey FOREIGN KEY(tenant_id, project_id) REFERENCES projects (tenant_id, project_id),
    CONSTRAINT documents_batch_id_fkey FOREIGN KEY(tenant_id, batch_id) REFERENCES batches (tenant_id, batch_id),
    CONSTRAINT documents_duplicate_of_fkey FOREIGN KEY(tenant_id, duplicate_of) REFERENCES documents (tenant_id, document_id),
    CONSTRAINT documents_status_check CHECK (status IN ('pending', 'processing', 'completed', 'duplicate', 'skipped', 'failed', 'cancelled')),
    CONSTRAINT documents_lane_check CHECK (lane IN ('interactive', 'bulk')),
    CONSTRAINT documents_file_type_check CHECK (file_type IN ('markdown', 'code', 'text', 'chunks')),
    CONSTRAINT documents_language_check CHECK (language <> ''),
    CONSTRAINT documents_filename_check CHECK (filename <> '' AND source_path <> ''),
    CONSTRAINT documents_source_key_check CHECK (source_key = sha256(convert_to(source_path, 'UTF8'))),
    CONSTRAINT documents_content_hash_check CHECK (octet_length(content_hash) = 32),
    CONSTRAINT documents_fingerprint_check CHECK (octet_length(fingerprint) = 32),
    CONSTRAINT documents_size_bytes_check CHECK (size_bytes >= 0),
    CONSTRAINT documents_chunk_set_check CHECK ((fingerprint IS NULL) = (total_chunks IS NULL) AND total_chunks > 0 AND (fingerprint IS NULL OR content_hash IS NOT NULL)),
    CONSTRAINT documents_chunk_counts_check CHECK (chunks_embedded >= 0 AND chunks_reused >= 0 AND chunks_embedded + chunks_reused <= total_chunks),
    CONSTRAINT documents_metadata_check CHECK (jsonb_typeof(metadata) = 'object' AND jsonb_typeof(cleaned) = 'object'),
    CONSTRAINT documents_versions_check CHECK (requested_version > 0 AND claimed_version BETWEEN 0 AND requested_version AND (status <> 'processing' OR claimed_version > 0)),
    CONSTRAINT documents_outcome_check CHECK (status IN ('pending', 'processing', 'cancelled') OR claimed_version = requested_version),
    CONSTRAINT documents_attempts_check CHECK (attempts >= 0),
    CONSTRAINT documents_completed_check CHECK (status <> 'completed' OR fingerprint IS NOT NULL),
    CONSTRAINT documents_duplicate_check CHECK ((status = 'duplicate') = (duplicate_of IS NOT NULL) AND duplicate_of <> document_id AND (status <> 'duplicate' OR fingerprint IS NULL AND content_hash IS NOT NULL)),
    CONSTRAINT documents_skipped_check CHECK (status <> 'skipped' OR fingerprint IS NULL),
    CONSTRAINT documents_error_check CHECK ((error_code IS NULL) = (error_message IS NULL) AND error_code <> ''),
    CONSTRAINT documents_reason_check CHECK (CASE WHEN status IN ('skipped', 'failed') THEN error_code IS NOT NULL WHEN status IN ('completed', 'duplicate', 'cancelled') THEN error_code IS NULL ELSE true END),
    CONSTRAINT documents_batch_check CHECK (CASE status WHEN 'processing' THEN batch_id IS NOT NULL WHEN 'pending' THEN batch_id IS NULL OR deleted_at IS NULL ELSE batch_id IS NULL END),
    CONSTRAINT documents_next_attempt_check CHECK (next_attempt_at IS NULL OR status = 'pending'),
    CONSTRAINT documents_settled_check CHECK ((status IN ('pending', 'processing')) = (settled_at IS NULL))
);
CREATE INDEX documents_batch_id_idx ON documents (batch_id) WHERE batch_id IS NOT NULL;
CREATE INDEX documents_content_hash_idx ON documents (content_hash);
CREATE INDEX documents_created_at_idx ON documents (created_at);
CREATE INDEX documents_duplicate_of_idx ON documents (tenant_id, duplicate_of) WHERE duplicate_of IS NOT NULL;
CREATE UNIQUE INDEX documents_owner_key ON documents (tenant_id, project_id, content_hash) NULLS NOT DISTINCT WHERE fingerprint IS NOT NULL AND deleted_at IS NULL;
CREATE INDEX documents_project_id_idx ON documents (project_id) WHERE project_id IS NOT NULL;
CREATE UNIQUE INDEX documents_source_key ON documents (tenant_id, project_id, source_key) NULLS NOT DISTINCT WHERE deleted_at IS NULL;
CREATE INDEX documents_status_idx ON documents (status, tenant_id, project_id);
CREATE INDEX documents_waiting_idx ON documents (lane, tenant_id, queued_at) WHERE status = 'pending' AND batch_id IS NULL AND deleted_at IS NULL;

CREATE TABLE embedding_space (
    singleton BOOLEAN DEFAULT true NOT NULL,
    dimension INTEGER NOT NULL,
    column_type TEXT NOT NULL,
    metric TEXT DEFAULT 'cosine' NOT NULL,
    created_at timestamptz DEFAULT now() NOT NULL,
    updated_at timestamptz DEFAULT now() NOT NULL,
    CONSTRAINT embedding_space_pkey PRIMARY KEY (singleton),
    CONSTRAINT embedding_space_singleton_check CHECK (singleton),
    CONSTRAINT embedding_space_dimension_check CHECK (dimension BETWEEN 1 AND CASE column_type WHEN 'vector' THEN 2000 ELSE 4000 END),
    CONSTRAINT embedding_space_column_type_check CHECK (column_type IN ('vector', 'halfvec')),
    CONSTRAINT embedding_space_metric_check CHECK (metric IN ('cosine', 'l2', 'inner_product'))
);

CREATE TABLE segments (
    segment INTEGER NOT NULL,
    leaf TEXT NOT NULL,
    state TEXT NOT NULL,
    created_at timestamptz DEFAULT now() NOT NULL,
    updated_at timestamptz DEFAULT now() NOT NULL,
    sealed_rows bigint,
    CONSTRAINT segments_pkey PRIMARY KEY (segment),
    CONSTRAINT segments_leaf_key UNIQUE (leaf),
    CONSTRAINT segments_state_check CHECK (state IN ('spare', 'open', 'sealing', 'sealed', 'merging', 'emptied', 'trash')),
    CONSTRAINT segments_sealed_rows_check CHECK ((state = 'sealed') = (sealed_rows IS NOT NULL) AND sealed_rows >= 0),
    CONSTRAINT segments_trash_check CHECK ((state = 'trash') = (segment = -1) AND segment >= -1 AND segment <> 0),
    CONSTRAINT segments_leaf_check CHECK (leaf = CASE segment WHEN -1 THEN 'chunks_trash' ELSE 'chunks_s' || lpad(segment::text, greatest(6, length(segment::text)), '0') END)
);
CREATE UNIQUE INDEX segments_open_key ON segments (state) WHERE state = 'open';

CREATE SEQUENCE chunk_numbers;

CREATE TABLE chunks (
    segment INTEGER NOT NULL,
    chunk_id UUID DEFAULT gen_random_uuid() NOT NULL,
    number BIGINT DEFAULT nextval('chunk_numbers') NOT NULL,
    document_id UUID NOT NULL,
    tenant_id UUID NOT NULL,
    project_id UUID,
    chunk_index BIGINT NOT NULL,
    char_length INTEGER NOT NULL,
    text TEXT NOT NULL,
    heading_path TEXT[] DEFAULT '{{}}'::text[] NOT NULL,
    language TEXT DEFAULT 'english' NOT NULL,
    content_hash BYTEA NOT NULL,
    embedding {column_type}({dimension}),
    metadata JSONB DEFAULT '{{}}'::jsonb NOT NULL,
    created_at timestamptz DEFAULT now() NOT NULL,
    updated_at timestamptz DEFAULT now() NOT NULL,
    CONSTRAINT chunks_pkey PRIMARY KEY (segment, chunk_id),
    CONSTRAINT chunks_document_id_fkey FOREIGN KEY(tenant_id, document_id) REFERENCES documents (tenant_id, document_id),
    CONSTRAINT chunks_position_check CHECK (chunk_index >= 0 AND char_length > 0),
    CONSTRAINT chunks_number_check CHECK (number > 0),
    CONSTRAINT chunks_text_check CHECK (text <> ''),
    CONSTRAINT chunks_language_check CHECK (language <> ''),
    CONSTRAINT chunks_embedding_check CHECK ((embedding <#> embedding) BETWEEN '-1e38' AND '-1e-38'),
    CONSTRAINT chunks_content_hash_check CHECK (octet_length(content_hash) = 32),
    CONSTRAINT chunks_metadata_check CHECK (jsonb_typeof(metadata) = 'object')
)
 PARTITION BY LIST (segment);
CREATE INDEX chunks_content_hash_idx ON chunks (tenant_id, content_hash);
CREATE INDEX chunks_created_at_idx ON chunks (created_at);
CREATE INDEX chunks_number_idx ON chunks (number);
CREATE UNIQUE INDEX chunks_place_key ON chunks (document_id, chunk_index, segment) INCLUDE (tenant_id, char_length);
CREATE INDEX chunks_project_id_idx ON chunks (project_id) WHERE project_id IS NOT NULL;

CREATE TABLE postings (
    segment INTEGER NOT NULL,
    tenant_id UUID NOT NULL,
    term TEXT COLLATE "C" NOT NULL,
    block BIGINT NOT NULL,
    chunks INTEGER NOT NULL,
    occurrences BIGINT NOT NULL,
    entries BYTEA NOT NULL,
    CONSTRAINT postings_counts_check CHECK (chunks > 0 AND occurrences >= 0 AND octet_length(entries) = 5 * chunks)
)
 PARTITION BY LIST (segment);
CREATE INDEX postings_term_idx ON postings (tenant_id, term);

CREATE TABLE heartbeats (
    name TEXT NOT NULL,
    kind TEXT NOT NULL,
    slots INTEGER NOT NULL,
    pid INTEGER NOT NULL,
    seen_at timestamptz DEFAULT now() NOT NULL,
    created_at timestamptz DEFAULT now() NOT NULL,
    updated_at timestamptz DEFAULT now() NOT NULL,
    CONSTRAINT heartbeats_pkey PRIMARY KEY (name),
    CONSTRAINT heartbeats_name_check CHECK (name <> '' AND kind <> ''),
    CONSTRAINT heartbeats_slots_check CHECK (slots >= 0 AND pid > 0)
);

CREATE TABLE maintenance_runs (
    run_id UUID DEFAULT gen_random_uuid() NOT NULL,
    chore TEXT NOT NULL,
    outcome TEXT NOT NULL,
    details JSONB DEFAULT '{{}}'::jsonb NOT NULL,
    error_message TEXT,
    started_at timestamptz DEFAULT now() NOT NULL,
    finished_at timestamptz,
    created_at timestamptz DEFAULT now() NOT NULL,
    updated_at timestamptz DEFAULT now() NOT NULL,
    CONSTRAINT maintenance_runs_pkey PRIMARY KEY (run_id),
    CONSTRAINT maintenance_runs_chore_check CHECK (chore <> ''),
    CONSTRAINT maintenance_runs_outcome_check CHECK (outcome IN ('running', 'done', 'failed')),
    CONSTRAINT maintenance_runs_finished_check CHECK ((outcome = 'running') = (finished_at IS NULL)),
    CONSTRAINT maintenance_runs_error_message_check CHECK ((outcome = 'failed') = (error_message IS NOT NULL)),
    CONSTRAINT maintenance_runs_details_check CHECK (jsonb_typeof(details) = 'object')
);
CREATE INDEX maintenance_runs_chore_idx ON maintenance_runs (chore, started_at);
CREATE INDEX maintenance_runs_created_at_idx ON maintenance_runs (created_at);
CREATE UNIQUE INDEX maintenance_runs_running_key ON maintenance_runs (chore) WHERE outcome = 'running';

CREATE TABLE evaluation_runs (
    run_id UUID DEFAULT gen_random_uuid() NOT NULL,
    tenant_id UUID NOT NULL,
    user_name TEXT,
    query TEXT NOT NULL,
    response JSONB DEFAULT '{{}}'::jsonb NOT NULL,
    sources JSONB DEFAULT '[]'::jsonb NOT NULL,
    latency_ms JSONB DEFAULT '{{}}'::jsonb NOT NULL,
    token_count INTEGER,
    thumbs SMALLINT,
    quality_score DOUBLE PRECISION,
    metadata JSONB DEFAULT '{{}}'::jsonb NOT NULL,
    created_at timestamptz DEFAULT now() NOT NULL,
    updated_at timestamptz DEFAULT now() NOT NULL,
    CONSTRAINT evaluation_runs_pkey PRIMARY KEY (run_id),
    CONSTRAINT evaluation_runs_tenant_id_fkey FOREIGN KEY(tenant_id) REFERENCES tenants (tenant_id),
    CONSTRAINT evaluation_runs_token_count_check CHECK (token_count >= 0),
    CONSTRAINT evaluation_runs_thumbs_check CHECK (thumbs IN (-1, 1)),
    CONSTRAINT evaluation_runs_quality_score_check CHECK (quality_score BETWEEN 0 AND 1),
    CONSTRAINT evaluation_runs_metadata_check CHECK (jsonb_typeof(metadata) = 'object' AND jsonb_typeof(response) = 'object' AND jsonb_typeof(latency_ms) = 'object' AND jsonb_typeof(sources) = 'array')
);
CREATE INDEX evaluation_runs_created_at_idx ON evaluation_runs (created_at);
CREATE INDEX evaluation_runs_tenant_id_idx ON evaluation_runs (tenant_id, created_at);
"""

BOUND_TO_A_TENANT = ("tenants", "projects", "batches", "documents", "chunks", "postings", "evaluation_runs")

POLICY = """
ALTER TABLE {table} ENABLE ROW LEVEL SECURITY;
CREATE POLICY tenant ON {table} USING (tenant_id = nullif(current_setting('app.tenant', true), '')::uuid);
"""

FUNCTIONS = """
CREATE FUNCTION tenant_named(wanted text) RETURNS uuid
LANGUAGE sql STABLE STRICT SECURITY DEFINER SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC SELECT t.tenant_id FROM tenants t WHERE t.name = wanted; END;
REVOKE ALL ON FUNCTION tenant_named(text) FROM PUBLIC;

CREATE FUNCTION index_builds(
    OUT leaf text, OUT phase text, OUT done float, OUT blocker int, OUT waits_for text, OUT since_seconds float)
RETURNS SETOF record
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
    SELECT c.relname::text, p.phase,
           coalesce(p.tuples_done::float / nullif(p.tuples_total, 0),
                    p.blocks_done::float / nullif(p.blocks_total, 0)),
           p.current_locker_pid::int, coalesce(nullif(a.application_name, ''), a.backend_type),
           extract(epoch FROM clock_timestamp() - a.xact_start)::float
    FROM pg_stat_progress_create_index p
    JOIN pg_class c ON c.oid = p.relid
    LEFT JOIN pg_stat_activity a ON a.pid = p.current_locker_pid AND p.current_locker_pid <> 0
    WHERE p.datname = current_database();
END;
REVOKE ALL ON FUNCTION index_builds() FROM PUBLIC;
"""

POSTINGS = """
CREATE TABLE {leaf} (LIKE postings INCLUDING ALL);
ALTER TABLE {leaf} ALTER COLUMN segment SET DEFAULT {segment};
ALTER TABLE {leaf} SET (toast_tuple_target = 8160);
ALTER TABLE {leaf} ALTER COLUMN entries SET STORAGE EXTERNAL;
ALTER TABLE postings ATTACH PARTITION {leaf} FOR VALUES IN ({segment});
"""

LEAF = """
CREATE TABLE {leaf} (LIKE chunks INCLUDING ALL);
ALTER TABLE {leaf} ALTER COLUMN segment SET DEFAULT {segment};
ALTER TABLE {leaf} SET (toast_tuple_target = 8160);
ALTER TABLE {leaf} ALTER COLUMN embedding SET STORAGE {storage};
ALTER TABLE chunks ATTACH PARTITION {leaf} FOR VALUES IN ({segment});
{postings}
INSERT INTO segments (segment, leaf, state) VALUES ({segment}, '{leaf}', '{state}');
"""


def upgrade() -> None:
    op.execute(LOCK_TIMEOUT)
    op.execute(STATEMENT_TIMEOUT)
    op.execute("CREATE EXTENSION IF NOT EXISTS vector")
    settings = op.get_context().config.attributes.get("settings") or load_settings()
    dimension, column_type = settings.embedding_dimension, settings.embedding_type.value
    metric = settings.embedding_metric.value
    op.execute(TABLES.format(dimension=dimension, column_type=column_type))
    op.execute(
        "INSERT INTO embedding_space (dimension, column_type, metric)"
        f" VALUES ({dimension}, '{column_type}', '{metric}')"
    )
    numbers = 4 if column_type == "vector" else 2
    storage = "PLAIN" if 8 + dimension * numbers <= INLINE_BYTES else "EXTERNAL"
    leaves = {TRASH: "trash", 1: "open", **dict.fromkeys(range(2, 2 + SPARES), "spare")}
    for segment, state in leaves.items():
        leaf = "chunks_trash" if segment == TRASH else f"chunks_s{segment:06d}"
        postings = (
            "" if segment == TRASH else POSTINGS.format(leaf=f"postings_s{segment:06d}", segment=segment)
        )
        op.execute(LEAF.format(leaf=leaf, segment=segment, state=state, storage=storage, postings=postings))
    for table in BOUND_TO_A_TENANT:
        op.execute(POLICY.format(table=table))
    op.execute(FUNCTIONS)


def downgrade() -> None:
    # The extension stays: it may have been there before us, and other tables may use it.
    op.execute(LOCK_TIMEOUT)
    op.execute(STATEMENT_TIMEOUT)
    op.execute("DROP FUNCTION tenant_named(text), index_builds()")
    op.execute(
        "DROP TABLE evaluation_runs, maintenance_runs, heartbeats, postings, chunks, segments, embedding_space,"
        " documents, batches, projects, tenants"
    )
    op.execute("DROP SEQUENCE chunk_numbers")
