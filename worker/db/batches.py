"""`batches`: the unit of dispatch, lease and heartbeat. One row, one UPDATE a step."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, Row, text

from worker.db.documents import move
from worker.errors import LeaseLostError
from worker.settings import Settings
from worker.types import Lane, Status

# Serialises dispatchers; the number has no meaning beyond being ours.
_DISPATCH_LOCK = 7_046_029_254_386_353_132
# What a person waits for is spread over the workers, not handed to one.
_SHARE = {Lane.INTERACTIVE: 8, Lane.BULK: 1}
# A document whose size is not known yet (a URI) counts as this much when a batch is filled.
_UNKNOWN_SIZE = 65_536
_EXPIRED = "finished_at IS NULL AND state = 'running' AND lease_expires_at < now()"


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to finish a batch: every write checks the token."""

    batch_id: UUID
    token: UUID
    tenant_id: UUID
    lane: Lane


def lock_dispatch(connection: Connection) -> None:
    """Let one dispatcher at a time choose; held to the end of the transaction."""
    connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _DISPATCH_LOCK})


def queued_count(connection: Connection, lane: Lane) -> int:
    """Count the batches that are published and not claimed."""
    found = connection.execute(
        text("SELECT count(*) FROM batches WHERE finished_at IS NULL AND state = 'queued' AND lane = :lane"),
        {"lane": lane.value},
    )
    return int(found.scalar_one())


def count_ready(connection: Connection) -> int:
    """Count the documents that a batch could be formed of now."""
    found = connection.execute(
        text("""
            SELECT count(*) FROM documents
            WHERE status = 'pending' AND batch_id IS NULL AND deleted_at IS NULL AND queued_at <= now()""")
    )
    return int(found.scalar_one())


