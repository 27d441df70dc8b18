"""Whose rows a transaction sees: the setting that the policies read, and from a tenant's name to its id."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from uuid import UUID

from sqlalchemy import Connection, Engine, text

from worker.db.engine import transaction
from worker.db.submissions import Scope, find_scope
from worker.errors import IngestError
from worker.steps.storable import storable


@contextmanager
def tenant_transaction(
    engine: Engine, tenant_id: UUID, statement_seconds: int = 60, lock_seconds: int = 5
) -> Iterator[Connection]:
    """Run one bounded transaction that sees the rows of one tenant; otherwise as `transaction`."""
    with transaction(engine, statement_seconds, lock_seconds) as connection:
        set_tenant(connection, tenant_id)
        yield connection


def set_tenant(connection: Connection, tenant_id: UUID) -> None:
    """Have the rest of this transaction see one tenant's rows. Call it before anything is read.

    It ends with the transaction, however that ends: the next one on this connection sees nothing. Only a
    role that row-level security binds is bound by it: statements name their tenant all the same.
    """
    connection.execute(text("SELECT set_config('app.tenant', :tenant, true)"), {"tenant": str(tenant_id)})


def enter(connection: Connection, name: str) -> UUID:
    """As `set_tenant`, by name; gives the id. Raises IngestError where there is no such tenant."""
    entered = connection.execute(
        text("""SELECT id, set_config('app.tenant', coalesce(id::text, ''), true)
                FROM tenant_named(:name) AS id"""),
        {"name": name if storable(name) == name else ""},  # which none has
    )
    tenant_id: UUID | None = entered.one().id
    if tenant_id is None:
        raise IngestError(f"there is no tenant {name!r:.200}", "`ingest status` lists what there is")
    return tenant_id


def known_scope(connection: Connection, tenant: str, project: str | None = None) -> Scope:
    """Find a tenant and project by name; without a project: the whole tenant. Raises IngestError."""
    scope = find_scope(connection, tenant, project)
    if scope is None:
        what = f"tenant {tenant!r:.200}" + (f" with a project {project!r:.200}" if project else "")
        raise IngestError(f"there is no {what}", "`ingest status` lists what there is")
    return replace(scope, whole_tenant=project is None)
