"""Traces of documents, and what a batch's end came to.

Revision ID: 0004
Revises: 0003

Old workers run on it: they leave `trace` NULL and count nothing. The index is made here and not CONCURRENTLY:
no row has a trace yet, so it costs one scan, as the CHECK beside it does.
"""

from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

LOCK_TIMEOUT = "SET LOCAL lock_timeout = '5s'"
STATEMENT_TIMEOUT = "SET LOCAL statement_timeout = '60s'"


def upgrade() -> None:
    op.execute(LOCK_TIMEOUT)
    op.execute(STATEMENT_TIMEOUT)
    op.execute("""
        ALTER TABLE documents
            ADD COLUMN trace TEXT,
            ADD CONSTRAINT documents_trace_check CHECK (trace <> '' AND length(trace) <= 200);
        CREATE INDEX documents_trace_idx ON documents (trace) WHERE trace IS NOT NULL;
        ALTER TABLE batches
            ADD COLUMN claimed_at timestamptz,
            ADD COLUMN settled INTEGER DEFAULT 0 NOT NULL,
            ADD COLUMN chunks BIGINT DEFAULT 0 NOT NULL,
            ADD COLUMN size_bytes BIGINT DEFAULT 0 NOT NULL,
            ADD CONSTRAINT batches_done_check
                CHECK (settled BETWEEN 0 AND documents AND chunks >= 0 AND size_bytes >= 0)""")


def downgrade() -> None:
    op.execute(LOCK_TIMEOUT)
    op.execute(STATEMENT_TIMEOUT)
    op.execute("""
        ALTER TABLE batches
            DROP COLUMN claimed_at, DROP COLUMN settled, DROP COLUMN chunks, DROP COLUMN size_bytes;
        ALTER TABLE documents DROP COLUMN trace""")
