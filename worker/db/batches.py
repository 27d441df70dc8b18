"""`batches`: the unit of dispatch, lease and heartbeat. One row, one UPDATE a step."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple
from uuid import UUID

from sqlalchemy import Connection, Row, text

from worker.db.documents import move
from worker.db.duplicates import release_duplicates
from worker.errors import LeaseLostError
from worker.types import Lane, Status

_MOST_TRACES = 5
_EXPIRED = "finished_at IS NULL AND state = 'running' AND lease_expires_at < now()"


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to finish a batch: every write checks the token."""

    batch_id: UUID
    token: UUID
    tenant_id: UUID
    lane: Lane


class Done(NamedTuple):
    """What the writes of a batch came to: outcomes, new chunks, and the bytes of these documents."""

    settled: int = 0
    chunks: int = 0
    size_bytes: int = 0

    def plus(self, other: "Done") -> "Done":
        """Sum up two."""
        return Done(
            self.settled + other.settled, self.chunks + other.chunks, self.size_bytes + other.size_bytes
        )


class Formed(NamedTuple):
    """A batch as it is published. `traces`: of its documents, the first few."""

    batch_id: UUID
    tenant_id: UUID
    tenant: str
    documents: int
    traces: Sequence[str]

    @property
    def label(self) -> str:
        """Say what a person who watches the queue should read about it."""
        trace = f", trace {self.traces[0]}" if len(self.traces) == 1 else ""
        return f"{self.tenant}: {self.documents} documents{trace}, {self.batch_id}"


def queued_count(connection: Connection, lane: Lane) -> int:
    """Count the batches that are published and not claimed."""
    found = connection.execute(
        text("SELECT count(*) FROM batches WHERE finished_at IS NULL AND state = 'queued' AND lane = :lane"),
        {"lane": lane.value},
    )
    return int(found.scalar_one())


def is_busy(connection: Connection) -> bool:
    """Tell whether a batch is under way, or waits for a worker: dispatch forms them while there is work."""
    found = connection.execute(text("SELECT EXISTS (SELECT FROM batches WHERE finished_at IS NULL)"))
    return bool(found.scalar_one())


def record(connection: Connection, lane: Lane, tenant_id: UUID, chosen: Sequence[UUID]) -> UUID:
    """Record a batch of a tenant's documents, taken from whatever batch they were in; gives its id."""
    batch_id: UUID = connection.execute(
        text("""
            INSERT INTO batches (tenant_id, lane, documents, published_at, publications)
            VALUES (:tenant_id, :lane, :documents, now(), 1) RETURNING batch_id"""),
        {"tenant_id": tenant_id, "lane": lane.value, "documents": len(chosen)},
    ).scalar_one()
    connection.execute(
        text("UPDATE documents SET batch_id = :batch_id, updated_at = now() WHERE document_id = ANY(:ids)"),
        {"batch_id": batch_id, "ids": list(chosen)},
    )
    return batch_id


def take_unclaimed(connection: Connection, lane: Lane, seconds: int) -> list[UUID]:
    """Give the batches published over `seconds` ago and not claimed since, as published again now."""
    found = connection.execute(
        text("""
            UPDATE batches SET published_at = now(), publications = publications + 1, updated_at = now()
            WHERE finished_at IS NULL AND state = 'queued' AND lane = :lane
              AND published_at < now() - make_interval(secs => :seconds)
            RETURNING batch_id"""),
        {"lane": lane.value, "seconds": seconds},
    )
    return list(found.scalars())


def labelled(connection: Connection, batch_ids: Sequence[UUID]) -> list[Formed]:
    """Give what is said of batches, in the order asked for."""
    found = connection.execute(
        text("""
            SELECT b.batch_id, tenant_id, t.name, b.documents, ARRAY(
                SELECT DISTINCT d.trace FROM documents d
                WHERE d.batch_id = b.batch_id AND d.trace IS NOT NULL LIMIT :traces) AS traces
            FROM batches b JOIN tenants t USING (tenant_id) WHERE b.batch_id = ANY(:ids)"""),
        {"ids": list(batch_ids), "traces": _MOST_TRACES},
    )
    formed = {row.batch_id: Formed(*row) for row in found}
    return [formed[batch_id] for batch_id in batch_ids]


