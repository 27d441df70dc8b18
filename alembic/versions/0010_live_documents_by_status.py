"""Documents by status are counted from an index alone: it has the live ones, and no others.

Revision ID: 0010
Revises: 0004

The exporter counts at every scrape; with `deleted_at` in the table only, each count would read all of it.
Not CONCURRENTLY: there is no installation yet whose writers would wait for the second that a million takes.
"""

from alembic import op

revision = "0010"
down_revision = "0004"
branch_labels = None
depends_on = None

LOCK_TIMEOUT = "SET LOCAL lock_timeout = '5s'"
STATEMENT_TIMEOUT = "SET LOCAL statement_timeout = '60s'"

INDEX = "CREATE INDEX documents_status_idx ON documents (status, tenant_id, project_id)"


def upgrade() -> None:
    op.execute(LOCK_TIMEOUT)
    op.execute(STATEMENT_TIMEOUT)
    op.execute("DROP INDEX documents_status_idx")
    op.execute(f"{INDEX} WHERE deleted_at IS NULL")


def downgrade() -> None:
    op.execute(LOCK_TIMEOUT)
    op.execute(STATEMENT_TIMEOUT)
    op.execute("DROP INDEX documents_status_idx")
    op.execute(INDEX)
