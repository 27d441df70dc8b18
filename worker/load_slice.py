"""One slice of a load: documents that bring their chunks and vectors, stored in one transaction.

What a worker does in two transactions around the model, with a lease against its own death, is done
here in one, through the same states: pending → processing → completed | duplicate | skipped | failed. A
load that is cut short leaves whole slices, and nothing half done.

    prepare   clean, check, hash                                             skipped · failed
    tx        lock what is there → unchanged · refused → find owners → submit into a batch of its own
              → claim → plan → encode → COPY → settle → end the batch        duplicate
"""

import json
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from uuid import UUID

from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError

from worker.buffer import RowBuffer
from worker.db import batches, documents, duplicates, operations, pauses, segments, submissions
from worker.db.documents import Claimed, Settled
from worker.db.engine import clock, describe, violates_constraint
from worker.db.pauses import Target
from worker.db.submissions import Present, Scope, Submission
from worker.document import Document, submission
from worker.encoding import Encoder, Work
from worker.errors import DocumentError, SkipDocument
from worker.resources import Resources
from worker.settings import Settings
from worker.steps import given, prepare
from worker.steps.prepare import Piece, Text
from worker.submitting import HeldUp
from worker.types import GivenDocument, Lane, Loaded, SegmentState, Status
from worker.writing import ROOM_POLL_SECONDS, WRITE_SECONDS, Writer, ended

_TRIES = 2
_NOTHING = Text("", b"", b"", {})


@dataclass(slots=True)
class _Load:
    """A document on its way. `error`: why it is not stored. `owner`, `twin`: whose duplicate it is."""

    row: Submission
    text: Text = _NOTHING
    pieces: list[Piece] = field(default_factory=list)
    error: DocumentError | None = None
    owner: UUID | None = None
    twin: str | None = None

    @property
    def path(self) -> str:
        return self.row.source_path

    @property
    def size_bytes(self) -> int:
        return self.row.size_bytes or 0

    def outcome(self, document: Claimed, ids: Mapping[str, UUID]) -> Work | Settled:
        """Give what is to be written, or what it came to. `ids`: of the slice's documents by path."""
        if self.error:
            status = Status.SKIPPED if isinstance(self.error, SkipDocument) else Status.FAILED
            return ended(document, status, self.error)
        work = Work(document, self.text, self.size_bytes, self.pieces)
        if owner := self.owner or ids.get(self.twin or ""):
            return work.duplicate(owner)
        return work.unchanged() if self.text.fingerprint == document.fingerprint else work


def _prepared(document: GivenDocument, mine: Resources, scope: Scope, trace: str | None) -> _Load:
    """Clean, check and hash. Raises DocumentError for what cannot even be recorded."""
    settings = mine.settings
    language = scope.language or settings.language
    load = _Load(submission(Document.loaded(document), settings.max_document_bytes, language, trace))
    try:
        _read(load, document, mine)
    except DocumentError as error:
        load.error = error
    return load


def _read(load: _Load, document: GivenDocument, mine: Resources) -> None:
    settings = mine.settings
    if load.size_bytes > settings.max_document_bytes:
        raise _too_large(f"{load.size_bytes:,} bytes", settings)
    chunks = given.with_vectors(
        document.chunks, dimension=settings.embedding_dimension, column_type=settings.embedding_type
    )
    if replaced := given.replaced_in(document.chunks):
        load.row = replace(load.row, cleaned={**load.row.cleaned, "chunks": replaced})
    load.text = prepare.read_given(chunks, load.row.language, mine.recipe, settings.limits)
    load.pieces = prepare.given_pieces(chunks, model="", limits=settings.limits)


def _too_large(what: str, settings: Settings) -> DocumentError:
    return DocumentError("too_large", f"{what}; MAX_DOCUMENT_BYTES allows {settings.max_document_bytes:,}")


class _OvertakenError(Exception):
    """The owner of a content in this slice went away meanwhile: the slice is to be looked at again."""


