"""Our side of a comparison: ready rows into the open segment, and another process that seals beside."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from multiprocessing.synchronize import Event
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from benchmarks.beside import context
from benchmarks.ready import BATCH_ROWS, Clustered, ReadyWriter, batch_vectors
from benchmarks.stack import Stack
from worker.db import segments
from worker.db.engine import clock, transaction
from worker.db.migrate import migrate
from worker.maintenance.run import run_chore
from worker.resources import Resources
from worker.settings import Settings, read_settings
from worker.types import SegmentState

TENANT = "acme"
LOOK_SECONDS = 0.1
# What the stack is started with for ready rows: unlike its own bound, the default one holds writers back.
READY = {"EMBEDDING_PROVIDER": "none", "EMBEDDING_DIMENSION": "1536", "MAX_UNSEALED_ROWS": ""}
UNBOUNDED = 100_000_000

Batches = list[NDArray[np.float32]]


@contextmanager
def empty_database(stack: Stack, name: str) -> Iterator[str]:
    """Make a database on the stack's server, and drop it in the end; gives its address."""
    stack.ask(f"CREATE DATABASE {name}")
    try:
        yield stack.settings.database_url.get_secret_value().replace("/ingest?", f"/{name}?")
    finally:
        stack.ask(f"DROP DATABASE {name} WITH (FORCE)")
        stack.ask("CHECKPOINT")  # what is left to be written is not the next one's


@contextmanager
def own_database(stack: Stack, name: str, **settings: Any) -> Iterator[Resources]:
    """Make a database of our schema for ready vectors."""
    with empty_database(stack, name) as url:
        resources = Resources(ready_settings(database_url=url, **settings))
        migrate(resources.settings)
        try:
            yield resources
        finally:
            resources.close()


def ready_settings(**settings: Any) -> Settings:
    """Give the settings for ready vectors, the defaults where nothing is said."""
    chosen: dict[str, Any] = {"embedding_provider": "none", "max_unsealed_rows": None, **settings}
    return read_settings(**chosen)


def drawn(dimension: int, name: str, rows: int, done: int = 0) -> Batches:
    """Draw the vectors of the batches that so many rows need, after those of `done` rows."""
    vectors = Clustered(dimension)
    numbers = range(done // BATCH_ROWS + 1, batches_of(done + rows) + 1)
    return [batch_vectors(vectors, name, number) for number in numbers]


def batches_of(rows: int) -> int:
    """Give how many batches hold so many rows; one at least."""
    return max(1, -(-rows // BATCH_ROWS))


def burst(writer: ReadyWriter, batches: Batches) -> float:
    """Write batches one after the other, from submission to commit; gives the seconds."""
    begun = time.perf_counter()
    for vectors in batches:
        writer.write(vectors)
    return time.perf_counter() - begun


class Sealer:
    """The process that seals what is full, as the schedule does in service, and in the end the rest, too."""

    def __init__(self, process: Any, rest: Event) -> None:
        self._process, self._rest = process, rest

    def seal_the_rest(self) -> None:
        """Have everything written sealed, also what does not fill a segment, and wait for it."""
        self._rest.set()
        while self._rest.is_set():
            if not self._process.is_alive():
                raise RuntimeError("the process that seals has ended")
            time.sleep(LOOK_SECONDS / 10)


@contextmanager
def sealing(settings: Settings) -> Iterator[Sealer]:
    """Seal in another process during the block."""
    ready, rest, over = context().Event(), context().Event(), context().Event()
    process = context().Process(target=_seal, args=(settings, ready, rest, over))
    process.start()
    try:
        if not ready.wait(60):
            raise RuntimeError("the process that seals did not start")
        yield Sealer(process, rest)
    finally:
        over.set()
        process.join()
    if process.exitcode:
        raise RuntimeError("the process that seals failed")


def _seal(settings: Settings, ready: Event, rest: Event, over: Event) -> None:
    resources = Resources(settings)
    ready.set()
    while not over.wait(LOOK_SECONDS):
        if rest.is_set():
            seal_everything(resources)
            rest.clear()
        else:
            run_chore(resources, "seal")
    resources.close()


def seal_everything(resources: Resources) -> None:
    """Have everything written sealed, also what does not fill a segment, by this process."""
    run_chore(resources, "seal")
    _close_the_open(resources)
    run_chore(resources, "seal")


def _close_the_open(resources: Resources) -> None:
    run_chore(resources, "spares")
    with transaction(resources.engine) as connection:
        if segments.fill(connection, 1).rows:
            segments.open_next(connection)


def sustained(writer: ReadyWriter, batches: Batches, sealer: Sealer) -> float:
    """Write, which waits while too much is unsealed, until all are sealed; gives the seconds."""
    begun = time.perf_counter()
    burst(writer, batches)
    sealer.seal_the_rest()
    return time.perf_counter() - begun


def compact(resources: Resources, seconds: float) -> str:
    """Merge, for so long at most; says what was rewritten, and what it took."""
    begun = resources.transact(clock)
    limit = time.perf_counter() + seconds
    try:
        run_chore(resources, "compact", stopping=lambda: time.perf_counter() > limit)
    except DBAPIError:  # its statement was cancelled
        stopped = ", and was stopped there"
    else:
        stopped = ""
    rows, taken = _merged_since(resources, begun)
    return f"{rows:,} rows rewritten in {taken:.0f} s{stopped}"


def _merged_since(resources: Resources, begun: datetime) -> tuple[int, float]:
    """Give the rows of the segments that merging made, and the seconds until it had made the last."""
    with transaction(resources.engine) as connection:
        found = connection.execute(
            text("""
                SELECT coalesce(sum(sealed_rows), 0),
                       coalesce(extract(epoch FROM max(updated_at) - :begun), 0)
                FROM segments WHERE state = 'sealed' AND updated_at > :begun"""),
            {"begun": begun},
        ).one()
    return int(found[0]), float(found[1])


def sealed_leaves(resources: Resources) -> Sequence[str]:
    """Name the leaves that have their index."""
    with transaction(resources.engine) as connection:
        return [sealed.leaf for sealed in segments.in_state(connection, SegmentState.SEALED)]
