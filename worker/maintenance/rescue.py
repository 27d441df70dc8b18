"""rescue: documents whose worker died go back to the backlog, alone, so that poison charges itself."""

import logging
from collections.abc import Sequence
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, Row

from worker.counting import count_outcomes
from worker.db import batches
from worker.db.documents import Settled, move
from worker.db.duplicates import release_duplicates
from worker.db.engine import transaction
from worker.maintenance.turn import Turn
from worker.provider import AWAY
from worker.types import Status

log = logging.getLogger(__name__)

MOST_BATCHES = 100
WORKER_LOST = "worker_lost"

# A document is stranded when its batch is over. (Asked so that only documents in a batch are read.)
_STRANDED = (
    "d.batch_id IS NOT NULL AND NOT EXISTS"
    " (SELECT 1 FROM batches b WHERE b.batch_id = d.batch_id AND b.finished_at IS NULL)"
)
# What its worker's main process knew of it; where that died as well, nobody does. What the process itself was
# waiting for did not end it.
_CAUSE = (
    "coalesce((SELECT b.trouble FROM batches b"
    " WHERE b.batch_id = d.batch_id AND NOT starts_with(b.trouble, :away)),"
    " 'not known how, its worker ended with it')"
)
_USED_UP = "d.attempts >= :max_attempts AND d.claimed_version = d.requested_version"


def run(turn: Turn) -> dict[str, Any]:
    """Give how many leases had run out, how many documents go again and how many are given up."""
    if turn.dry_run:
        return {"leases_expired": batches.count_expired(turn.connection)}
    with transaction(turn.resources.engine) as transacted:
        abandoned = batches.abandon_expired(transacted, MOST_BATCHES)
        failed = _give_up(transacted, turn.settings.max_attempts)
        retried = move(
            transacted,
            Status.PENDING,
            where=f"d.status = 'processing' AND {_STRANDED}",
            change="isolated = true, queued_at = now(), error_code = :worker_lost, error_message ="
            f" 'its worker process died while it was processed: ' || {_CAUSE} || '; it goes again, alone',"
            " attempts = CASE WHEN d.claimed_version = d.requested_version THEN d.attempts ELSE 0 END",
            returning="d.trace, d.attempts",
            worker_lost=WORKER_LOST,
            away=AWAY,
        )
        freed = batches.free_pending(transacted)
        release_duplicates(transacted, [document.document_id for document in failed])
    _log(abandoned, retried, failed)
    count_outcomes([Settled(row.document_id, Status.FAILED, error_code=WORKER_LOST) for row in failed])
    return {
        "leases_expired": len(abandoned),
        "documents_retried": len(retried),
        "documents_failed": len(failed),
        "documents_freed": freed,
    }


def _log(abandoned: Sequence[UUID], retried: Sequence[Row[Any]], failed: Sequence[Row[Any]]) -> None:
    for batch_id in abandoned:
        log.warning("batch.abandoned", extra={"batch": batch_id, "then": "its documents go again, alone"})
    for row in retried:
        log.warning(
            "document.rescued",
            extra={"document": row.document_id, "trace": row.trace, "attempt": row.attempts},
        )
    for row in failed:
        log.warning(
            "document.settled",
            extra={
                "document": row.document_id,
                "trace": row.trace,
                "status": Status.FAILED.value,
                "error_code": WORKER_LOST,
                "attempt": row.attempts,
            },
        )


def _give_up(connection: Connection, max_attempts: int) -> Sequence[Row[Any]]:
    return move(
        connection,
        Status.FAILED,
        where=f"{_STRANDED} AND {_USED_UP}",
        change="error_code = :worker_lost, error_message = 'its worker process died ' || d.attempts ||"
        f" ' times while it was processed, the last time: ' || {_CAUSE} ||"
        " '; mend the cause, then run `ingest retry`'",
        returning="d.trace, d.attempts",
        max_attempts=max_attempts,
        worker_lost=WORKER_LOST,
        away=AWAY,
    )
