"""`pauses`: what dispatch does not hand out and claims give back, until somebody resumes it."""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

from sqlalchemy import Connection, Row, text

from worker.types import Lane


class Target(NamedTuple):
    """What is to be paused: a project's documents, a tenant's, or everybody's; of a lane, or of both."""

    tenant_id: UUID | None
    project_id: UUID | None
    lane: Lane | None


@dataclass(frozen=True, slots=True)
class Pause:
    """What is paused, since when, by whom and why. None: every tenant, project or lane."""

    tenant: str | None
    project: str | None
    lane: Lane | None
    reason: str | None
    paused_by: str
    since: datetime
    seconds: float

    @property
    def what(self) -> str:
        """Name what is paused."""
        named = (("tenant", self.tenant), ("project", self.project), ("queue", self.lane))
        return ", ".join(f"{kind} {name}" for kind, name in named if name) or "everything"

    @property
    def end(self) -> str:
        """Give the command that ends it."""
        named = (("--tenant", self.tenant), ("--project", self.project), ("--queue", self.lane))
        options = [f"{option} {shlex.quote(name)}" for option, name in named if name]
        return " ".join(("ingest resume", *(options or ["--all"])))

    def __str__(self) -> str:
        """Say in one line what is paused, since when, by whom, why, and how it ends."""
        since = self.since.isoformat(" ", "minutes")
        why = f": {self.reason}" if self.reason else ""
        return f"{self.what} is paused since {since} by {self.paused_by}{why}; `{self.end}` ends it"


class Held(NamedTuple):
    """What of one lane is paused: all of it, whole tenants, and projects by their tenant."""

    everything: bool
    tenants: frozenset[UUID]
    projects: Mapping[UUID, Sequence[UUID]]


# That a pause `s` holds a document `d`.
HOLDING = """(s.tenant_id IS NULL OR s.tenant_id = d.tenant_id)
    AND (s.project_id IS NULL OR s.project_id = d.project_id) AND (s.lane IS NULL OR s.lane = d.lane)"""
_COLUMNS = """
    SELECT t.name AS tenant, p.name AS project, s.lane, s.reason, s.paused_by, s.created_at AS since,
           extract(epoch FROM now() - s.created_at)::float AS seconds
    FROM pauses s LEFT JOIN tenants t USING (tenant_id) LEFT JOIN projects p USING (project_id)"""


def pause(connection: Connection, target: Target, reason: str | None, paused_by: str) -> bool:
    """Pause; False where exactly this is paused already, which stays as it is."""
    written = connection.execute(
        text("""
            INSERT INTO pauses (tenant_id, project_id, lane, reason, paused_by)
            VALUES (:tenant_id, :project_id, :lane, :reason, :paused_by)
            ON CONFLICT (tenant_id, project_id, lane) DO NOTHING"""),
        {**target._asdict(), "reason": reason, "paused_by": paused_by},
    )
    return written.rowcount == 1


def resume(connection: Connection, target: Target) -> bool:
    """End exactly this pause; False where there is none."""
    ended = connection.execute(
        text("""
            DELETE FROM pauses
            WHERE tenant_id IS NOT DISTINCT FROM CAST(:tenant_id AS uuid)
              AND project_id IS NOT DISTINCT FROM CAST(:project_id AS uuid)
              AND lane IS NOT DISTINCT FROM CAST(:lane AS text)"""),
        target._asdict(),
    )
    return ended.rowcount == 1


def standing(connection: Connection, tenant_id: UUID | None = None) -> list[Pause]:
    """Give the pauses, oldest first: all of them, or those that a tenant's documents may meet."""
    found = connection.execute(
        text(f"""
            {_COLUMNS}
            WHERE CAST(:tenant_id AS uuid) IS NULL OR s.tenant_id IS NULL OR s.tenant_id = :tenant_id
            ORDER BY s.created_at, s.pause_id"""),
        {"tenant_id": tenant_id},
    )
    return [_pause(row) for row in found]


def covering(connection: Connection, target: Target) -> list[Pause]:
    """Give the pauses, oldest first, that hold all documents of a tenant's project and lane."""
    found = connection.execute(
        text(f"""
            {_COLUMNS}
            WHERE (s.tenant_id IS NULL OR s.tenant_id = :tenant_id)
              AND (s.project_id IS NULL OR s.project_id = :project_id) AND (s.lane IS NULL OR s.lane = :lane)
            ORDER BY s.created_at, s.pause_id"""),
        target._asdict(),
    )
    return [_pause(row) for row in found]


def over(connection: Connection, document_ids: Sequence[UUID]) -> list[Pause]:
    """Give the pauses, oldest first, that hold any of these documents."""
    found = connection.execute(
        text(f"""
            {_COLUMNS}
            WHERE EXISTS (SELECT FROM documents d
                          WHERE d.document_id = ANY(:ids) AND d.status = 'pending' AND {HOLDING})
            ORDER BY s.created_at, s.pause_id"""),
        {"ids": list(document_ids)},
    )
    return [_pause(row) for row in found]


def _pause(row: Row[Any]) -> Pause:
    fields = row._asdict()
    return Pause(**{**fields, "lane": Lane(row.lane) if row.lane else None})


def held(connection: Connection, lane: Lane) -> Held:
    """Give what of a lane is paused now."""
    found = connection.execute(
        text("SELECT tenant_id, project_id FROM pauses WHERE lane IS NULL OR lane = :lane"),
        {"lane": lane.value},
    ).all()
    projects: dict[UUID, list[UUID]] = {}
    for row in found:
        if row.project_id:
            projects.setdefault(row.tenant_id, []).append(row.project_id)
    whole = frozenset(row.tenant_id for row in found if row.project_id is None)
    return Held(None in whole, whole - {None}, projects)


def set_aside(connection: Connection, batch_id: UUID) -> int:
    """Return to the backlog what of a batch was paused since it was formed; gives how many documents.

    Uncharged, and to the place they had. Call it before the batch's documents are started.
    """
    freed = connection.execute(
        text(f"""
            UPDATE documents d SET batch_id = NULL, updated_at = now()
            WHERE d.batch_id = :batch_id AND d.status = 'pending'
              AND EXISTS (SELECT FROM pauses s WHERE {HOLDING})"""),
        {"batch_id": batch_id},
    )
    return freed.rowcount
