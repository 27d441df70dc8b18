"""${message}.

Revision ID: ${up_revision}
Revises: ${down_revision | comma,n}

Rules of this house: every migration keeps the timeouts below, so that a forgotten reader makes the
migration fail instead of queueing everybody behind it; an index on a table that has rows is made
CONCURRENTLY in a migration of its own; old workers must run on the new schema during a deploy.
"""

from alembic import op

revision = ${repr(up_revision)}
down_revision = ${repr(down_revision)}
branch_labels = ${repr(branch_labels)}
depends_on = ${repr(depends_on)}

LOCK_TIMEOUT = "SET LOCAL lock_timeout = '5s'"
STATEMENT_TIMEOUT = "SET LOCAL statement_timeout = '60s'"


def upgrade() -> None:
    op.execute(LOCK_TIMEOUT)
    op.execute(STATEMENT_TIMEOUT)
    ${upgrades if upgrades else "..."}


def downgrade() -> None:
    op.execute(LOCK_TIMEOUT)
    op.execute(STATEMENT_TIMEOUT)
    ${downgrades if downgrades else "..."}
