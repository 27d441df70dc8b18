"""What keeps a batch under way from going on, or ended its process.

Revision ID: 0011
Revises: 0010
"""

from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None

LOCK_TIMEOUT = "SET LOCAL lock_timeout = '5s'"
STATEMENT_TIMEOUT = "SET LOCAL statement_timeout = '60s'"


def upgrade() -> None:
    op.execute(LOCK_TIMEOUT)
    op.execute(STATEMENT_TIMEOUT)
    op.execute("ALTER TABLE batches ADD COLUMN trouble TEXT")
    op.execute(
        "ALTER TABLE batches ADD CONSTRAINT batches_trouble_check"
        " CHECK (trouble <> '' AND length(trouble) <= 500)"
    )


def downgrade() -> None:
    op.execute(LOCK_TIMEOUT)
    op.execute(STATEMENT_TIMEOUT)
    op.execute("ALTER TABLE batches DROP COLUMN trouble")
