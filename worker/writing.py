"""The one fenced write of a batch, and each document alone where the one is refused."""

import logging
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError

from worker.buffer import RowBuffer
from worker.counting import count_outcomes
from worker.db import batches, chunks, documents, duplicates, postings, segments
from worker.db.documents import Claimed, Settled
from worker.db.engine import describe, loggable, transaction, violates_constraint
from worker.encoding import Work
from worker.errors import DocumentError, TransientError
from worker.metrics import stage
from worker.outcomes import Outcomes
from worker.patience import backoff, may_pass, patiently
from worker.resources import Resources
from worker.types import Status

log = logging.getLogger(__name__)

WRITE_SECONDS = 300
ROOM_SECONDS, ROOM_POLL_SECONDS = 30, 0.2

Later = tuple[Claimed, TransientError]


def ended(document: Claimed, status: Status, error: DocumentError) -> Settled:
    """Give the outcome of a document that ends with a reason."""
    kept = status is Status.FAILED and document.fingerprint is not None
    note = "; the version before stays searchable" if kept else ""
    return Settled(
        document.document_id, status, error_code=error.code, error_message=f"{error.message}{note}"
    )


class Written(NamedTuple):
    """What one write came to: outcomes, documents put off by so many seconds, and how much it was."""

    settled: Sequence[Settled]
    put_off: Sequence[tuple[Claimed, TransientError, float]]
    done: batches.Done


