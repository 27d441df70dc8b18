"""`documents`: the guarded transitions of their status, and what claims and finishes read and write."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple
from uuid import UUID

from sqlalchemy import Connection, Row, text

from worker.errors import DocumentError
from worker.steps.storable import storable
from worker.types import SETTLED, FileType, Status

# Who may enter a status from where. A submission also makes pending of anything but processing, in
# its own upsert (db/submissions.py). docs/architecture.md draws this table.
TRANSITIONS: Mapping[Status, frozenset[Status]] = {
    Status.PENDING: frozenset({Status.PROCESSING}) | SETTLED,
    Status.PROCESSING: frozenset({Status.PENDING}),
    Status.COMPLETED: frozenset({Status.PROCESSING}),
    Status.DUPLICATE: frozenset({Status.PROCESSING}),
    Status.SKIPPED: frozenset({Status.PROCESSING}),
    Status.FAILED: frozenset({Status.PROCESSING}),
    Status.CANCELLED: frozenset({Status.PENDING, Status.PROCESSING}),
}

_SETTLE = "batch_id = NULL, next_attempt_at = NULL, settled_at = now()"
_CLEAN = "error_code = NULL, error_message = NULL"
# what entering a status always changes beside it
_ENTRY: Mapping[Status, str] = {
    Status.PENDING: "batch_id = NULL, settled_at = NULL, duplicate_of = NULL",
    Status.PROCESSING: "next_attempt_at = NULL",
    Status.COMPLETED: f"{_SETTLE}, {_CLEAN}, attempts = 0, isolated = false",
    Status.DUPLICATE: f"{_SETTLE}, {_CLEAN}, attempts = 0, isolated = false",
    Status.SKIPPED: f"{_SETTLE}, attempts = 0, isolated = false",
    Status.FAILED: _SETTLE,
    Status.CANCELLED: f"{_SETTLE}, {_CLEAN}",
}


@dataclass(frozen=True, slots=True)
class Claimed:
    """A document as its claim found it. `fingerprint` is that of the chunk set it has, if any.

    `dropped`: it had inline content, which is not kept any more.
    """

    document_id: UUID
    tenant_id: UUID
    project_id: UUID | None
    source_path: str
    filename: str
    content: bytes | None
    file_type: FileType
    language: str
    fingerprint: bytes | None
    total_chunks: int | None
    attempts: int
    dropped: bool = False
    trace: str | None = None


@dataclass(frozen=True, slots=True)
class Settled:
    """What a document's processing came to: the columns to write. None leaves a column as it is."""

    document_id: UUID
    status: Status
    content_hash: bytes | None = None
    fingerprint: bytes | None = None
    total_chunks: int | None = None
    embedded: int = 0
    reused: int = 0
    duplicate_of: UUID | None = None
    size_bytes: int | None = None
    cleaned: Mapping[str, int] = field(default_factory=dict)
    error_code: str | None = None
    error_message: str | None = None


def move(
    connection: Connection,
    to: Status,
    *,
    where: str,
    change: str = "",
    returning: str = "",
    most: int | None = None,
    **parameters: Any,
) -> Sequence[Row[Any]]:
    """Move the documents `where` (on alias d) says to a status, from the statuses that may enter it.

    The one place that writes `status`, besides `settle` and submission. Rows are locked in id order.
    `change` sets more columns, `most` bounds how many move. Gives (document_id, *returning) of what moved.
    """
    statement = f"""
        WITH chosen AS (
            SELECT d.document_id FROM documents d WHERE d.status = ANY(:from_statuses) AND ({where})
            ORDER BY d.document_id LIMIT :most FOR NO KEY UPDATE OF d)
        {_update(to, change)} FROM chosen WHERE d.document_id = chosen.document_id
        RETURNING d.document_id{_more(returning)}"""
    return connection.execute(text(statement), {"most": most, **_statuses(to), **parameters}).all()


def _update(to: Status, change: str) -> str:
    return f"UPDATE documents d SET status = :to_status, updated_at = now(), {_ENTRY[to]}{_more(change)}"


def _statuses(to: Status) -> dict[str, Any]:
    return {"to_status": to.value, "from_statuses": [status.value for status in TRANSITIONS[to]]}


