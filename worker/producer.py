"""The producer's calls: submit documents, follow them, take them back, search.

Each call is its own transaction, committed when it returns; publishing follows the commit. They use
the settings of the process (DATABASE_URL, BROKER_URL). A broker that is away delays documents, it
loses none.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar
from uuid import UUID

from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError
from tenacity import Retrying, retry_if_exception, stop_after_attempt, wait_exponential_jitter

from worker import sources
from worker.db import overview, submissions
from worker.db.engine import is_retryable, transaction, unavailable
from worker.db.submissions import Scope, Submission
from worker.dispatch import dispatch
from worker.document import Document, submission
from worker.errors import DocumentError, IngestError, NoAnswerError
from worker.resources import resources
from worker.steps.storable import storable
from worker.types import GivenChunk, Hit, Lane, Status, TaskName

__all__ = [
    "Document", "GivenChunk", "Overview", "Receipt", "below", "cancel", "delete", "find", "restore", "retry",
    "search", "status", "submit", "wait",
]  # fmt: skip

DEFAULT_TENANT = "default"
_SLICE_DOCUMENTS = 5_000
_SLICE_BYTES = 16 << 20

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Receipt:
    """What a submission came to. `refused` names documents that could not be recorded, and why."""

    new: tuple[UUID, ...] = ()
    changed: tuple[UUID, ...] = ()
    unchanged: int = 0
    refused: tuple[tuple[str, str], ...] = ()

    @property
    def document_ids(self) -> tuple[UUID, ...]:
        """The documents that will be processed."""
        return self.new + self.changed

    def __add__(self, other: "Receipt") -> "Receipt":
        """Sum up two receipts."""
        return Receipt(
            self.new + other.new,
            self.changed + other.changed,
            self.unchanged + other.unchanged,
            self.refused + other.refused,
        )


def submit(
    documents: Iterable[Document],
    *,
    tenant: str = DEFAULT_TENANT,
    project: str | None = None,
    lane: Lane = Lane.BULK,
    checksum: bool = False,
    progress: Callable[[int], None] = lambda _count: None,
) -> Receipt:
    """Record documents for ingestion; they are safe when this returns.

    A stream is taken in slices, each one statement and one commit; `progress` hears how many were
    recorded. Unchanged documents (same size and modification time, or same inline text) cost nothing
    more; `checksum` has them read and hashed all the same. Raises DatabaseUnavailableError.
    """
    scope = _transact(lambda connection: submissions.ensure_scope(connection, _name(tenant), project))
    receipt = Receipt()
    for part in _slices(documents):
        receipt += _submit_slice(part, scope, lane, checksum=checksum)
        progress(len(part))
        if receipt.document_ids:
            dispatch(resources())
    return receipt


def _submit_slice(part: Sequence[Document], scope: Scope, lane: Lane, *, checksum: bool) -> Receipt:
    rows: dict[str, Submission] = {}
    refused: list[tuple[str, str]] = []
    for document in part:
        try:
            row = submission(document, resources().settings.max_document_bytes)
            rows[row.source_path] = row
        except DocumentError as error:
            refused.append((document.source_path, error.message))
    new, changed = _transact(
        lambda connection: submissions.submit(
            connection,
            scope,
            list(rows.values()),
            lane=lane,
            recipe=resources().recipe,
            checksum=checksum,
        )
    )
    unchanged = len(rows) - len(new) - len(changed)
    return Receipt(tuple(new), tuple(changed), unchanged, tuple(refused))


def _slices(documents: Iterable[Document]) -> Iterator[list[Document]]:
    """Cut a stream into slices of bounded count and inline bytes."""
    part: list[Document] = []
    size = 0
    for document in documents:
        length = len(document.content or b"")
        if part and (len(part) == _SLICE_DOCUMENTS or size + length > _SLICE_BYTES):
            yield part
            part, size = [], 0
        part.append(document)
        size += length
    if part:
        yield part


@dataclass(frozen=True, slots=True)
class Overview:
    """The state of a tenant's project, or of everything."""

    counts: Mapping[Status, int]
    oldest_waiting_seconds: float | None
    reasons: Sequence[Any]


