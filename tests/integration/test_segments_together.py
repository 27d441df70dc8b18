"""Everything at once: documents come, change, go and return while segments are sealed and merged."""

import random
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Event

import pytest
from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError

from tests.integration.test_sealing import SMALL_SEGMENTS, document
from worker import delete, restore, submit
from worker.db import segments
from worker.db.engine import is_retryable, single_connection_engine
from worker.dispatch import dispatch
from worker.ingest import ingest_batch
from worker.maintenance.run import run_chore
from worker.resources import Resources
from worker.settings import load_settings

NAMES = [str(number) for number in range(12)]
ROUNDS = 40
MERGED_AT_LEAST = 4  # segments

# Every document that has a chunk set is seen with all of it, and no other with anything.
WRONG = """
    SELECT d.source_path, d.status, e.chunks AS expected, c.chunks, c.texts FROM documents d
    LEFT JOIN (
        SELECT document_id, count(*) AS chunks, count(DISTINCT text) AS texts FROM chunks
        WHERE segment IN ({visible}) GROUP BY document_id) c USING (document_id)
    CROSS JOIN LATERAL (
        SELECT CASE WHEN d.deleted_at IS NULL THEN coalesce(d.total_chunks, 0) ELSE 0 END) e(chunks)
    WHERE coalesce(c.chunks, 0) <> e.chunks OR coalesce(c.texts, 0) <> e.chunks"""
MERGED = """
    SELECT coalesce(sum(jsonb_array_length(details -> 'merged')), 0) FROM maintenance_runs
    WHERE chore = 'compact' AND outcome = 'done'"""


@pytest.fixture
def environment() -> dict[str, str]:
    return {**SMALL_SEGMENTS, "MAX_UNSEALED_ROWS": "100000", "DATABASE_POOL_SIZE": "10"}


def test_a_search_always_sees_every_chunk_once(resources: Resources, connection: Connection) -> None:
    submit([document(name) for name in NAMES])
    done = Event()
    looks = 0
    with ThreadPoolExecutor(4) as pool:
        actors = [pool.submit(act) for act in (_change, _come_and_go)]
        chores = [pool.submit(_repeat, done, _chore(name)) for name in ("seal", "compact")]
        with single_connection_engine(resources.settings.database_url).connect() as looking:
            looking.execution_options(isolation_level="REPEATABLE READ")
            while not any(chore.done() for chore in chores) and (
                not all(actor.done() for actor in actors) or _merged(connection) < MERGED_AT_LEAST
            ):
                visible = segments.in_list(segments.visible(looking))
                wrong = looking.execute(text(WRONG.format(visible=visible))).all()
                looking.rollback()
                if wrong:
                    done.set()
                assert wrong == []
                looks += 1
        done.set()
        for ended in (*actors, *chores):
            ended.result()
    assert looks > ROUNDS
    assert connection.execute(text("SELECT count(*) FROM pg_index WHERE NOT indisvalid")).scalar_one() == 0


def _merged(connection: Connection) -> int:
    return int(connection.execute(text(MERGED)).scalar_one())


def _change() -> None:
    """New documents and edits, of sizes that differ."""
    dice = random.Random(1)
    mine = Resources(load_settings())
    for _ in range(ROUNDS):
        _bravely(lambda: submit([document(dice.choice(NAMES), chunks=dice.randint(1, 30))]))
        _work_off(mine)
    mine.close()


def _work_off(mine: Resources) -> None:
    dispatch(mine)
    with mine.engine.connect() as opened:
        queued = opened.execute(text("SELECT batch_id FROM batches WHERE state = 'queued'")).scalars().all()
    for batch_id in queued:
        ingest_batch(mine, batch_id, "test")


def _come_and_go() -> None:
    dice = random.Random(2)
    for _ in range(2 * ROUNDS):
        act = dice.choice((delete, restore))
        _bravely(lambda act=act: act([dice.choice(NAMES)]))  # type: ignore[misc] # bound now


def _chore(name: str) -> Callable[[], object]:
    mine = Resources(load_settings())
    return lambda: run_chore(mine, name)


def _repeat(done: Event, work: Callable[[], object]) -> None:
    while not done.is_set():
        _bravely(work)


def _bravely(work: Callable[[], object]) -> None:
    """Do it again where the database says that it may succeed: a deadlock, 40001, a lock not had."""
    while True:
        try:
            work()
        except DBAPIError as error:
            if not is_retryable(error):
                raise
        else:
            return