def form(connection: Connection, lane: Lane, settings: Settings) -> UUID | None:
    """Form one batch of the tenant that has waited longest for its turn; None when nothing waits."""
    for tenant_id in _next_tenants(connection, lane):
        waiting = _waiting(connection, lane, tenant_id, settings.batch_documents // _SHARE[lane] or 1)
        if chosen := _fill(waiting, settings.batch_bytes):
            _note_turn(connection, lane, tenant_id)
            return record(connection, lane, tenant_id, chosen)
    return None


def _note_turn(connection: Connection, lane: Lane, tenant_id: UUID) -> None:
    connection.execute(
        text(f"UPDATE tenants SET {lane.value}_served_at = clock_timestamp() WHERE tenant_id = :tenant_id"),
        {"tenant_id": tenant_id},
    )


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


def _next_tenants(connection: Connection, lane: Lane) -> list[UUID]:
    """Give a few, whose turn it is: all documents of the first may be locked by an edit under way."""
    found = connection.execute(
        text(f"""
            SELECT t.tenant_id FROM tenants t
            WHERE EXISTS (
                SELECT 1 FROM documents d
                WHERE d.tenant_id = t.tenant_id AND d.lane = :lane AND d.status = 'pending'
                  AND d.batch_id IS NULL AND d.deleted_at IS NULL AND d.queued_at <= now())
            ORDER BY t.{lane.value}_served_at NULLS FIRST, t.tenant_id LIMIT 5"""),
        {"lane": lane.value},
    )
    return list(found.scalars())


def _waiting(connection: Connection, lane: Lane, tenant_id: UUID, limit: int) -> Sequence[Row[Any]]:
    return connection.execute(
        text("""
            SELECT document_id, coalesce(size_bytes, :unknown) AS size, isolated FROM documents
            WHERE lane = :lane AND tenant_id = :tenant_id AND status = 'pending' AND batch_id IS NULL
              AND deleted_at IS NULL AND queued_at <= now()
            ORDER BY queued_at LIMIT :limit FOR NO KEY UPDATE SKIP LOCKED"""),
        {"lane": lane.value, "tenant_id": tenant_id, "limit": limit, "unknown": _UNKNOWN_SIZE},
    ).all()


def _fill(waiting: Sequence[Row[Any]], limit: int) -> list[UUID]:
    """Take documents up to `limit` bytes, at least one; one that is isolated goes alone."""
    chosen: list[UUID] = []
    size = 0
    for row in waiting:
        if chosen and (row.isolated or size + row.size > limit):
            break
        chosen.append(row.document_id)
        size += row.size
        if row.isolated:
            break
    return chosen


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


def labelled(connection: Connection, batch_ids: Sequence[UUID]) -> list[tuple[UUID, str]]:
    """Give (batch_id, what a person should read about it), in the order asked for."""
    found = connection.execute(
        text("""
            SELECT b.batch_id, t.name || ': ' || b.documents || ' documents' AS label
            FROM batches b JOIN tenants t USING (tenant_id) WHERE b.batch_id = ANY(:ids)"""),
        {"ids": list(batch_ids)},
    )
    labels = {row.batch_id: row.label for row in found}
    return [(batch_id, labels[batch_id]) for batch_id in batch_ids]


def claim(connection: Connection, batch_id: UUID, worker: str, lease_seconds: int) -> Lease | None:
    """Take the lease of a queued batch; None when it is taken, finished or unknown."""
    row = connection.execute(
        text("""
            UPDATE batches SET state = 'running', worker = :worker, lease_token = gen_random_uuid(),
                   lease_expires_at = now() + make_interval(secs => :seconds), updated_at = now()
            WHERE batch_id = :batch_id AND state = 'queued'
            RETURNING lease_token, tenant_id, lane"""),
        {"batch_id": batch_id, "worker": worker, "seconds": lease_seconds},
    ).one_or_none()
    return Lease(batch_id, row.lease_token, row.tenant_id, Lane(row.lane)) if row else None


def renew(connection: Connection, lease: Lease, progress: int, lease_seconds: int) -> None:
    """Keep the lease, and say how many documents are done. Raises LeaseLostError."""
    renewed = connection.execute(
        text("""
            UPDATE batches SET lease_expires_at = now() + make_interval(secs => :seconds),
                   progress = least(:progress, documents), updated_at = now()
            WHERE batch_id = :batch_id AND lease_token = :token"""),
        {"batch_id": lease.batch_id, "token": lease.token, "progress": progress, "seconds": lease_seconds},
    )
    if renewed.rowcount == 0:
        raise LeaseLostError(str(lease.batch_id))


def fence(connection: Connection, lease: Lease) -> None:
    """Lock the batch for this transaction. Raises LeaseLostError when the lease is another's."""
    held = connection.execute(
        text("SELECT 1 FROM batches WHERE batch_id = :batch_id AND lease_token = :token FOR UPDATE"),
        {"batch_id": lease.batch_id, "token": lease.token},
    )
    if held.one_or_none() is None:
        raise LeaseLostError(str(lease.batch_id))


def finish(connection: Connection, lease: Lease) -> int:
    """End a batch under its lease; gives how many documents it had. Raises LeaseLostError.

    What it still holds goes back by `hand_back`, in the same transaction.
    """
    ended = connection.execute(
        text("""
            UPDATE batches SET state = 'finished', lease_token = NULL, lease_expires_at = NULL,
                   progress = documents, finished_at = now(), updated_at = now()
            WHERE batch_id = :batch_id AND lease_token = :token
            RETURNING documents"""),
        {"batch_id": lease.batch_id, "token": lease.token},
    ).one_or_none()
    if ended is None:
        raise LeaseLostError(str(lease.batch_id))
    return int(ended.documents)


def hand_back(connection: Connection, lease: Lease) -> None:
    """Return what a batch still holds to the backlog, uncharged."""
    move(
        connection,
        Status.PENDING,
        where="d.batch_id = :batch_id",
        change="queued_at = now(), attempts = greatest(d.attempts - 1, 0)",
        batch_id=lease.batch_id,
    )


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


def free_pending(connection: Connection) -> int:
    """Return pending documents to the backlog whose batch ended without them; gives how many."""
    freed = connection.execute(
        text("""
            UPDATE documents d SET batch_id = NULL, updated_at = now()
            WHERE d.batch_id IS NOT NULL AND d.status = 'pending' AND NOT EXISTS (
                SELECT 1 FROM batches b WHERE b.batch_id = d.batch_id AND b.finished_at IS NULL)""")
    )
    return freed.rowcount
