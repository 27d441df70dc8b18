"""The operator's calls: pause what is not to be ingested now, resume it, and cancel a batch.

Each is committed when it returns. What is paused is still taken in, and waits; batches under way finish.
"""

import socket
from functools import partial
from uuid import UUID

import psutil
from sqlalchemy import Connection

from worker import outcomes
from worker.db import batches, pauses
from worker.db.pauses import Pause, Target
from worker.db.tenants import known_scope
from worker.dispatch import fill_window
from worker.errors import IngestError
from worker.resources import resources
from worker.steps.storable import storable
from worker.types import Lane

_LONGEST_REASON = 500


def pause(
    *,
    tenant: str | None = None,
    project: str | None = None,
    lane: Lane | None = None,
    everything: bool = False,
    reason: str | None = None,
    by: str | None = None,
) -> bool:
    """Have no more batches made of a tenant's, a project's or a lane's documents, until they are resumed.

    `by`: who does it; without it, the user of this process and its host. False where exactly this is paused
    already: that pause stays as it is. Raises IngestError for an unknown tenant or project, and where neither
    these nor a lane nor `everything` is given.
    """
    _require_choice(tenant, project, lane, everything=everything)
    if reason is not None and (not reason or len(reason) > _LONGEST_REASON or storable(reason) != reason):
        raise IngestError(f"a reason has 1 to {_LONGEST_REASON} characters, and no NUL", "shorten it")

    def change(connection: Connection) -> bool:
        target = _target(connection, tenant, project, lane)
        return pauses.pause(connection, target, reason, by or _who())

    return resources().transact(change)


def resume(
    *,
    tenant: str | None = None,
    project: str | None = None,
    lane: Lane | None = None,
    everything: bool = False,
) -> bool:
    """End the pause that was made with the same arguments, and dispatch; False where there is none.

    What another pause holds as well goes on waiting: `paused` gives them. Raises IngestError as `pause` does.
    """
    _require_choice(tenant, project, lane, everything=everything)

    def change(connection: Connection) -> bool:
        return pauses.resume(connection, _target(connection, tenant, project, lane))

    ended = resources().transact(change)
    fill_window(resources())
    return ended


def paused(tenant: str | None = None) -> list[Pause]:
    """Give what is paused, oldest first: everything, or what a tenant's documents may meet.

    Raises IngestError for an unknown tenant.
    """

    def ask(connection: Connection) -> list[Pause]:
        tenant_id = None if tenant is None else known_scope(connection, tenant).tenant_id
        return pauses.standing(connection, tenant_id)

    return resources().transact(ask)


def cancel_batch(batch_id: UUID | str, *, requeue: bool = False) -> int:
    """Take a batch from the queue, or from the worker that has it; gives how many documents it had.

    They are cancelled, or with `requeue` return to the backlog, uncharged. Its worker notices within
    HEARTBEAT_SECONDS, or when it is about to write, and writes nothing. 0 where the batch had ended before.
    Raises IngestError for one that is not known.
    """
    known = _known_batch(batch_id)
    found = resources().transact(partial(batches.cancel, batch_id=known, requeue=requeue))
    if found is None:
        raise IngestError(f"there is no batch {known}", "Flower, and the ingest worker's log, name batches")
    count, cancelled = found
    outcomes.say_cancelled(cancelled)
    fill_window(resources())
    return count


def _known_batch(batch_id: UUID | str) -> UUID:
    try:
        return batch_id if isinstance(batch_id, UUID) else UUID(batch_id)
    except (ValueError, TypeError, AttributeError):
        raise IngestError(f"{batch_id!r:.80} is not the id of a batch", "it is a UUID") from None


def _require_choice(tenant: str | None, project: str | None, lane: Lane | None, *, everything: bool) -> None:
    if tenant is None and project is not None:
        raise IngestError(f"whose project {project!r} is meant?", "name its tenant, too")
    if everything == (tenant is not None or lane is not None):
        raise IngestError("name a tenant, a project or a queue, or choose all, not both", "see --help")


def _target(connection: Connection, tenant: str | None, project: str | None, lane: Lane | None) -> Target:
    if tenant is None:
        return Target(None, None, lane)
    scope = known_scope(connection, tenant, project)
    return Target(scope.tenant_id, scope.project_id, lane)


def _who() -> str:
    return f"{psutil.Process().username()}@{socket.gethostname()}"