def claim(connection: Connection, batch_id: UUID, worker: str, lease_seconds: int) -> Lease | None:
    """Take the lease of a queued batch; None when it is taken, finished or unknown."""
    row = connection.execute(
        text("""
            UPDATE batches SET state = 'running', worker = :worker, claimed_at = now(),
                   lease_token = gen_random_uuid(),
                   lease_expires_at = now() + make_interval(secs => :seconds), updated_at = now()
            WHERE batch_id = :batch_id AND state = 'queued'
            RETURNING lease_token, tenant_id, lane"""),
        {"batch_id": batch_id, "worker": worker, "seconds": lease_seconds},
    ).one_or_none()
    return Lease(batch_id, row.lease_token, row.tenant_id, Lane(row.lane)) if row else None


def renew(
    connection: Connection, lease: Lease, progress: int, trouble: str | None, lease_seconds: int
) -> None:
    """Keep the lease, and say how many documents are done and what holds it up. Raises LeaseLostError."""
    renewed = connection.execute(
        text("""
            UPDATE batches SET lease_expires_at = now() + make_interval(secs => :seconds),
                   progress = least(:progress, documents), trouble = left(:trouble, 500), updated_at = now()
            WHERE batch_id = :batch_id AND lease_token = :token"""),
        {
            "batch_id": lease.batch_id,
            "token": lease.token,
            "progress": progress,
            "trouble": trouble,
            "seconds": lease_seconds,
        },
    )
    if renewed.rowcount == 0:
        raise LeaseLostError(str(lease.batch_id))


def remark(connection: Connection, batch_id: UUID, worker: str, trouble: str) -> bool:
    """Note what ended the process of a worker that had this batch; tell whether the batch is under way.

    Nothing is decided by it, so it takes no lease: whether the batch is over, its lease says.
    """
    noted = connection.execute(
        text("""
            UPDATE batches SET trouble = left(:trouble, 500), updated_at = now()
            WHERE batch_id = :batch_id AND state = 'running' AND worker = :worker"""),
        {"batch_id": batch_id, "worker": worker, "trouble": trouble},
    )
    return noted.rowcount > 0


def troubles(connection: Connection) -> Sequence[Row[Any]]:
    """Give (trouble, batches, documents, seconds) of batches under way; seconds since the first claim."""
    return connection.execute(
        text("""
            SELECT trouble, count(*) AS batches, sum(documents)::int AS documents,
                   extract(epoch FROM now() - min(claimed_at))::float AS seconds
            FROM batches WHERE finished_at IS NULL AND state = 'running' AND trouble IS NOT NULL
            GROUP BY trouble ORDER BY seconds DESC""")
    ).all()


def fence(connection: Connection, lease: Lease) -> None:
    """Lock the batch for this transaction. Raises LeaseLostError when the lease is another's."""
    held = connection.execute(
        text("SELECT 1 FROM batches WHERE batch_id = :batch_id AND lease_token = :token FOR UPDATE"),
        {"batch_id": lease.batch_id, "token": lease.token},
    )
    if held.one_or_none() is None:
        raise LeaseLostError(str(lease.batch_id))


def finish(connection: Connection, lease: Lease, done: Done) -> int:
    """End a batch under its lease; gives how many documents it had. Raises LeaseLostError.

    What it still holds goes back by `hand_back`, in the same transaction.
    """
    ended = connection.execute(
        text("""
            UPDATE batches SET state = 'finished', lease_token = NULL, lease_expires_at = NULL,
                   progress = documents, settled = least(:settled, documents), chunks = :chunks,
                   size_bytes = :size_bytes, trouble = NULL, finished_at = now(), updated_at = now()
            WHERE batch_id = :batch_id AND lease_token = :token
            RETURNING documents"""),
        {"batch_id": lease.batch_id, "token": lease.token, **done._asdict()},
    ).one_or_none()
    if ended is None:
        raise LeaseLostError(str(lease.batch_id))
    return int(ended.documents)