def status(*, tenant: str | None = None, project: str | None = None, most_reasons: int = 20) -> Overview:
    """Give counts by status, the age of the oldest waiting document, and why documents did not complete.

    Without a tenant: of all. Raises IngestError for an unknown tenant or project.
    """

    def ask(connection: Connection) -> Overview:
        scope = None if tenant is None else _known(connection, tenant, project)
        return Overview(
            overview.counts(connection, scope),
            overview.oldest_waiting_seconds(connection, scope),
            overview.reasons(connection, scope, most_reasons),
        )

    return _transact(ask)


def find(
    documents: Sequence[str | UUID], *, tenant: str = DEFAULT_TENANT, project: str | None = None
) -> Sequence[Any]:
    """Give the rows of documents named by id, by source path or by local path; newest first."""
    ids, paths = _ids_and_paths(documents)
    return _transact(
        lambda connection: overview.documents(
            connection, _known(connection, tenant, project), ids=ids, paths=paths
        )
    )


def _ids_and_paths(names: Sequence[str | UUID]) -> tuple[list[UUID], list[str]]:
    ids: list[UUID] = []
    paths: list[str] = []
    for name in names:
        try:
            ids.append(name if isinstance(name, UUID) else UUID(name))
        except ValueError:
            text = storable(str(name))
            paths += [text] if sources.is_uri(text) else [text, sources.source_path_of(Path(text).absolute())]
    return ids, paths


def wait(
    document_ids: Sequence[UUID],
    *,
    timeout_seconds: float | None = None,
    poll_seconds: float = 0.2,
    progress: Callable[[int], None] = lambda _left: None,
) -> Any:
    """Wait until documents are settled; gives their outcome: counts by status, bytes, chunks.

    `progress` hears how many are left. Raises NoAnswerError when the time is over; the documents go on.
    """
    limit = None if timeout_seconds is None else time.monotonic() + timeout_seconds
    while True:
        left = _transact(partial(overview.unsettled, document_ids=document_ids))
        progress(left)
        if left == 0:
            return _transact(partial(overview.outcome, document_ids=document_ids))
        if limit is not None and time.monotonic() > limit:
            raise NoAnswerError(
                f"{left:,} documents were not settled within {timeout_seconds:g} s",
                "they go on by themselves; `ingest status` follows them, `ingest doctor` finds what is wrong",
            )
        time.sleep(poll_seconds)


def cancel(
    documents: Sequence[str | UUID] | None = None, *, tenant: str = DEFAULT_TENANT, project: str | None = None
) -> int:
    """Cancel what is not settled yet: the named documents, or all; gives how many."""
    return _on_documents(submissions.cancel, documents, tenant, project)


def retry(
    documents: Sequence[str | UUID] | None = None,
    *,
    tenant: str = DEFAULT_TENANT,
    project: str | None = None,
    error_code: str | None = None,
) -> int:
    """Try failed and cancelled documents again, with all their attempts; gives how many."""
    count = _on_documents(partial(submissions.retry, error_code=error_code), documents, tenant, project)
    dispatch(resources())
    return count


def delete(
    documents: Sequence[str | UUID], *, tenant: str = DEFAULT_TENANT, project: str | None = None
) -> int:
    """Delete documents: gone from every search when this returns, and restorable; gives how many."""
    count = 0
    names = iter(documents)
    while part := list(islice(names, 1000)):
        count += _on_documents(submissions.delete, part, tenant, project)
    dispatch(resources())
    return count


def restore(
    documents: Sequence[str | UUID], *, tenant: str = DEFAULT_TENANT, project: str | None = None
) -> int:
    """Bring deleted documents back; gives how many.

    One stays deleted where a newer document has taken its path.
    """

    def change(connection: Connection) -> int:
        scope = _known(connection, tenant, project)
        found = _identify(connection, scope, documents)
        return sum(submissions.restore(connection, scope, document_id) for document_id in found)

    count = _transact(change)
    dispatch(resources())
    return count


