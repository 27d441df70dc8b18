"""Processes that work beside what is measured: ingestion at what backpressure lets through, and chores."""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.synchronize import Event

from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from benchmarks.beside import context
from benchmarks.ready import BATCH_ROWS, CENTRES, ReadyWriter
from worker.db import segments
from worker.db.engine import transaction
from worker.lifecycle import collect_garbage_rarely
from worker.maintenance.run import run_chore
from worker.resources import Resources
from worker.settings import Settings

Work = Callable[[Settings, Event], None]


@contextmanager
def company(settings: Settings, works: Sequence[Work]) -> Iterator[None]:
    """Do these works in a process each, meanwhile."""
    over = context().Event()
    others = [context().Process(target=work, args=(settings, over)) for work in works]
    for other in others:
        other.start()
    try:
        yield
    finally:
        over.set()
        for other in others:
            other.join()
    if any(other.exitcode for other in others):
        raise RuntimeError("a process that ran beside the searches failed")


def ingest(settings: Settings, over: Event, *, tenant: str, centres: int = CENTRES) -> None:
    """Write ready batches for a tenant whenever there is room."""
    collect_garbage_rarely()
    resources = Resources(settings)
    writer = ReadyWriter(resources, tenant, f"meanwhile {os.getpid()}", centres)
    while not over.is_set():
        if may_write(resources):
            writer.write()
        else:
            over.wait(0.1)
    resources.close()


def seal(settings: Settings, over: Event) -> None:
    """Seal what is full."""
    repeat(settings, over, chore="seal")


def compact(settings: Settings, over: Event) -> None:
    """Merge what is sealed."""
    repeat(settings, over, chore="compact")


def repeat(settings: Settings, over: Event, *, chore: str) -> None:
    """Run a chore again and again, a second after it has ended."""
    resources = Resources(settings)
    while not over.wait(1):
        try:
            run_chore(resources, chore, stopping=over.is_set)
        except DBAPIError:
            if not over.is_set():  # else it was cancelled, and has undone itself
                raise
    resources.close()


def may_write(resources: Resources) -> bool:
    """Tell whether there is room for a batch."""
    with transaction(resources.engine) as connection:
        return segments.has_room(connection, resources.settings, BATCH_ROWS)


def times_sealed(resources: Resources) -> int:
    """Count the times a segment was sealed."""
    return count(
        resources, "SELECT coalesce(sum(jsonb_array_length(details -> 'sealed')), 0) FROM maintenance_runs"
    )


def rows_written(resources: Resources) -> int:
    """Count the rows of all documents."""
    return count(resources, "SELECT coalesce(sum(total_chunks), 0) FROM documents")


def visible_segments(resources: Resources) -> int:
    """Count the segments a search looks into."""
    return count(resources, "SELECT count(*) FROM segments WHERE state IN ('open', 'sealing', 'sealed')")


def count(resources: Resources, statement: str) -> int:
    """Ask for a number."""
    with transaction(resources.engine) as connection:
        return int(connection.execute(text(statement)).scalar_one())
