"""What purge and backfill look for: deleted documents, inline content that may go, chunks without a vector.

Revision ID: 0005
Revises: 0004

The indexes are made in one transaction with the column: nothing is released yet, so no table is large.
"""

from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

LOCK_TIMEOUT = "SET LOCAL lock_timeout = '5s'"
STATEMENT_TIMEOUT = "SET LOCAL statement_timeout = '60s'"


def upgrade() -> None:
    op.execute(LOCK_TIMEOUT)
    op.execute(STATEMENT_TIMEOUT)
    op.execute("ALTER TABLE documents ADD COLUMN content_digest BYTEA")
    op.execute(
        "ALTER TABLE documents ADD CONSTRAINT documents_content_digest_check"
        " CHECK (octet_length(content_digest) = 32)"
    )
    op.execute("CREATE INDEX documents_deleted_at_idx ON documents (deleted_at) WHERE deleted_at IS NOT NULL")
    op.execute(
        "CREATE INDEX documents_content_idx ON documents (status, settled_at)"
        " WHERE content IS NOT NULL AND status IN ('completed', 'skipped')"
    )
    op.execute(
        "CREATE INDEX chunks_unembedded_idx ON chunks (document_id, chunk_index) WHERE embedding IS NULL"
    )


def downgrade() -> None:
    op.execute(LOCK_TIMEOUT)
    op.execute(STATEMENT_TIMEOUT)
    op.execute("DROP INDEX chunks_unembedded_idx, documents_content_idx, documents_deleted_at_idx")
    op.execute("ALTER TABLE documents DROP COLUMN content_digest")