class Writer:
    """Writes what became of a batch's documents, under its lease. `must_stop` ends its patience.

    `claimed`: those of which the log is to speak.
    """

    def __init__(
        self,
        resources: Resources,
        lease: batches.Lease,
        buffer: RowBuffer,
        must_stop: Callable[[], bool],
        claimed: Sequence[Claimed] = (),
    ) -> None:
        self._resources, self._lease, self._buffer = resources, lease, buffer
        self._must_stop = must_stop
        self._done = batches.Done()
        self.outcomes = Outcomes(claimed)

    def write(self, works: Sequence[Work], settled: Sequence[Settled], later: Sequence[Later]) -> None:
        """Write everything and end the batch; documents in none of the lists go back uncharged.

        Raises LeaseLostError with nothing written, and DBAPIError when the database stays away: then
        the lease runs out and the documents are rescued.
        """
        try:
            self._persist(works, settled, later, final=True)
        except DBAPIError as error:
            if may_pass(error):
                raise
            log.warning("batch.refused", extra={"reason": loggable(error), "then": "each document alone"})
            for work in works:
                self._alone(work)
            for outcome in settled:
                self._one_outcome(outcome)
            self._persist([], [], later, final=True)

    def _alone(self, work: Work) -> None:
        try:
            self._persist([work], [], [], final=False)
        except DBAPIError as error:
            if may_pass(error):
                raise
            if violates_constraint(error, "documents_owner_key"):
                return  # another got the content first: from the backlog it is found a duplicate
            refused = DocumentError("write_refused", f"PostgreSQL refused the rows: {describe(error)}")
            self._one_outcome(ended(work.document, Status.FAILED, refused))

    def _one_outcome(self, outcome: Settled) -> None:
        try:
            self._persist([], [outcome], [], final=False)
        except DBAPIError as error:
            if may_pass(error):
                raise
            log.exception("outcome.refused", extra={"document": outcome.document_id})
            if outcome.error_code != "write_refused":  # without a way out it would go round for ever
                refused = DocumentError("write_refused", "PostgreSQL refused to record what became of it")
                failed = Settled(
                    outcome.document_id,
                    Status.FAILED,
                    error_code=refused.code,
                    error_message=refused.message,
                )
                self._one_outcome(failed)

    def _persist(
        self, works: Sequence[Work], settled: Sequence[Settled], later: Sequence[Later], *, final: bool
    ) -> None:
        """Try the write again while the trouble passes. A repeated commit meets the fence."""
        self._await_room(sum(end - start for start, end in (work.rows for work in works)))
        with stage("write"):
            written = patiently(
                lambda: self._transaction(works, settled, later, final=final), self._must_stop
            )
        self._done = written.done
        self.outcomes.settled(written.settled)
        for document, error, seconds in written.put_off:
            self.outcomes.put_off(document, error, seconds)
        count_outcomes(written.settled, later)

    def _await_room(self, rows: int) -> None:
        """Wait a while where too much is unsealed, holding no connection.

        After that, and who must stop, writes all the same: what is embedded is worth more than the bound,
        and this slot is somebody else's turn. Dispatch hands out nothing more meanwhile.
        """
        limit = time.monotonic() + ROOM_SECONDS
        room = rows == 0
        with stage("wait"):
            while not (room or self._must_stop() or time.monotonic() > limit):
                room = patiently(partial(self._has_room, rows), self._must_stop)
                time.sleep(0 if room else ROOM_POLL_SECONDS)

    def _has_room(self, rows: int) -> bool:
        with transaction(self._resources.engine) as connection:
            return segments.has_room(connection, self._resources.settings, rows, self._lease.lane)

    def _transaction(
        self, works: Sequence[Work], settled: Sequence[Settled], later: Sequence[Later], *, final: bool
    ) -> Written:
        with transaction(self._resources.engine, WRITE_SECONDS) as connection:
            return self.write_within(connection, works, settled, later, final=final)

    def write_within(
        self,
        connection: Connection,
        works: Sequence[Work],
        settled: Sequence[Settled],
        later: Sequence[Later] = (),
        *,
        final: bool = True,
    ) -> Written:
        """Write in the caller's transaction, once. Raises LeaseLostError and DBAPIError."""
        amount = self._done.plus(_amount(works, settled))
        held = self._fence(connection, amount, final=final)
        standing = self._lock(connection, works, settled)
        works, settled = _still_wanted(standing, works, settled)
        self._replace_chunks(connection, works, settled)
        outcomes = [*(work.settled() for work in works), *settled]
        edited = [work.document.document_id for work in works if work.document.fingerprint]
        documents.give_up_fingerprints(connection, edited)
        put_off = self._put_off(connection, later)
        done = documents.settle(connection, outcomes) + len(put_off)
        followed = [outcome.document_id for outcome in outcomes if outcome.document_id in standing.known]
        duplicates.release_duplicates(connection, followed)
        if final and done < held:
            batches.hand_back(connection, self._lease.batch_id)
        return Written(outcomes, put_off, amount)

    def _fence(self, connection: Connection, done: batches.Done, *, final: bool) -> int:
        """Hold the lease, or end the batch with it: then gives how many documents it had."""
        if final:
            return batches.finish(connection, self._lease, done)
        batches.fence(connection, self._lease)
        return 0

    def _lock(
        self, connection: Connection, works: Sequence[Work], settled: Sequence[Settled]
    ) -> documents.Standing:
        ids = [work.document.document_id for work in works] + [outcome.document_id for outcome in settled]
        owners = [outcome.duplicate_of for outcome in settled if outcome.duplicate_of]
        return documents.lock_current(connection, self._lease.batch_id, ids, owners)

    def _replace_chunks(
        self, connection: Connection, works: Sequence[Work], settled: Sequence[Settled]
    ) -> None:
        without = [s.document_id for s in settled if s.status in {Status.DUPLICATE, Status.SKIPPED}]
        chunks.remove_sets(connection, without)
        edited = [work for work in works if work.plan.delete]
        chunks.remove_chunks(
            connection,
            [work.document.document_id for work in edited],
            [chunk_id for work in edited for chunk_id in work.plan.delete],
        )
        ranges = [work.rows for work in works if work.rows[1] > work.rows[0]]
        if ranges:
            segment, leaf = segments.lock_open(connection)
            chunks.copy_rows(connection, leaf, self._buffer.stream(ranges))
            tenant_id = works[0].document.tenant_id
            postings.copy_rows(connection, segment, self._buffer.postings(ranges, tenant_id))

    def _put_off(
        self, connection: Connection, later: Sequence[Later]
    ) -> list[tuple[Claimed, TransientError, float]]:
        moved = []
        for document, error in later:
            seconds = backoff(document.attempts, self._resources.settings)
            if documents.try_later(connection, self._lease.batch_id, document.document_id, error, seconds):
                moved.append((document, error, seconds))
        return moved


def _amount(works: Sequence[Work], settled: Sequence[Settled]) -> batches.Done:
    """Count what is about to be written. Documents that changed meanwhile count: the work was done."""
    return batches.Done(
        settled=len(works) + len(settled),
        chunks=sum(end - start for start, end in (work.rows for work in works)),
        size_bytes=sum(work.size_bytes for work in works) + sum(one.size_bytes or 0 for one in settled),
    )


def _still_wanted(
    standing: documents.Standing, works: Sequence[Work], settled: Sequence[Settled]
) -> tuple[list[Work], list[Settled]]:
    """Drop the documents that were edited, cancelled or deleted since, and duplicates of nobody."""
    works = [work for work in works if work.document.document_id in standing.current]
    owned = standing.owned | {work.document.document_id: work.text.content_hash for work in works}
    return works, [
        outcome
        for outcome in settled
        if outcome.document_id in standing.current
        and (outcome.duplicate_of is None or owned.get(outcome.duplicate_of) == outcome.content_hash)
    ]