def _more(columns: str) -> str:
    return f", {columns}" if columns else ""


def start(connection: Connection, batch_id: UUID) -> list[Claimed]:
    """Take a claimed batch's documents into processing: one attempt is charged, the version noted."""
    columns = (
        "d.tenant_id, d.project_id, d.source_path, d.filename, d.content, d.file_type, d.language,"
        " d.fingerprint, d.total_chunks, d.attempts, d.trace,"
        " d.content IS NULL AND d.content_digest IS NOT NULL AS dropped"
    )
    found = move(
        connection,
        Status.PROCESSING,
        where="d.batch_id = :batch_id AND d.deleted_at IS NULL",
        change="attempts = d.attempts + 1, claimed_version = d.requested_version",
        returning=columns,
        batch_id=batch_id,
    )
    return [_claimed(row) for row in sorted(found, key=lambda row: row.source_path)]


def _claimed(row: Row[Any]) -> Claimed:
    return Claimed(
        document_id=row.document_id,
        tenant_id=row.tenant_id,
        project_id=row.project_id,
        source_path=row.source_path,
        filename=row.filename,
        content=_bytes(row.content),
        file_type=FileType(row.file_type),
        language=row.language,
        fingerprint=_bytes(row.fingerprint),
        total_chunks=row.total_chunks,
        attempts=row.attempts,
        dropped=row.dropped,
        trace=row.trace,
    )


def _bytes(value: Any) -> bytes | None:
    return None if value is None else bytes(value)


def take_over(connection: Connection, document_ids: Sequence[UUID]) -> None:
    """Take documents from the batches that process them, which drop what these come to (`lock_current`)."""
    move(
        connection,
        Status.PENDING,
        where="d.document_id = ANY(:ids) AND d.status = 'processing'",
        ids=list(document_ids),
    )


class Standing(NamedTuple):
    """What became of documents since they were claimed.

    `current`: still the batch's to finish. `owned`: {document_id: content_hash} of those that own one.
    `known`: those with a content on record, so that others may be their duplicates.
    """

    current: set[UUID]
    owned: dict[UUID, bytes]
    known: set[UUID]


def lock_current(
    connection: Connection, batch_id: UUID, document_ids: Sequence[UUID], owners: Iterable[UUID] = ()
) -> Standing:
    """Lock documents (and the owners their duplicates point at) in id order, and tell how they stand.

    An edit or a deletion since the claim takes a document away from its batch.
    """
    locked = connection.execute(
        text("""
            SELECT CAST(document_id AS text) AS name, content_hash IS NOT NULL AS known,
                   batch_id = :batch_id AND status = 'processing' AND deleted_at IS NULL
                       AND claimed_version = requested_version AS current,
                   CASE WHEN fingerprint IS NOT NULL AND deleted_at IS NULL THEN content_hash END AS owns
            FROM documents WHERE document_id = ANY(CAST(:ids AS uuid[]))
            ORDER BY document_id FOR NO KEY UPDATE"""),
        {"batch_id": batch_id, "ids": uuid_array({*document_ids, *owners})},
    ).all()
    mine = set(document_ids)
    by_name = {str(document_id): document_id for document_id in {*mine, *owners}}
    return Standing(
        {by_name[row.name] for row in locked if row.current} & mine,
        {by_name[row.name]: bytes(row.owns) for row in locked if row.owns},
        {by_name[row.name] for row in locked if row.known},
    )


def uuid_array(ids: Iterable[UUID]) -> str:
    """Write ids as PostgreSQL reads an array of them: the driver takes three times as long for a list."""
    return "{" + ",".join(map(str, ids)) + "}"


def same_project(project_id: UUID | None, alias: str = "") -> str:
    """Give the condition on a project: `IS NOT DISTINCT FROM` would not use an index."""
    return f"{alias}project_id IS NULL" if project_id is None else f"{alias}project_id = :project_id"


_OUTCOMES = """json_to_recordset(:outcomes) AS o(
    document_id uuid, content_hash text, fingerprint text, total_chunks int, embedded int,
    reused int, duplicate_of uuid, size_bytes bigint, cleaned jsonb, error_code text, error_message text)"""
