"""Run a chore: one at a time over all machines, recorded in `maintenance_runs`."""

import hashlib
import logging
from collections.abc import Callable
from typing import Any

from sqlalchemy import Connection, text
from sqlalchemy.exc import SQLAlchemyError

from worker.db import operations
from worker.db.engine import describe, single_connection_engine
from worker.maintenance import backlog, indexes, purge, rescue, spares, vacuum
from worker.resources import Resources

log = logging.getLogger(__name__)

Chore = Callable[[Resources, Connection], dict[str, Any]]

CHORES: dict[str, Chore] = {
    "dispatch": backlog.run,
    "rescue": rescue.run,
    "vacuum": vacuum.run,
    "indexes": indexes.run,
    "spares": spares.run,
    "purge": purge.run,
}


def run_chore(resources: Resources, name: str) -> dict[str, Any]:
    """Run one chore under its lock; gives what it found and did, as recorded.

    The lock is a session's, on the direct connection that does the work: VACUUM cannot run inside a
    transaction, and a transaction pooler would strand the lock. Raises what the chore raises, after
    recording it.
    """
    engine = single_connection_engine(resources.settings.direct_url, f"ingest {name}")
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("SET lock_timeout = '5s'"))
        if not _lock(connection, name):
            return {"outcome": "locked"}
        operations.close_dead_runs(connection, name)
        run_id = operations.open_run(connection, name)
        try:
            details = CHORES[name](resources, connection)
        except Exception as error:
            _record_failure(connection, run_id, error)
            raise
        operations.close_run(connection, run_id, "done", details)
        log.info("chore %s: %s", name, details)
        return {"outcome": "done", **details}


def _lock(connection: Connection, name: str) -> bool:
    key = int.from_bytes(hashlib.sha256(f"ingest chore {name}".encode()).digest()[:8], signed=True)
    return bool(connection.execute(text("SELECT pg_try_advisory_lock(:key)"), {"key": key}).scalar())


def _record_failure(connection: Connection, run_id: Any, error: Exception) -> None:
    try:
        operations.close_run(connection, run_id, "failed", {}, describe(error))
    except SQLAlchemyError:  # the connection is what failed: the next run closes this one's record
        log.warning("chore not recorded", extra={"reason": describe(error)})
