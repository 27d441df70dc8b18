"""What becomes of documents that are there, by those who submitted them: cancelled, tried again."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, Row

from worker.db.documents import move
from worker.db.duplicates import release_duplicates
from worker.db.submissions import Scope
from worker.types import Status

# A call for a whole tenant goes in slices of this many documents: each is a transaction of bounded length.
SLICE = 5_000

# A time with its zone, or how long ago by the database's clock.
Moment = datetime | timedelta


def cancel(
    connection: Connection, scope: Scope, document_ids: Sequence[UUID] | None, after: UUID | None = None
) -> Sequence[Row[Any]]:
    """Cancel what is not settled: these documents, or a slice of the scope's; gives (document_id, trace).

    `after`: the slice has greater ids. What was searchable stays so.
    """
    moved = move(
        connection,
        Status.CANCELLED,
        where=f"{scope.condition()} AND d.deleted_at IS NULL{_chosen(document_ids, after)}",
        returning="d.trace",
        most=SLICE if document_ids is None else None,
        ids=list(document_ids or ()),
        after=after,
        **scope.parameters,
    )
    release_duplicates(connection, [row.document_id for row in moved])
    return moved


def retry(
    connection: Connection,
    scope: Scope,
    document_ids: Sequence[UUID] | None,
    after: UUID | None = None,
    *,
    error_code: str | None = None,
    since: Moment | None = None,
    until: Moment | None = None,
) -> Sequence[Row[Any]]:
    """Make failed and cancelled documents pending again, these or a slice of the scope's; gives their ids.

    `after`: the slice has greater ids. `since`, `until`: of those that ended then, the latter excluded.
    """
    chosen = _chosen(document_ids, after)
    chosen += "" if error_code is None else " AND d.error_code = :error_code"
    chosen += "" if since is None else f" AND d.settled_at >= {_moment('since', since)}"
    chosen += "" if until is None else f" AND d.settled_at < {_moment('until', until)}"
    return move(
        connection,
        Status.PENDING,
        where=f"{scope.condition()} AND d.deleted_at IS NULL AND d.status IN ('failed', 'cancelled'){chosen}",
        change="attempts = 0, isolated = false, queued_at = now(), error_code = NULL, error_message = NULL",
        most=SLICE if document_ids is None else None,
        ids=list(document_ids or ()),
        after=after,
        error_code=error_code,
        since=since,
        until=until,
        **scope.parameters,
    )


def _chosen(document_ids: Sequence[UUID] | None, after: UUID | None) -> str:
    named = "" if document_ids is None else " AND d.document_id = ANY(:ids)"
    return named if after is None else f"{named} AND d.document_id > :after"


def _moment(name: str, value: Moment) -> str:
    return f"now() - CAST(:{name} AS interval)" if isinstance(value, timedelta) else f":{name}"