def below(
    folder: str | Path, *, tenant: str = DEFAULT_TENANT, project: str | None = None
) -> list[tuple[UUID, str]]:
    """Give (document_id, source_path) of the live documents that came from below a local folder."""
    prefix = sources.source_path_of(Path(folder).absolute())

    def ask(connection: Connection) -> list[tuple[UUID, str]]:
        scope = submissions.find_scope(connection, tenant, project)
        return [] if scope is None else submissions.live_paths(connection, scope, prefix)

    return _transact(ask)


def search(
    query: str = "",
    *,
    tenant: str = DEFAULT_TENANT,
    project: str | None = None,
    k: int = 10,
    vector: Sequence[float] | None = None,
) -> list[Hit]:
    """Ask the search worker for the k nearest chunks of a tenant, nearest first.

    Raises IngestError for a query that cannot be answered, NoAnswerError when no search worker answers
    within SEARCH_TIMEOUT_SECONDS.
    """
    from celery.exceptions import TimeoutError as NoResultError

    from worker.app import app
    from worker.types import Queue

    seconds = resources().settings.search_timeout_seconds
    arguments: dict[str, Any] = {"query": query, "tenant": tenant, "project": project, "k": k}
    if vector is not None:
        arguments["vector"] = [float(number) for number in vector]
    result = app.send_task(
        TaskName.SEARCH_QUERY.value, kwargs=arguments, queue=Queue.SEARCH.value, expires=seconds, retry=False
    )
    try:
        answer = result.get(timeout=seconds)
    except NoResultError:
        raise NoAnswerError(
            f"no search worker answered within {seconds} s", "start one: `ingest worker search`"
        ) from None
    if "error" in answer:
        raise IngestError(answer["error"], answer["hint"])
    return [_hit(item) for item in answer["hits"]]


def _hit(item: dict[str, Any]) -> Hit:
    typed = {
        "chunk_id": UUID(item["chunk_id"]),
        "document_id": UUID(item["document_id"]),
        "heading_path": tuple(item["heading_path"]),
    }
    return Hit(**item | typed)


def _on_documents(
    change: Callable[[Connection, Scope, Sequence[UUID] | None], int],
    documents: Sequence[str | UUID] | None,
    tenant: str,
    project: str | None,
) -> int:
    def run(connection: Connection) -> int:
        scope = _known(connection, tenant, project)
        named = None if documents is None else _identify(connection, scope, documents)
        return change(connection, scope, named)

    return _transact(run)


def _identify(connection: Connection, scope: Scope, names: Sequence[str | UUID]) -> list[UUID]:
    ids, paths = _ids_and_paths(names)
    return [row.document_id for row in overview.documents(connection, scope, ids=ids, paths=paths)]


def _known(connection: Connection, tenant: str, project: str | None) -> Scope:
    scope = submissions.find_scope(connection, tenant, project)
    if scope is None:
        what = f"tenant {tenant!r}" + (f" with a project {project!r}" if project else "")
        raise IngestError(f"there is no {what}", "`ingest status` lists what there is")
    return scope


def _name(tenant: str) -> str:
    if not tenant or len(tenant) > 200:  # noqa: PLR2004 -- tenants_name_check
        raise IngestError("a tenant's name has 1 to 200 characters")
    return storable(tenant)


def _transact(question: Callable[[Connection], T]) -> T:
    """Run one transaction, again where a passing trouble undid it. Raises DatabaseUnavailableError."""
    mine = resources()
    try:
        for attempt in Retrying(
            retry=retry_if_exception(is_retryable),
            wait=wait_exponential_jitter(multiplier=0.1, max=2),
            stop=stop_after_attempt(5),
            reraise=True,
        ):
            with attempt, transaction(mine.engine) as connection:
                answer = question(connection)
    except DBAPIError as error:
        if is_retryable(error):
            raise unavailable(mine.settings.database_url, error) from None
        raise
    return answer
