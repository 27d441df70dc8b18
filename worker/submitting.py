"""Submit documents: recorded in slices, each one statement and one commit; published after that."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import Connection

from worker.db import submissions
from worker.db.submissions import Scope, Submission
from worker.dispatch import fill_window
from worker.document import Document, submission
from worker.errors import DocumentError, IngestError
from worker.resources import resources
from worker.steps.languages import known_language
from worker.steps.storable import storable
from worker.types import Lane

DEFAULT_TENANT = "default"
_LONGEST_NAME = 200
_SLICE_DOCUMENTS = 5_000
_SLICE_BYTES = 16 << 20


@dataclass(frozen=True, slots=True)
class Receipt:
    """What a submission came to.

    `waiting`: the unchanged ones that an earlier submission left to be processed. `refused` names
    documents that could not be recorded, and why.
    """

    new: tuple[UUID, ...] = ()
    changed: tuple[UUID, ...] = ()
    unchanged: int = 0
    refused: tuple[tuple[str, str], ...] = ()
    waiting: tuple[UUID, ...] = ()

    @property
    def document_ids(self) -> tuple[UUID, ...]:
        """The documents that will be processed."""
        return self.new + self.changed + self.waiting

    def __add__(self, other: "Receipt") -> "Receipt":
        """Sum up two receipts."""
        return Receipt(
            self.new + other.new,
            self.changed + other.changed,
            self.unchanged + other.unchanged,
            self.refused + other.refused,
            self.waiting + other.waiting,
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
    scope = named_scope(tenant, project)
    receipt = Receipt()
    for part in _slices(documents):
        receipt += _submit_slice(part, scope, lane, checksum=checksum)
        progress(len(part))
        if receipt.document_ids:
            fill_window(resources())
    return receipt


def named_scope(tenant: str, project: str | None) -> Scope:
    """Find a tenant and project, made where they are new. Raises IngestError for what is no name."""
    names = _named("tenant", tenant), None if project is None else _named("project", project)
    return resources().transact(lambda connection: submissions.ensure_scope(connection, *names))


def set_language(language: str | None, *, project: str, tenant: str = DEFAULT_TENANT) -> None:
    """Say what a project's documents are in, unless they say it themselves; it is made where it is new.

    Documents that are there are indexed anew when they are submitted again. None: what LANGUAGE says. Raises
    IngestError for a language that is not known.
    """
    if language is not None:
        known_language(language)
    scope = named_scope(tenant, project)
    resources().transact(lambda connection: submissions.set_language(connection, scope, language))


def _submit_slice(part: Sequence[Document], scope: Scope, lane: Lane, *, checksum: bool) -> Receipt:
    settings = resources().settings
    rows: dict[str, Submission] = {}
    refused: list[tuple[str, str]] = []
    for document in part:
        try:
            row = submission(document, settings.max_document_bytes, scope.language or settings.language)
            rows[row.source_path] = row
        except DocumentError as error:
            refused.append((document.source_path, error.message))

    def record(connection: Connection) -> tuple[list[UUID], list[UUID], list[UUID]]:
        documents, recipe = list(rows.values()), resources().recipe
        new, changed = submissions.submit(
            connection, scope, documents, lane=lane, recipe=recipe, checksum=checksum
        )
        written = {*new, *changed}
        same = len(rows) > len(written)
        left = submissions.unsettled(connection, scope, list(rows)) if same else []
        return new, changed, [document_id for document_id in left if document_id not in written]

    new, changed, waiting = resources().transact(record)
    unchanged = len(rows) - len(new) - len(changed)
    return Receipt(tuple(new), tuple(changed), unchanged, tuple(refused), tuple(waiting))


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


def _named(what: str, name: str) -> str:
    if not name or len(name) > _LONGEST_NAME:
        raise IngestError(f"a {what}'s name has 1 to {_LONGEST_NAME} characters", "choose another name")
    if storable(name) != name:  # two names must not become one
        raise IngestError(f"a {what}'s name has no NUL and no half of a character", "choose another name")
    return name
