"""What goes to the broker next: a window of it, interactive first, the tenants in turn.

The database holds the backlog; the broker a message a worker slot, and one: each batch fills the window again
before its slot is free. A message only wakes a worker up: losing every one of them loses nothing.
"""

import logging
from collections.abc import Sequence
from uuid import UUID

from kombu.exceptions import OperationalError
from redis import RedisError
from sqlalchemy import Connection
from sqlalchemy.exc import SQLAlchemyError

from worker import broker
from worker.db import backlog, batches, operations, segments
from worker.db.engine import describe, transaction
from worker.resources import Resources
from worker.settings import Settings
from worker.types import QUEUE_OF, Lane, TaskName

log = logging.getLogger(__name__)

# Beyond one a slot: for a slot that was not there when the window was filled, or a message that is lost.
MESSAGES_AHEAD = 1

TAKEN_BY = {Lane.INTERACTIVE: ("ingest", "interactive"), Lane.BULK: ("ingest",)}


def dispatch(resources: Resources) -> int:
    """Form batches while the window has room, and publish them; gives how many.

    A broker that is away is not an error here: the batches stay recorded and are published again.
    """
    formed = 0
    for lane in Lane:
        with transaction(resources.engine) as connection:
            backlog.lock_dispatch(connection)
            found = batches.labelled(connection, _form(connection, lane, resources.settings))
        publish(lane, found)
        formed += len(found)
    return formed


def fill_window(resources: Resources) -> None:
    """Dispatch where a failure is nobody's: what was recorded is safe, and beat dispatches it soon."""
    try:
        dispatch(resources)
    except SQLAlchemyError as error:
        log.warning("dispatch.failed", extra={"reason": describe(error), "then": "beat dispatches soon"})


def _form(connection: Connection, lane: Lane, settings: Settings) -> list[UUID]:
    slots = sum(
        operations.live_slots(connection, kind, settings.heartbeat_seconds) for kind in TAKEN_BY[lane]
    )
    room = max(slots, 1) + MESSAGES_AHEAD - batches.queued_count(connection, lane)
    formed: list[UUID] = []
    while (
        len(formed) < room
        and segments.has_room(connection, settings, 1, lane)
        and (batch_id := backlog.form(connection, lane, settings))
    ):
        formed.append(batch_id)
    return formed


def republish(resources: Resources) -> int:
    """Publish again what was published a while ago and is not in the broker any more; gives how many.

    A queue shorter than the batches we count in it has lost messages. One published twice is claimed
    once.
    """
    again = 0
    client = broker.connect(resources.settings)
    for lane in Lane:
        try:
            waiting = broker.queue_length(client, QUEUE_OF[lane])
        except RedisError as error:
            log.warning("broker.silent", extra={"reason": error})
            break
        with transaction(resources.engine) as connection:
            lost = batches.queued_count(connection, lane) > waiting
            seconds = resources.settings.republish_seconds
            batch_ids = batches.take_unclaimed(connection, lane, seconds) if lost else []
            found = batches.labelled(connection, batch_ids)
        publish(lane, found)
        again += len(found)
    client.close()
    return again


def publish(lane: Lane, formed: Sequence[batches.Formed]) -> None:
    """Send one message a batch: its id, and a label for those who watch the queue."""
    from worker.app import app

    for batch in formed:
        try:
            # ignore_result: else the producer opens a subscription at the result backend, and waits
            app.send_task(
                TaskName.INGEST_BATCH.value,
                args=[str(batch.batch_id)],
                argsrepr=f"({batch.label})",
                queue=QUEUE_OF[lane].value,
                ignore_result=True,
            )
        except (OperationalError, RedisError, OSError) as error:
            log.warning(
                "batch.unpublished",
                extra={"batch": batch.batch_id, "reason": error, "then": "beat publishes it soon"},
            )
            return
        log.info(
            "batch.published",
            extra={
                "batch": batch.batch_id,
                "tenant": batch.tenant_id,
                "lane": lane.value,
                "documents": batch.documents,
                "traces": batch.traces,
            },
        )
