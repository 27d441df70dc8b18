"""What became of a batch's documents, as the log says it: a line a document, and one for the batch."""

import logging
import time
from collections import Counter
from collections.abc import Sequence
from typing import Any

from worker.db.documents import Claimed, Settled
from worker.errors import TransientError
from worker.types import Status
from worker.urls import hidden

log = logging.getLogger(__name__)


def say_cancelled(documents: Sequence[Any]) -> None:
    """Log a line for each of these (document_id, trace), once that is committed."""
    for row in documents:
        log.info(
            "document.settled",
            extra={"document": row.document_id, "trace": row.trace, "status": Status.CANCELLED.value},
        )


class Outcomes:
    """Counts what is committed and logs it. `claimed`: the documents that may be spoken of."""

    def __init__(self, claimed: Sequence[Claimed] = ()) -> None:
        self._claimed = {document.document_id: document for document in claimed}
        self._begun = time.monotonic()
        self._sums: Counter[str] = Counter()
        self.counts: Counter[str] = Counter()

    @property
    def _ms(self) -> int:
        """The milliseconds since the claim."""
        return round((time.monotonic() - self._begun) * 1000)

    def settled(self, outcomes: Sequence[Settled]) -> None:
        """Count outcomes that were committed, and log a line for each."""
        self.counts.update(outcome.status.value for outcome in outcomes)
        for outcome in outcomes:
            self._sums["chunks"] += outcome.total_chunks or 0
            self._sums["embedded"] += outcome.embedded
            self._sums["reused"] += outcome.reused
            self._sums["bytes"] += outcome.size_bytes or 0
            level = logging.WARNING if outcome.status is Status.FAILED else logging.INFO
            if log.isEnabledFor(level) and (document := self._claimed.get(outcome.document_id)):
                self._log(level, document, outcome)

    def _log(self, level: int, document: Claimed, outcome: Settled) -> None:
        log.log(
            level,
            "document.settled",
            extra={
                "document": document.document_id,
                "trace": document.trace,
                "project": document.project_id,
                "path": hidden(document.source_path),
                "status": outcome.status.value,
                "error_code": outcome.error_code,
                "chunks": outcome.total_chunks or 0,
                "embedded": outcome.embedded,
                "reused": outcome.reused,
                "bytes": outcome.size_bytes,
                "ms": self._ms,
                "attempt": document.attempts,
            },
        )

    def put_off(self, document: Claimed, error: TransientError, seconds: float) -> None:
        """Log that a document went back to the backlog, to be tried again in so many seconds."""
        log.warning(
            "document.put_off",
            extra={
                "document": document.document_id,
                "trace": document.trace,
                "project": document.project_id,
                "path": hidden(document.source_path),
                "error_code": error.code,
                "again_s": round(seconds, 1),
                "ms": self._ms,
                "attempt": document.attempts,
            },
        )

    def done(self) -> None:
        """Log the line of the whole batch."""
        log.info(
            "batch.done",
            extra={
                "documents": len(self._claimed),
                "outcomes": dict(self.counts),
                "chunks": self._sums["chunks"],
                "embedded": self._sums["embedded"],
                "reused": self._sums["reused"],
                "bytes": self._sums["bytes"],
                "ms": self._ms,
            },
        )
