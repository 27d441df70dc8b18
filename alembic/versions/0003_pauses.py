"""Pauses, batches that were cancelled, and an index of the backlog by project.

Revision ID: 0003
Revises: 0002

The index is made in one transaction with the table: nothing is released yet, so no backlog is long.
"""

from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

LOCK_TIMEOUT = "SET LOCAL lock_timeout = '5s'"
STATEMENT_TIMEOUT = "SET LOCAL statement_timeout = '60s'"

PAUSES = """
CREATE TABLE pauses (
    pause_id UUID DEFAULT gen_random_uuid() NOT NULL,
    tenant_id UUID,
    project_id UUID,
    lane TEXT,
    reason TEXT,
    paused_by TEXT NOT NULL,
    created_at timestamptz DEFAULT now() NOT NULL,
    updated_at timestamptz DEFAULT now() NOT NULL,
    CONSTRAINT pauses_pkey PRIMARY KEY (pause_id),
    CONSTRAINT pauses_tenant_id_fkey FOREIGN KEY(tenant_id) REFERENCES tenants (tenant_id) ON DELETE CASCADE,
    CONSTRAINT pauses_project_id_fkey FOREIGN KEY(tenant_id, project_id) REFERENCES projects (tenant_id, project_id) ON DELETE CASCADE,
    CONSTRAINT pauses_scope_key UNIQUE NULLS NOT DISTINCT (tenant_id, project_id, lane),
    CONSTRAINT pauses_project_check CHECK (project_id IS NULL OR tenant_id IS NOT NULL),
    CONSTRAINT pauses_lane_check CHECK (lane IN ('interactive', 'bulk')),
    CONSTRAINT pauses_words_check CHECK (reason <> '' AND length(reason) <= 500 AND paused_by <> '')
);
ALTER TABLE pauses ENABLE ROW LEVEL SECURITY;
CREATE POLICY tenant ON pauses USING (tenant_id = nullif(current_setting('app.tenant', true), '')::uuid);
"""

STATES = """
ALTER TABLE batches DROP CONSTRAINT batches_state_check, DROP CONSTRAINT batches_finished_check;
ALTER TABLE batches
    ADD CONSTRAINT batches_state_check CHECK (state IN ({states})),
    ADD CONSTRAINT batches_finished_check CHECK ((state IN ({ended})) = (finished_at IS NOT NULL));
"""


def upgrade() -> None:
    op.execute(LOCK_TIMEOUT)
    op.execute(STATEMENT_TIMEOUT)
    op.execute(PAUSES)
    op.execute(
        STATES.format(
            states="'queued', 'running', 'finished', 'abandoned', 'cancelled'",
            ended="'finished', 'abandoned', 'cancelled'",
        )
    )
    op.execute(
        "CREATE INDEX documents_waiting_project_idx ON documents (lane, tenant_id, project_id, queued_at)"
        " WHERE status = 'pending' AND batch_id IS NULL AND deleted_at IS NULL"
    )


def downgrade() -> None:
    op.execute(LOCK_TIMEOUT)
    op.execute(STATEMENT_TIMEOUT)
    op.execute("DROP INDEX documents_waiting_project_idx")
    op.execute("UPDATE batches SET state = 'abandoned' WHERE state = 'cancelled'")
    op.execute(
        STATES.format(states="'queued', 'running', 'finished', 'abandoned'", ended="'finished', 'abandoned'")
    )
    op.execute("DROP TABLE pauses")
