"""Ingest one batch of documents.

    tx 1   claim: lease, what is paused goes back, documents into processing, one attempt charged
           │  load → decode → fingerprint                        unchanged · skipped · failed · later
    read   │  who owns these contents                            duplicate
           │  chunk
    read   │  stored chunks, vectors known by hash
           │  plan → embed → encode rows into the buffer         failed · later
    tx 2   finish, if the lease holds → lock documents → remove → COPY → settle
           → release duplicates → hand back the rest

Between the transactions no connection is held but for the two short reads; the lease is renewed
by a thread. If the one write is refused, each document is written alone, with its own error.
"""

import logging
from collections.abc import Callable, Sequence
from functools import partial
from typing import TypeVar
from uuid import UUID

from sqlalchemy.exc import DBAPIError

from worker import sources
from worker.bounds import bounded
from worker.buffer import BufferLostError, RowBuffer
from worker.db import batches, documents, duplicates, pauses
from worker.db.documents import Claimed, Settled
from worker.db.engine import transaction
from worker.encoding import Encoder, Work
from worker.errors import DocumentError, LeaseLostError, SkipDocument, TransientError
from worker.lease import Heartbeat
from worker.logs import bound_contextvars
from worker.metrics import stage
from worker.patience import patiently
from worker.resources import Resources
from worker.steps import prepare
from worker.types import FileType, Status
from worker.writing import Later, Writer, ended

log = logging.getLogger(__name__)

Report = Callable[[int, int], None]
T = TypeVar("T")


class HandBackError(Exception):
    """The batch ends early: what is not done goes back to the backlog."""


def ingest_batch(
    resources: Resources,
    batch_id: UUID,
    worker: str,
    *,
    stopping: Callable[[], bool] = lambda: False,
    report: Report = lambda _done, _total: None,
) -> dict[str, int] | None:
    """Process a queued batch; gives how many documents ended in each status.

    None when the batch is not ours to take: claimed, finished or unknown. Raises LeaseLostError when
    it was taken away meanwhile: nothing of it was written then. `stopping` is asked often; once it
    says yes, what is done is written and the rest is handed back.
    """
    settings = resources.settings
    with transaction(resources.engine) as connection:
        lease = batches.claim(connection, batch_id, worker, settings.lease_seconds)
        if lease is not None:
            pauses.set_aside(connection, batch_id)
        claimed = documents.start(connection, batch_id) if lease else []
    if lease is None:
        return None
    with (
        bound_contextvars(batch=str(batch_id), tenant=str(lease.tenant_id), lane=lease.lane.value),
        Heartbeat(resources.engine, lease, settings, lambda: resources.trouble) as heart,
        RowBuffer(settings.write_buffer_bytes, resources.vocabulary) as buffer,
    ):
        run = BatchRun(resources, heart, stopping)
        encoder = Encoder(resources, buffer, run.check)
        works = run.encode(encoder, run.prepare(claimed, lease.tenant_id), lease.tenant_id, report)
        writer = Writer(resources, lease, buffer, run.must_stop, claimed)
        writer.write(works, run.settled, run.later)
        writer.outcomes.done()
        return dict(writer.outcomes.counts)


