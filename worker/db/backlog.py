"""The backlog: which documents go next. The tenants in turn; what is paused, or for later, is left out.

However long it is, what is read of it is a few index entries for each tenant that has some, and, of a tenant
of whom some projects are paused, for each project.
"""

from collections.abc import Sequence
from itertools import chain
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, Row, text

from worker.db.batches import record
from worker.db.pauses import HOLDING, Held, held
from worker.settings import Settings
from worker.types import Lane

# Serialises dispatchers; the number has no meaning beyond being ours.
_DISPATCH_LOCK = 7_046_029_254_386_353_132
# What a person waits for is spread over the workers, not handed to one.
_SHARE = {Lane.INTERACTIVE: 8, Lane.BULK: 1}
# A document whose size is not known yet (a URI) counts as this much when a batch is filled.
_UNKNOWN_SIZE = 65_536

# As the partial indexes documents_waiting_idx and documents_waiting_project_idx say it.
_WAITS = "d.status = 'pending' AND d.batch_id IS NULL AND d.deleted_at IS NULL"
_READY = f"d.lane = :lane AND {_WAITS} AND d.queued_at <= now()"
# The next of a tenant, paused projects left out.
_REST = f"""
    (SELECT d.document_id, d.queued_at FROM documents d
     WHERE d.tenant_id = {{tenant}} AND d.project_id IS NULL AND {_READY}
     ORDER BY d.queued_at LIMIT {{most}})
    UNION ALL
    (SELECT n.document_id, n.queued_at FROM projects p CROSS JOIN LATERAL (
         SELECT d.document_id, d.queued_at FROM documents d
         WHERE d.tenant_id = p.tenant_id AND d.project_id = p.project_id AND {_READY}
         ORDER BY d.queued_at LIMIT {{most}}) n
     WHERE p.tenant_id = {{tenant}} AND p.project_id <> ALL(:projects))"""


def lock_dispatch(connection: Connection) -> None:
    """Let one dispatcher at a time choose; held to the end of the transaction."""
    connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _DISPATCH_LOCK})


def count_ready(connection: Connection) -> int:
    """Count the documents that a batch could be formed of now."""
    found = connection.execute(
        text(f"""
            SELECT count(*) FROM documents d
            WHERE {_WAITS} AND d.queued_at <= now() AND NOT EXISTS (SELECT FROM pauses s WHERE {HOLDING})""")
    )
    return int(found.scalar_one())


def waiting(connection: Connection, lane: Lane, tenant_id: UUID | None, most: int) -> int:
    """Count the documents of a lane that wait for a batch, a tenant's or all; at most `most` are counted."""
    whose = "" if tenant_id is None else " AND d.tenant_id = :tenant_id"
    found = connection.execute(
        text(f"""
            SELECT count(*) FROM (
                SELECT FROM documents d WHERE d.lane = :lane AND {_WAITS}{whose} LIMIT :most) AS counted"""),
        {"lane": lane.value, "tenant_id": tenant_id, "most": most},
    )
    return int(found.scalar_one())


def form(connection: Connection, lane: Lane, settings: Settings) -> UUID | None:
    """Form one batch of the tenant that has waited longest for its turn; None when nothing waits."""
    paused = held(connection, lane)
    for tenant_id in () if paused.everything else _next_tenants(connection, lane, paused):
        limit = settings.batch_documents // _SHARE[lane] or 1
        projects = paused.projects.get(tenant_id)
        rows = (
            _next_of_the_rest(connection, lane, tenant_id, limit, projects)
            if projects
            else _next_documents(connection, lane, tenant_id, limit)
        )
        if chosen := _fill(rows, settings.batch_bytes):
            _note_turn(connection, lane, tenant_id)
            return record(connection, lane, tenant_id, chosen)
    return None


def _note_turn(connection: Connection, lane: Lane, tenant_id: UUID) -> None:
    connection.execute(
        text(f"UPDATE tenants SET {lane.value}_served_at = clock_timestamp() WHERE tenant_id = :tenant_id"),
        {"tenant_id": tenant_id},
    )


