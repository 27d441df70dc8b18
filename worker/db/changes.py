"""What becomes of documents that are there, by those who submitted them: cancelled, tried again."""

from collections.abc import Sequence
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, Row

from worker.db.documents import move
from worker.db.duplicates import release_duplicates
from worker.db.submissions import Scope
from worker.types import Status

# A call for a whole tenant goes in slices of this many documents: each is a transaction of bounded length.
SLICE = 5_000


def cancel(connection: Connection, scope: Scope, document_ids: Sequence[UUID] | None) -> Sequence[Row[Any]]:
    """Cancel what is not settled: these documents, or a slice of the scope's; gives (document_id, trace).

    What was searchable stays so.
    """
    chosen = "" if document_ids is None else " AND d.document_id = ANY(:ids)"
    moved = move(
        connection,
        Status.CANCELLED,
        where=f"{scope.condition()} AND d.deleted_at IS NULL{chosen}",
        returning="d.trace",
        most=SLICE if document_ids is None else None,
        ids=list(document_ids or ()),
        **scope.parameters,
    )
    release_duplicates(connection, [row.document_id for row in moved])
    return moved


def retry(
    connection: Connection, scope: Scope, document_ids: Sequence[UUID] | None, error_code: str | None = None
) -> Sequence[Row[Any]]:
    """Make failed and cancelled documents pending again, these or a slice of the scope's; gives their ids."""
    chosen = "" if document_ids is None else " AND d.document_id = ANY(:ids)"
    if error_code is not None:
        chosen += " AND d.error_code = :error_code"
    return move(
        connection,
        Status.PENDING,
        where=f"{scope.condition()} AND d.deleted_at IS NULL AND d.status IN ('failed', 'cancelled'){chosen}",
        change="attempts = 0, isolated = false, queued_at = now(), error_code = NULL, error_message = NULL",
        most=SLICE if document_ids is None else None,
        ids=list(document_ids or ()),
        error_code=error_code,
        **scope.parameters,
    )
