"""Submit documents: recorded in slices, each one statement and one commit; published after that."""

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal, get_args
from uuid import UUID

from sqlalchemy import Connection

from worker.backpressure import Room
from worker.db import pauses, submissions
from worker.db.pauses import Pause, Target
from worker.db.submissions import Scope, Submission
from worker.dispatch import fill_window
from worker.document import Document, submission
from worker.errors import BacklogFullError, DocumentError, IngestError
from worker.resources import resources
from worker.steps.languages import known_language
from worker.steps.storable import storable
from worker.steps.traces import known_trace, new_trace
from worker.types import Lane

log = logging.getLogger(__name__)

DEFAULT_TENANT = "default"
WhenFull = Literal["wait", "refuse"]
HeldUp = Callable[[str], None]
_LONGEST_NAME = 200
_SLICE_DOCUMENTS = 5_000
_SLICE_BYTES = 16 << 20
_ROOM_POLL_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Receipt:
    """What a submission came to.

    `waiting`: the unchanged ones that an earlier submission left to be processed. `refused` names
    documents that could not be recorded, and why. `paused`: what holds them up, until somebody resumes it.
    `trace` is what the log names with the new and the changed ones, unless they brought their own.
    """

    new: tuple[UUID, ...] = ()
    changed: tuple[UUID, ...] = ()
    unchanged: int = 0
    refused: tuple[tuple[str, str], ...] = ()
    waiting: tuple[UUID, ...] = ()
    paused: tuple[Pause, ...] = ()
    trace: str = field(default="", compare=False)

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
            other.paused or self.paused,
            self.trace or other.trace,
        )


def submit(
    documents: Iterable[Document],
    *,
    tenant: str = DEFAULT_TENANT,
    project: str | None = None,
    lane: Lane = Lane.BULK,
    checksum: bool = False,
    when_full: WhenFull = "wait",
    trace: str | None = None,
    progress: Callable[[int], None] = lambda _count: None,
    held_up: HeldUp | None = None,
) -> Receipt:
    """Record documents for ingestion; they are safe when this returns.

    A stream is taken in slices, each one statement and one commit; `progress` hears how many were
    recorded. Unchanged documents (same size and modification time, or same inline text) cost nothing
    more; `checksum` has them read and hashed all the same. Where as many documents wait as may
    (MAX_BACKLOG_DOCUMENTS), it waits for room, and `held_up` hears why; or, with `when_full="refuse"`,
    raises BacklogFullError, whose `receipt` says what was recorded before. `trace`: an id of yours, which the
    log names with every document of this call; without it one is made. Raises DatabaseUnavailableError.
    """
    if when_full not in get_args(WhenFull):
        raise IngestError(f"when_full={when_full!r:.80} is not known", "it may be wait or refuse")
    trace = new_trace() if trace is None else known_trace(trace)
    scope = named_scope(tenant, project)
    room = Room(resources().settings, scope.tenant_id, lane)
    receipt = Receipt(trace=trace)
    for part in _slices(documents):
        try:
            done = _submit_slice(part, scope, lane, room, trace, checksum=checksum)
        except BacklogFullError as full:
            if when_full == "refuse":
                raise _with_receipt(full, receipt) from None
            _await_room(room, held_up)
            done = _submit_slice(part, scope, lane, room, trace, checksum=checksum)
        receipt += done
        progress(len(part))
        if receipt.document_ids:
            fill_window(resources())
    return receipt


def _with_receipt(full: BacklogFullError, receipt: Receipt) -> BacklogFullError:
    before = len(receipt.new) + len(receipt.changed)
    said = f"{full.message}; {before:,} documents of this submission are recorded" if before else full.message
    return BacklogFullError(said, full.hint, full.limit, receipt)


def _await_room(room: Room, held_up: HeldUp | None) -> None:
    """Wait for room in the backlog, holding no connection."""
    said = False
    while full := resources().transact(room.fault):
        if held_up:
            held_up(str(full))
        elif not said:
            log.warning("submission.waits", extra={"reason": full.message})
        said = True
        time.sleep(_ROOM_POLL_SECONDS)


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


def _submit_slice(
    part: Sequence[Document], scope: Scope, lane: Lane, room: Room, trace: str, *, checksum: bool
) -> Receipt:
    mine = resources()
    settings = mine.settings
    language = scope.language or settings.language
    rows: dict[str, Submission] = {}
    refused: list[tuple[str, str]] = []
    for document in part:
        try:
            row = submission(document, settings.max_document_bytes, language, trace)
            rows[row.source_path] = row
        except DocumentError as error:
            refused.append((document.source_path, error.message))

    def record(connection: Connection) -> Receipt:
        documents = list(rows.values())
        full = room.fault(connection)
        if full and submissions.would_write(
            connection, scope, documents, lane=lane, recipe=mine.recipe, checksum=checksum
        ):
            raise full
        new, changed = submissions.submit(
            connection, scope, documents, lane=lane, recipe=mine.recipe, checksum=checksum
        )
        written = {*new, *changed}
        same = len(rows) > len(written)
        left = submissions.unsettled(connection, scope, list(rows)) if same else []
        waiting = [document_id for document_id in left if document_id not in written]
        held = pauses.covering(connection, Target(scope.tenant_id, scope.project_id, lane))
        return Receipt(
            tuple(new),
            tuple(changed),
            len(rows) - len(written),
            tuple(refused),
            tuple(waiting),
            tuple(held) if written or waiting else (),
        )

    receipt = mine.transact(record)
    room.take(len(receipt.new) + len(receipt.changed))
    log.info(
        "documents.submitted",
        extra={
            "trace": trace,
            "tenant": scope.tenant_id,
            "project": scope.project_id,
            "lane": lane.value,
            "new": len(receipt.new),
            "changed": len(receipt.changed),
            "unchanged": receipt.unchanged,
            "refused": len(receipt.refused),
        },
    )
    return receipt


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
