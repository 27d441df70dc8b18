"""compact: sealed segments of one size are merged into a larger one, and worn ones are built anew.

Cut short anywhere, a run leaves its half-made copy unseen: the next empties it and begins again.
"""

import logging
from functools import partial
from typing import Any

from sqlalchemy import Connection
from tenacity import Retrying, retry_if_result, stop_after_delay, wait_fixed

from worker.db import builds, merges, postings, segments
from worker.db.engine import single_connection_engine, transaction
from worker.db.leaves import postings_name
from worker.db.segments import Segment
from worker.maintenance import spares
from worker.maintenance.turn import Turn
from worker.patience import BRIEF_SECONDS, briefly
from worker.resources import Resources
from worker.settings import Settings
from worker.steps.tiers import Size, choose, is_worn
from worker.types import SegmentState

log = logging.getLogger(__name__)

_POLL_SECONDS = 0.1
# A search walks each: by now that costs it more than the core that merging takes from the builds.
_MANY = 12


def run(turn: Turn) -> dict[str, Any]:
    """Merge until nothing is to be merged; gives the leaves that were, the rows copied, the leaves freed."""
    resources, connection, settings = turn.resources, turn.connection, turn.settings
    if turn.dry_run:
        emptied = segments.in_state(connection, SegmentState.EMPTIED)
        return {
            "to_merge": [source.leaf for source in _next(connection, settings)],
            "to_free": [leaf.leaf for leaf in emptied],
        }
    builds.prepare(connection, settings)
    _give_up_copies(connection)
    merged: list[str] = []
    freed = _recycled(turn)
    copied = 0
    while sources := _next(connection, settings):
        rows = _merge(resources, connection, sources)
        if rows is None:
            break
        copied += rows
        merged += [source.leaf for source in sources]
        freed += _recycled(turn)
    return {"merged": merged, "rows_copied": copied, "freed": freed}


def _give_up_copies(connection: Connection) -> None:
    for left in segments.in_state(connection, SegmentState.MERGING):
        segments.advance(connection, left.segment, SegmentState.EMPTIED)


def _next(connection: Connection, settings: Settings) -> list[Segment]:
    """Choose what to merge; while full segments wait for their first index, only where there are many."""
    sealed = segments.in_state(connection, SegmentState.SEALED)
    if len(sealed) < _MANY and segments.in_state(connection, SegmentState.SEALING):
        return []
    chosen = choose([_size(connection, source) for source in sealed], settings.max_segment_rows)
    return [source for source in sealed if source.segment in chosen]


def _size(connection: Connection, sealed: Segment) -> Size:
    """Measure a segment; where the server says that much of it is gone, which a crash makes it say, count."""
    size = Size(sealed.segment, *segments.sealed_size(connection, sealed))
    if is_worn(size):
        size = size._replace(live=segments.counted(connection, sealed.leaf))
        builds.analyze(connection, sealed.leaf)
    return size


def _merge(resources: Resources, connection: Connection, sources: list[Segment]) -> int | None:
    """Merge sealed leaves into a spare one; gives the rows copied, None where it cannot be done now."""
    target = segments.take_spare(connection, SegmentState.MERGING)
    if target is None:
        log.warning("spare.missing", extra={"then": "nothing is merged until the next run"})
        return None
    copied = merges.copy(connection, sources, target)
    if left := _await_deleters(connection, sources):
        log.warning("merge.blocked", extra={"transactions": sorted(left)})
        _give_up_copies(connection)
        return None
    merges.remove_deleted(connection, sources, target)
    with transaction(resources.engine, builds.WAIT_SECONDS) as copying:
        postings.merge(copying, sources, target)
    builds.vacuum(connection, postings_name(target.segment))
    builds.complete(connection, target.leaf, resources.settings)
    builds.analyze(connection, target.leaf)
    with transaction(resources.engine, lock_seconds=BRIEF_SECONDS) as showing:
        merges.show(showing, sources, target, segments.counted(showing, target.leaf))
    merged = [source.segment for source in sources]
    log.info("segments.merged", extra={"segments": merged, "segment": target.segment, "rows": copied})
    return copied


def _await_deleters(connection: Connection, sources: list[Segment]) -> set[str]:
    """Wait for the transactions that may have deleted past the copy; gives those that do not end."""
    left = merges.deleters(connection, sources)
    patience = Retrying(
        retry=retry_if_result(bool),
        wait=wait_fixed(_POLL_SECONDS),
        stop=stop_after_delay(builds.WAIT_SECONDS),
        retry_error_callback=lambda last: last.outcome and last.outcome.result(),
    )
    found: set[str] = patience(lambda: left & merges.deleters(connection, sources))
    return found


def _recycled(turn: Turn) -> list[str]:
    """Make spare leaves of emptied ones, and new ones where those are too few; gives the emptied ones.

    Who still looks at one is not waited for.
    """
    engine = single_connection_engine(turn.settings.maintenance_url, "ingest compact")
    emptied = segments.in_state(turn.connection, SegmentState.EMPTIED)
    forgotten = (leaf for leaf in emptied if merges.is_forgotten(turn.connection, leaf))
    freed = [leaf.leaf for leaf in forgotten if briefly(engine, partial(merges.clear, emptied=leaf))]
    spares.run(turn)
    return freed
