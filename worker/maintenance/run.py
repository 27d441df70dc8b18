"""Run a chore: one at a time over all machines, recorded in `maintenance_runs`."""

import logging
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from contextvars import copy_context
from datetime import timedelta
from functools import partial
from threading import Event
from typing import Any

from sqlalchemy import Connection, text
from sqlalchemy.exc import SQLAlchemyError

from worker import metrics
from worker.db import operations
from worker.db.engine import clock, describe, single_connection_engine
from worker.logs import bound_contextvars
from worker.maintenance import (
    backfill,
    backlog,
    compact,
    indexes,
    purge,
    recall,
    reconcile,
    reindex,
    rescue,
    seal,
    spares,
    vacuum,
)
from worker.maintenance.turn import Chore, Turn
from worker.resources import Resources
from worker.scheduling import OFF, gaps
from worker.settings import Settings

log = logging.getLogger(__name__)

_ATTENTION_SECONDS = 0.5

CHORES: dict[str, Chore] = {
    "dispatch": backlog.run,
    "rescue": rescue.run,
    "vacuum": vacuum.run,
    "indexes": indexes.run,
    "reindex": reindex.run,
    "spares": spares.run,
    "seal": seal.run,
    "compact": compact.run,
    "recall": recall.run,
    "purge": purge.run,
    "backfill": backfill.run,
    "reconcile": reconcile.run,
}


def run_chore(
    resources: Resources,
    name: str,
    *,
    stopping: Callable[[], bool] = lambda: False,
    scheduled: bool = False,
    dry_run: bool = False,
    work: Chore | None = None,
    recorded: bool = True,
) -> dict[str, Any]:
    """Run one chore under its lock; gives what it found and did, as recorded. `work`: what else than usual.

    A `scheduled` run leaves a chore be that another beat has just had run. A `dry_run` changes nothing and is
    not recorded: it gives what there is to do. Nor is what is not to be `recorded`: a part of the chore, by
    which nobody may judge the whole.

    Once `stopping` says yes, or at Ctrl-C, what the server is doing for it is cancelled: a chore is one
    that its next run goes on with.

    The lock is a session's, on the direct connection that does the work: VACUUM cannot run inside a
    transaction, and a transaction pooler would strand the lock. Raises what the chore raises, after
    recording it.
    """
    engine = single_connection_engine(resources.settings.maintenance_url, f"ingest {name}")
    with (
        bound_contextvars(chore=name),
        engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection,
        _locked(connection, name) as locked,
    ):
        if not locked:
            return {"outcome": "locked"}
        # the interval: nobody builds an index for a client that was killed
        connection.execute(text("SET lock_timeout = '5s'; SET client_connection_check_interval = '5s'"))
        if scheduled and _just_done(connection, name, resources.settings):
            return {"outcome": "just done"}
        heavy = not scheduled or resources.settings.in_window(clock(connection))
        halt = Event()
        turn = Turn(resources, connection, dry_run, heavy, scheduled, halt.is_set)
        chore = partial(work or CHORES[name], turn)
        attended = partial(_attended, chore, connection, stopping, halt)
        if recorded and not dry_run:
            return _recorded(connection, name, attended)
        return {"outcome": "dry run" if dry_run else "done", **attended()}


@contextmanager
def _locked(connection: Connection, name: str) -> Iterator[bool]:
    """Hold the lock of a chore, if it is to be had."""
    try:
        yield operations.lock_chore(connection, name)
    finally:
        # else the server lets go when it notices that we are gone, which may be after the next run began
        with suppress(SQLAlchemyError):  # a session that is lost has let go
            connection.execute(text("SELECT pg_advisory_unlock_all()"))


def _recorded(connection: Connection, name: str, work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    operations.close_dead_runs(connection, name)
    run_id = operations.open_run(connection, name)
    begun = time.monotonic()
    try:
        with metrics.chore_seconds.labels(name).time():
            details = work()
    except BaseException as error:
        metrics.chore_runs.labels(name, "failed").inc()
        _record_failure(connection, run_id, error)
        raise
    metrics.chore_runs.labels(name, "done").inc()
    operations.close_run(connection, run_id, "done", details)
    log.info("chore.done", extra={"ms": round((time.monotonic() - begun) * 1000), "details": details})
    return {"outcome": "done", **details}


def _just_done(connection: Connection, name: str, settings: Settings) -> bool:
    """Tell whether a run began within half the shortest gap: then it is a second beat's message."""
    timing = settings.timing(name)
    if timing == OFF:  # sent before it was turned off
        return False
    now = clock(connection)
    return operations.ran_since(connection, name, now - timedelta(seconds=gaps(timing).shortest / 2))


def _attended(
    work: Callable[[], dict[str, Any]], connection: Connection, stopping: Callable[[], bool], halt: Event
) -> dict[str, Any]:
    """Do the work in a thread: while the driver waits for the server, its own thread hears no signal."""
    driver: Any = connection.connection.driver_connection
    interrupted: BaseException | None = None
    with ThreadPoolExecutor(1, thread_name_prefix="chore") as pool:
        doing = pool.submit(copy_context().run, work)
        while not doing.done():
            try:
                wait([doing], timeout=_ATTENTION_SECONDS)
            except BaseException as signal:  # noqa: BLE001 -- raised again once the server has let go
                interrupted = signal
            if interrupted or stopping():
                halt.set()
                driver.cancel()
    if interrupted:
        raise interrupted
    return doing.result()


def _record_failure(connection: Connection, run_id: Any, error: BaseException) -> None:
    reason = describe(error) if isinstance(error, Exception) else "interrupted"
    log.error("chore.failed", extra={"reason": reason})
    try:
        operations.close_run(connection, run_id, "failed", {}, reason)
    except SQLAlchemyError:  # the connection is what failed: the next run closes this one's record
        log.warning("chore.unrecorded", extra={"reason": describe(error)})