class BatchRun:
    """The steps of one batch before its write, and what they settled on the way."""

    def __init__(self, resources: Resources, heart: Heartbeat, stopping: Callable[[], bool]) -> None:
        self._resources, self._heart, self._stopping = resources, heart, stopping
        self.settled: list[Settled] = []
        self.later: list[Later] = []

    def must_stop(self) -> bool:
        """Tell whether the process is to stop or the batch has had its time."""
        return self._stopping() or self._heart.overdue

    def check(self) -> None:
        """Raise what ends the batch early: a lost lease, a stop, or its time being up."""
        self._heart.check()
        if self.must_stop():
            raise HandBackError

    def prepare(self, claimed: Sequence[Claimed], tenant_id: UUID) -> list[Work]:
        """Read, compare and cut; gives the works that have a chunk set to be made."""
        with stage("load"):
            read = self._read_all(claimed)
        works = self._without_duplicates(read, tenant_id)
        with stage("chunk"):
            return [work for work in works if self._guard(work.document, partial(self._split, work))]

    def _read_all(self, claimed: Sequence[Claimed]) -> list[Work]:
        """Read until BATCH_BYTES are in memory: files may have grown since they were submitted."""
        works: list[Work] = []
        size = 0
        for document in claimed:
            if self.must_stop() or (works and size >= self._resources.settings.batch_bytes):
                break
            self._heart.check()
            if work := self._guard(document, partial(self._read, document)):
                works.append(work)
                size += work.size_bytes
        return works

    def _read(self, document: Claimed) -> Work | None:
        if document.dropped:
            raise DocumentError(
                "not_kept", "its content was dropped (CONTENT_RETENTION_DAYS): submit it again"
            )
        if document.file_type is FileType.CHUNKS and document.content is None:
            raise DocumentError("not_kept", "its chunks came by a load, which keeps no copy: load it again")
        mine, settings = self._resources, self._resources.settings
        data = sources.load(document.source_path, document.content, settings)
        recipe, limits = mine.recipe, settings.limits
        with bounded(settings):
            text = prepare.read(
                data, document.filename, document.file_type, document.language, recipe, limits
            )
        work = Work(document, text, len(data))
        if text.fingerprint != document.fingerprint:
            return work
        self.settled.append(work.unchanged())
        return None

    def _without_duplicates(self, works: Sequence[Work], tenant_id: UUID) -> list[Work]:
        """Settle the works whose content another document of the project owns, or is about to."""
        owners = patiently(partial(self._owners, works, tenant_id), self.must_stop)
        first: list[Work] = []
        for work in works:
            document = work.document
            owner = owners.setdefault((document.project_id, work.text.content_hash), document.document_id)
            if owner == document.document_id:
                first.append(work)
            else:
                self.settled.append(work.duplicate(owner))
        return first

    def _owners(self, works: Sequence[Work], tenant_id: UUID) -> dict[tuple[UUID | None, bytes], UUID]:
        owners: dict[tuple[UUID | None, bytes], UUID] = {}
        if not works:
            return owners
        with transaction(self._resources.engine) as connection:
            for project_id in {work.document.project_id for work in works}:
                hashes = [w.text.content_hash for w in works if w.document.project_id == project_id]
                found = duplicates.owners_of(connection, tenant_id, project_id, hashes)
                owners |= {(project_id, content_hash): owner for content_hash, owner in found.items()}
        # whoever is here with another content is about to stop owning: two files may swap theirs
        leaving = {work.document.document_id: work.text.content_hash for work in works}
        return {key: owner for key, owner in owners.items() if leaving.get(owner, key[1]) == key[1]}

    def _split(self, work: Work) -> bool:
        settings, model = self._resources.settings, self._resources.embedder.model
        with bounded(settings):
            work.pieces = prepare.split(
                work.text,
                work.document.file_type,
                model=model,
                size=settings.chunk_size,
                overlap=settings.chunk_overlap,
                limits=settings.limits,
            )
        return True

    def encode(self, encoder: Encoder, works: list[Work], tenant_id: UUID, report: Report) -> list[Work]:
        """Plan, embed and encode; gives the works whose rows are in the buffer."""
        if not works:
            return []
        with stage("plan"):
            patiently(partial(self._look_up, encoder, tenant_id, works), self.must_stop)
        done: list[Work] = []
        for group in encoder.groups(works):
            try:
                done += self._encode(encoder, group)
            except HandBackError:
                self._charge_if_overdue(group, first=not done)
                break
            except BufferLostError as lost:
                self._put_off_all(works, TransientError("worker_disk", str(lost)))
                return []
            self._heart.progress = len(self.settled) + len(done)
            report(self._heart.progress, len(self.settled) + len(works))
        return done

    def _look_up(self, encoder: Encoder, tenant_id: UUID, works: Sequence[Work]) -> None:
        with transaction(self._resources.engine) as connection:
            encoder.look_up(connection, tenant_id, works)

    def _encode(self, encoder: Encoder, group: list[Work]) -> list[Work]:
        """Encode a group of works together; where that fails, each alone, with its own error."""
        if len(group) == 1:
            work = group[0]
            return group if self._guard(work.document, partial(encoder.encode, group)) else []
        try:
            encoder.encode(group)
        except (DBAPIError, LeaseLostError, HandBackError, BufferLostError):
            raise
        except Exception:  # noqa: BLE001 -- whatever it is, `_guard` gives it to the document it belongs to
            return [work for alone in group for work in self._encode(encoder, [alone])]
        return group

    def _charge_if_overdue(self, group: Sequence[Work], *, first: bool) -> None:
        """Charge a document that by itself takes longer than a batch may: it may be poison.

        Where it waited for the provider, that took the time.
        """
        if first and self._heart.overdue and not self._stopping() and not self._resources.trouble:
            limit = self._resources.settings.task_soft_time_limit
            message = f"not done within TASK_SOFT_TIME_LIMIT, {limit} s"
            self._put_off_all(group, TransientError("time_limit", message))

    def _put_off_all(self, works: Sequence[Work], error: TransientError) -> None:
        """Put off what is not decided yet."""
        decided = {outcome.document_id for outcome in self.settled}
        decided |= {document.document_id for document, _ in self.later}
        for work in works:
            if work.document.document_id not in decided:
                self._put_off(work.document, error)

    def _guard(self, document: Claimed, step: Callable[[], T]) -> T | None:
        """Run a document's step; an error becomes that document's outcome, and no other's."""
        try:
            return step()
        except SkipDocument as reason:
            self.settled.append(ended(document, Status.SKIPPED, reason))
        except TransientError as error:
            self._put_off(document, error)
        except DocumentError as error:
            self.settled.append(ended(document, Status.FAILED, error))
        except (DBAPIError, LeaseLostError, HandBackError, BufferLostError):
            raise
        except MemoryError:  # its neighbours may have taken it
            self._put_off(document, TransientError("out_of_memory", "its process was given no more memory"))
        except Exception as error:  # a fault of ours must not take its neighbours along
            log.exception(
                "document.crashed", extra={"document": document.document_id, "trace": document.trace}
            )
            fault = DocumentError("internal", f"{type(error).__name__}: {error}"[:500])
            self.settled.append(ended(document, Status.FAILED, fault))
        return None

    def _put_off(self, document: Claimed, error: TransientError) -> None:
        if document.attempts < self._resources.settings.max_attempts:
            # as it was raised it would keep what its frames hold, such as a body that was cut off
            self.later.append((document, TransientError(error.code, error.message)))
            return
        used_up = DocumentError(error.code, f"{error.message} (after {document.attempts} attempts)")
        self.settled.append(ended(document, Status.FAILED, used_up))