_READ = (
    # what a submission cleaned, metadata and given chunks, is counted by it
    "size_bytes = coalesce(o.size_bytes, d.size_bytes),"
    " cleaned = (d.cleaned - CAST('{nul,surrogate,invalid}' AS text[])) || coalesce(o.cleaned, '{}'),"
    " chunks_embedded = o.embedded, chunks_reused = o.reused"
)
_CONTENT = f"content_hash = decode(o.content_hash, 'hex'), searched_metadata = NULL, {_READ}"
_NO_CHUNKS = "fingerprint = NULL, total_chunks = NULL"
_ERROR = "error_code = o.error_code, error_message = o.error_message"
# A failed edit keeps the old chunk set: it stays searchable and stays what its hashes say, and what it was
# submitted with goes on to tell who finds it.
_OUTCOME_COLUMNS = {
    Status.COMPLETED: f"{_CONTENT}, fingerprint = decode(o.fingerprint, 'hex'),"
    " total_chunks = o.total_chunks",
    Status.DUPLICATE: f"{_CONTENT}, {_NO_CHUNKS}, duplicate_of = o.duplicate_of",
    Status.SKIPPED: f"{_CONTENT}, {_NO_CHUNKS}, {_ERROR}",
    Status.FAILED: _ERROR,
}


def give_up_fingerprints(connection: Connection, document_ids: Sequence[UUID]) -> None:
    """Stop owning before the new contents are settled: documents of one batch may swap theirs."""
    if not document_ids:
        return
    connection.execute(
        text("UPDATE documents SET fingerprint = NULL, total_chunks = NULL WHERE document_id = ANY(:ids)"),
        {"ids": list(document_ids)},
    )


def settle(connection: Connection, settled: Sequence[Settled]) -> int:
    """Write the outcomes of documents that `lock_current` locked, a statement a status.

    Gives how many moved.
    """
    moved = 0
    # who becomes a duplicate gives its content up before another completes with it
    for status in sorted({outcome.status for outcome in settled}, key=lambda one: one is Status.COMPLETED):
        outcomes = [outcome for outcome in settled if outcome.status is status]
        moved += connection.execute(
            # named by :ids, too: without statistics yet the planner would read all of `documents`
            text(f"""
                {_update(status, _OUTCOME_COLUMNS[status])} FROM {_OUTCOMES}
                WHERE d.document_id = o.document_id AND d.status = ANY(:from_statuses)
                  AND d.document_id = ANY(CAST(:ids AS uuid[]))"""),
            {
                "ids": uuid_array(outcome.document_id for outcome in outcomes),
                "outcomes": json.dumps([_record(outcome) for outcome in outcomes]),
                **_statuses(status),
            },
        ).rowcount
    return moved


def _record(outcome: Settled) -> dict[str, Any]:
    record = {
        "document_id": str(outcome.document_id),
        "content_hash": outcome.content_hash and outcome.content_hash.hex(),
        "fingerprint": outcome.fingerprint and outcome.fingerprint.hex(),
        "total_chunks": outcome.total_chunks,
        "embedded": outcome.embedded,
        "reused": outcome.reused,
        "duplicate_of": outcome.duplicate_of and str(outcome.duplicate_of),
        "size_bytes": outcome.size_bytes,
        "cleaned": dict(outcome.cleaned),
        "error_code": outcome.error_code,
        "error_message": outcome.error_message and storable(outcome.error_message),
    }
    return {name: value for name, value in record.items() if value is not None}  # absent is NULL


def try_later(
    connection: Connection, batch_id: UUID, document_id: UUID, error: DocumentError, seconds: float
) -> bool:
    """Return a document to the backlog after a passing trouble; False where it was edited meanwhile."""
    moved = move(
        connection,
        Status.PENDING,
        # an edit that came meanwhile does not wait for the version before it
        where="d.batch_id = :batch_id AND d.document_id = :document_id"
        " AND d.claimed_version = d.requested_version",
        change="next_attempt_at = now() + make_interval(secs => :seconds),"
        " queued_at = now() + make_interval(secs => :seconds),"
        " error_code = :code, error_message = :message",
        batch_id=batch_id,
        document_id=document_id,
        seconds=seconds,
        code=error.code,
        message=storable(error.message),
    )
    return bool(moved)
