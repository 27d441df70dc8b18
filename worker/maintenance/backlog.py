"""dispatch: publish again what the broker lost, and fill its window."""

from typing import Any

from worker.db import backlog, batches
from worker.dispatch import dispatch, republish
from worker.maintenance.turn import Turn
from worker.types import Lane


def run(turn: Turn) -> dict[str, Any]:
    """Give how many batches were published again and how many are new."""
    if turn.dry_run:
        return {
            "documents_ready": backlog.count_ready(turn.connection),
            "published": sum(batches.queued_count(turn.connection, lane) for lane in Lane),
        }
    return {"published_again": republish(turn.resources), "published": dispatch(turn.resources)}
