"""How much may wait: who submits more is held up, or told, where the backlog of their lane is full.

What a person waits for is counted apart from bulk, so that neither is refused because of the other. A slice
is taken whole where there is room at all: each producer may exceed a limit by one.
"""

import sys
from uuid import UUID

from sqlalchemy import Connection

from worker.db import backlog
from worker.errors import BacklogFullError
from worker.settings import Settings
from worker.types import Lane


class Room:
    """What a submission may still add to its lane's backlog: counted anew once that much was added."""

    def __init__(self, settings: Settings, tenant_id: UUID, lane: Lane) -> None:
        limits = (
            ("MAX_TENANT_BACKLOG_DOCUMENTS", settings.max_tenant_backlog_documents, tenant_id),
            ("MAX_BACKLOG_DOCUMENTS", settings.max_backlog_documents, None),
        )
        self._lane = lane
        self._limits = [(name, limit, whose) for name, limit, whose in limits if limit]
        self._left = 0 if self._limits else sys.maxsize

    def fault(self, connection: Connection) -> BacklogFullError | None:
        """Say why there is no room; None where there is some."""
        if self._left <= 0:
            left = []
            for name, limit, tenant_id in self._limits:
                left.append(limit - backlog.waiting(connection, self._lane, tenant_id, limit))
                if left[-1] <= 0:
                    return self._full(name, limit, tenant_id)
            self._left = min(left)
        return None

    def take(self, documents: int) -> None:
        """Note how much was added."""
        self._left -= documents

    def _full(self, name: str, limit: int, tenant_id: UUID | None) -> BacklogFullError:
        whose = "in all" if tenant_id is None else "of this tenant"
        return BacklogFullError(
            f"the backlog is full: {limit:,} {self._lane.value} documents {whose} wait already, as many as"
            f" {name} allows",
            f"submit the rest later, or raise {name}; `ingest status` shows what waits",
            limit,
        )