def _next_tenants(connection: Connection, lane: Lane, paused: Held) -> list[UUID]:
    """Give a few, whose turn it is: all documents of the first may be locked by an edit under way.

    From each tenant that has some to the next one, so that those without cost nothing.
    """
    found = connection.execute(
        text(f"""
            WITH RECURSIVE holders AS (
                (SELECT d.tenant_id, d.queued_at FROM documents d WHERE d.lane = :lane AND {_WAITS}
                 ORDER BY d.tenant_id, d.queued_at LIMIT 1)
                UNION ALL
                SELECT n.tenant_id, n.queued_at FROM holders h CROSS JOIN LATERAL (
                    SELECT d.tenant_id, d.queued_at FROM documents d
                    WHERE d.lane = :lane AND {_WAITS} AND d.tenant_id > h.tenant_id
                    ORDER BY d.tenant_id, d.queued_at LIMIT 1) n)
            SELECT t.tenant_id FROM holders h JOIN tenants t USING (tenant_id)
            WHERE h.queued_at <= now() AND t.tenant_id <> ALL(:tenants) AND (
                t.tenant_id <> ALL(:partly)
                OR EXISTS (SELECT FROM ({_REST.format(tenant="t.tenant_id", most=1)}) AS rest))
            ORDER BY t.{lane.value}_served_at NULLS FIRST, t.tenant_id LIMIT 5"""),
        {
            "lane": lane.value,
            "tenants": list(paused.tenants),
            "partly": list(paused.projects),
            "projects": list(chain.from_iterable(paused.projects.values())),
        },
    )
    return list(found.scalars())


def _next_documents(connection: Connection, lane: Lane, tenant_id: UUID, limit: int) -> Sequence[Row[Any]]:
    """Lock a tenant's next documents."""
    return connection.execute(
        text(f"""
            SELECT d.document_id, coalesce(d.size_bytes, {_UNKNOWN_SIZE}) AS size, d.isolated FROM documents d
            WHERE d.tenant_id = :tenant_id AND {_READY}
            ORDER BY d.queued_at LIMIT :limit FOR NO KEY UPDATE SKIP LOCKED"""),
        {"lane": lane.value, "tenant_id": tenant_id, "limit": limit},
    ).all()


def _next_of_the_rest(
    connection: Connection, lane: Lane, tenant_id: UUID, limit: int, projects: Sequence[UUID]
) -> Sequence[Row[Any]]:
    """Lock a tenant's next documents, those of some projects left out.

    Found first, then locked by their ids alone: without statistics the planner would read all that waits for
    each of them.
    """
    rest = _REST.format(tenant=":tenant_id", most=":limit")
    found = connection.execute(
        text(f"SELECT document_id FROM ({rest}) AS rest ORDER BY queued_at LIMIT :limit"),
        {"lane": lane.value, "tenant_id": tenant_id, "limit": limit, "projects": list(projects)},
    )
    return connection.execute(
        text(f"""
            WITH d AS MATERIALIZED (
                SELECT document_id, size_bytes, isolated, lane, status, batch_id, deleted_at, queued_at
                FROM documents WHERE document_id = ANY(:ids) FOR NO KEY UPDATE SKIP LOCKED)
            SELECT d.document_id, coalesce(d.size_bytes, {_UNKNOWN_SIZE}) AS size, d.isolated FROM d
            WHERE {_READY} ORDER BY d.queued_at"""),
        {"lane": lane.value, "ids": list(found.scalars())},
    ).all()


def _fill(rows: Sequence[Row[Any]], limit: int) -> list[UUID]:
    """Take documents up to `limit` bytes, at least one; one that is isolated goes alone."""
    chosen: list[UUID] = []
    size = 0
    for row in rows:
        if chosen and (row.isolated or size + row.size > limit):
            break
        chosen.append(row.document_id)
        size += row.size
        if row.isolated:
            break
    return chosen