class SliceLoader:
    """Loads slices, of distinct source paths, into one scope.

    While too many rows wait to be sealed, or they are paused, it waits; `held_up` hears why.
    """

    def __init__(
        self,
        mine: Resources,
        scope: Scope,
        held_up: HeldUp = lambda _why: None,
        trace: str | None = None,
    ) -> None:
        self._resources, self._scope, self._held_up, self._trace = mine, scope, held_up, trace

    def load(self, part: Sequence[GivenDocument]) -> Loaded:
        """Prepare and store a slice."""
        loads: list[_Load] = []
        refused: list[tuple[str, str]] = []
        for document in part:
            try:
                loads.append(_prepared(document, self._resources, self._scope, self._trace))
            except DocumentError as error:
                refused.append((document.source_path, error.message))
        self._await_room(sum(len(load.pieces) for load in loads))
        return self._store(loads) + Loaded(refused=len(refused), reasons=tuple(refused))

    def _await_room(self, rows: int) -> None:
        mine = self._resources
        since = mine.transact(clock)
        while why := mine.transact(lambda connection: self._obstacle(connection, rows, since)):
            self._held_up(why)
            time.sleep(ROOM_POLL_SECONDS)

    def _obstacle(self, connection: Connection, rows: int, since: datetime) -> str | None:
        target = Target(self._scope.tenant_id, self._scope.project_id, Lane.BULK)
        for pause in pauses.covering(connection, target):
            return str(pause)
        if _may_go_on(connection, self._resources.settings, rows, since):
            return None
        return (
            f"{segments.unsealed_rows(connection):,} rows are not sealed yet, MAX_UNSEALED_ROWS bounds them; "
            "the maintenance worker seals them, or `ingest maintain seal`"
        )

    def _store(self, loads: Sequence[_Load], tries: int = _TRIES) -> Loaded:
        """Store a slice; where that is refused, each document alone, with its own error."""
        try:
            return self._resources.transact(lambda connection: self._write(connection, loads), WRITE_SECONDS)
        except _OvertakenError:
            return self._store(loads, tries)
        except DBAPIError as error:
            if tries and violates_constraint(error, "documents_owner_key"):
                return self._store(loads, tries - 1)  # another got the content first: now it is seen
            if len(loads) > 1:
                return sum((self._store([alone]) for alone in loads), Loaded())
            if loads[0].error:
                raise
            loads[0].error = DocumentError("write_refused", f"PostgreSQL refused the rows: {describe(error)}")
            return self._store(loads)

    def _write(self, connection: Connection, loads: Sequence[_Load]) -> Loaded:
        wanted = self._wanted(connection, loads)
        passed_over = Loaded(unchanged=len(loads) - len(wanted))
        if not wanted:
            return passed_over
        lease, claimed = self._claim(connection, wanted)
        ids = {document.source_path: document.document_id for document in claimed}
        by_path = {load.path: load for load in wanted}
        outcomes = [by_path[document.source_path].outcome(document, ids) for document in claimed]
        works = [outcome for outcome in outcomes if isinstance(outcome, Work)]
        settled = [outcome for outcome in outcomes if isinstance(outcome, Settled)]
        mine = self._resources
        with RowBuffer(mine.settings.write_buffer_bytes, mine.vocabulary) as buffer:
            encoder = Encoder(self._resources, buffer, lambda: None)
            encoder.look_up(connection, self._scope.tenant_id, works)
            for group in encoder.groups(works):
                encoder.encode(group)
            writer = Writer(self._resources, lease, buffer, lambda: True)
            if len(writer.write_within(connection, works, settled).settled) < len(outcomes):
                raise _OvertakenError
        return passed_over + _counted(wanted, works, settled)

    def _wanted(self, connection: Connection, loads: Sequence[_Load]) -> list[_Load]:
        """Lock what is there, and drop what is there as it should be."""
        paths = [load.path for load in loads]
        present = submissions.present(connection, self._scope, paths, self._resources.recipe)
        wanted = [load for load in loads if not _is_there(load, present.get(load.path))]
        self._find_owners(connection, wanted, present)
        return wanted

    def _find_owners(
        self, connection: Connection, loads: Sequence[_Load], present: Mapping[str, Present]
    ) -> None:
        """Find whose contents these are. A duplicate keeps a copy: it may have to take the owner's place."""
        good = [load for load in loads if not load.error]
        hashes = [load.text.content_hash for load in good]
        owners = duplicates.owners_of(connection, self._scope.tenant_id, self._scope.project_id, hashes)
        ids = {load.path: present[load.path].document_id for load in good if load.path in present}
        leaving = {ids[load.path]: load.text.content_hash for load in good if load.path in ids}
        first: dict[bytes, str] = {}
        for load in good:
            content_hash = load.text.content_hash
            owner = owners.get(content_hash)
            if owner and leaving.get(owner, content_hash) != content_hash:
                owner = None
            twin = load.path if owner else first.setdefault(content_hash, load.path)
            load.owner = owner if owner != ids.get(load.path) else None
            load.twin = twin if twin != load.path else None
            load.row = replace(load.row, content=None)
            if load.owner or load.twin:
                self._keep_copy(load)

    def _keep_copy(self, load: _Load) -> None:
        content, settings = given.dump(load.text.given), self._resources.settings
        if len(content) > settings.max_document_bytes:
            load.error = _too_large(f"a duplicate, of {len(content):,} bytes written out", settings)
        else:
            load.row = replace(load.row, content=content)

    def _claim(self, connection: Connection, loads: Sequence[_Load]) -> tuple[batches.Lease, list[Claimed]]:
        """Record the documents and take them into processing, from whoever has them."""
        new, changed = submissions.submit(
            connection,
            self._scope,
            [load.row for load in loads],
            lane=Lane.BULK,
            recipe=self._resources.recipe,
            checksum=True,
        )
        documents.take_over(connection, changed)
        batch_id = batches.record(connection, Lane.BULK, self._scope.tenant_id, [*new, *changed])
        lease = batches.claim(connection, batch_id, "load", self._resources.settings.lease_seconds)
        assert lease  # nobody else sees it
        return lease, documents.start(connection, batch_id)


def _may_go_on(connection: Connection, settings: Settings, rows: int, since: datetime) -> bool:
    """Tell whether there is room. Where sealing has looked and sees nothing full, its settings count."""
    return segments.has_room(connection, settings, rows) or (
        operations.ran_since(connection, "seal", since)
        and not segments.in_state(connection, SegmentState.SEALING)
    )


def _is_there(load: _Load, present: Present | None) -> bool:
    return (
        present is not None
        and not load.error
        and present.as_loaded
        and present.content_hash == load.text.content_hash
        and present.language == load.row.language
        and present.metadata == json.loads(load.row.metadata_json)
    )


def _counted(loads: Sequence[_Load], works: Sequence[Work], settled: Sequence[Settled]) -> Loaded:
    statuses = Counter(outcome.status for outcome in settled)
    return Loaded(
        completed=len(works),
        unchanged=statuses[Status.COMPLETED],
        duplicate=statuses[Status.DUPLICATE],
        failed=statuses[Status.FAILED],
        skipped=statuses[Status.SKIPPED],
        chunks=sum(len(work.pieces) for work in works),
        reasons=tuple((load.path, load.error.message) for load in loads if load.error),
    )