def hand_back(connection: Connection, batch_id: UUID) -> int:
    """Return what a claimed batch still holds to the backlog, uncharged; gives how many documents."""
    moved = move(
        connection,
        Status.PENDING,
        where="d.batch_id = :batch_id",
        change="queued_at = now(), attempts = greatest(d.attempts - 1, 0)",
        batch_id=batch_id,
    )
    return len(moved)


def cancel(connection: Connection, batch_id: UUID, *, requeue: bool) -> tuple[int, Sequence[Row[Any]]] | None:
    """Take a batch from the queue, or from its worker; None where there is no such batch.

    Gives how many documents it had, and (document_id, trace) of those that are cancelled: all, or none where
    they return to the backlog. Its worker finds that the lease is gone, and writes nothing. A batch that has
    ended stays as it is, and has none.
    """
    state = connection.execute(
        text("SELECT state FROM batches WHERE batch_id = :batch_id FOR UPDATE"), {"batch_id": batch_id}
    ).scalar_one_or_none()
    if state not in ("queued", "running"):
        return None if state is None else (0, ())
    connection.execute(
        text("""
            UPDATE batches SET state = 'cancelled', lease_token = NULL, lease_expires_at = NULL,
                   finished_at = now(), updated_at = now()
            WHERE batch_id = :batch_id"""),
        {"batch_id": batch_id},
    )
    cancelled = () if requeue else _cancel_documents(connection, batch_id)
    handed_back = hand_back(connection, batch_id) + free_pending(connection, batch_id)
    # a deleted one goes back: it may be restored
    return handed_back if requeue else len(cancelled), cancelled


def _cancel_documents(connection: Connection, batch_id: UUID) -> Sequence[Row[Any]]:
    moved = move(
        connection,
        Status.CANCELLED,
        where="d.batch_id = :batch_id AND d.deleted_at IS NULL",
        returning="d.trace",
        batch_id=batch_id,
    )
    release_duplicates(connection, [row.document_id for row in moved])
    return moved


def count_expired(connection: Connection) -> int:
    """Count the running batches whose lease ran out."""
    found = connection.execute(text(f"SELECT count(*) FROM batches WHERE {_EXPIRED}"))
    return int(found.scalar_one())


def abandon_expired(connection: Connection, limit: int) -> list[UUID]:
    """End running batches whose lease has run out; gives their ids."""
    found = connection.execute(
        text(f"""
            UPDATE batches SET state = 'abandoned', lease_token = NULL, lease_expires_at = NULL,
                   finished_at = now(), updated_at = now()
            WHERE batch_id IN (
                SELECT batch_id FROM batches
                WHERE {_EXPIRED}
                ORDER BY batch_id LIMIT :limit FOR UPDATE SKIP LOCKED)
            RETURNING batch_id"""),
        {"limit": limit},
    )
    return list(found.scalars())


def free_pending(connection: Connection, batch_id: UUID | None = None) -> int:
    """Return pending documents to the backlog that a batch, this or any, ended without; gives how many."""
    chosen = "" if batch_id is None else "AND d.batch_id = :batch_id"
    freed = connection.execute(
        text(f"""
            UPDATE documents d SET batch_id = NULL, updated_at = now()
            WHERE d.batch_id IS NOT NULL {chosen} AND d.status = 'pending' AND NOT EXISTS (
                SELECT 1 FROM batches b WHERE b.batch_id = d.batch_id AND b.finished_at IS NULL)"""),
        {"batch_id": batch_id},
    )
    return freed.rowcount
