"""A worn HNSW index: repaired by VACUUM, or built anew first.

One sealed segment of ready vectors is copied, with its indexes, a share of its rows is deleted at random, and
one of two things is done: VACUUM alone, which takes the dead out of the graph; or REINDEX CONCURRENTLY, which
builds a graph of those that live, and VACUUM after it. Compared are CPU seconds, which say least of what
others do meanwhile.
"""

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

from sqlalchemy import Connection, text

from benchmarks.ours import (
    READY,
    TENANT,
    UNBOUNDED,
    burst,
    drawn,
    own_database,
    seal_everything,
    sealed_leaves,
)
from benchmarks.ready import ReadyWriter
from benchmarks.report import Demand, Report, say
from benchmarks.rounds import SMOKE, Watch
from benchmarks.stack import Stack, running_stack
from worker.db.builds import index_name
from worker.db.engine import single_connection_engine
from worker.resources import Resources
from worker.settings import Settings

NAME = "vacuum"
DIMENSIONS = (256, 1536)
ROWS, FEWEST = (5_120, 20_480, 51_200), 2_560
SHARES = (0.01, 0.02, 0.05, 0.1, 0.3)
NEVER_FULL = 10_000_000  # rows
LEAST_SHARE = 0.1  # twice the share from which on the chore builds anew


class Worn(NamedTuple):
    """One leaf of `rows`, `share` of them dead: CPU seconds of either way."""

    dimension: int
    rows: int
    share: float
    vacuum: float
    anew: float


def run(scale: float) -> Report:
    whole = scale >= SMOKE
    cases = itertools.product(DIMENSIONS if whole else DIMENSIONS[:1], ROWS if whole else ROWS[:1])
    shares = SHARES if whole else SHARES[-1:]
    with running_stack(**READY) as stack:
        report = Report(NAME, stack.versions(), stack.shown_settings())
        found = [
            worn
            for dimension, rows in cases
            for worn in _compare(stack, dimension, max(FEWEST, round(rows * min(scale, 1))), shares)
        ]
    columns = ("dimensions", "rows", "dead", "VACUUM, CPU s", "anew, CPU s", "anew / VACUUM")
    report.table("a worn leaf", columns, [_shown(worn) for worn in found])
    worst = max(worn.anew / worn.vacuum for worn in found if worn.share >= LEAST_SHARE)
    report.demands.append(
        Demand(f"anew / VACUUM, {LEAST_SHARE:.0%} dead or more, at worst", 1, worst, at_most=True)
    )
    return report


def _shown(worn: Worn) -> tuple[int | float | str, ...]:
    ratio = worn.anew / worn.vacuum
    seconds = (round(worn.vacuum, 2), round(worn.anew, 2))
    dead = f"{worn.share:.1%}"
    return (worn.dimension, worn.rows, dead, *seconds, round(ratio, 2))


def _compare(stack: Stack, dimension: int, rows: int, shares: tuple[float, ...]) -> Iterator[Worn]:
    settings = {
        "embedding_dimension": dimension,
        "segment_rows": NEVER_FULL,
        "segment_bytes": 1 << 40,
        "max_unsealed_rows": UNBOUNDED,
    }
    with own_database(stack, "whole", **settings) as resources:
        leaf, stored = _sealed(resources, dimension, rows)
        resources.close()  # a database in use is no template
        for share in shares:
            vacuum = _seconds(stack, resources.settings, leaf, share, anew=False)
            anew = _seconds(stack, resources.settings, leaf, share, anew=True)
            say(f"{dimension}-d, {stored:,} rows, {share:.1%} dead: {vacuum:.1f} s, anew {anew:.1f} s")
            yield Worn(dimension, stored, share, vacuum, anew)


def _sealed(resources: Resources, dimension: int, rows: int) -> tuple[str, int]:
    """Write and seal one segment; gives its leaf and its rows."""
    batches = drawn(dimension, NAME, rows)
    burst(ReadyWriter(resources, TENANT, NAME), batches)
    seal_everything(resources)
    [leaf] = sealed_leaves(resources)
    return leaf, sum(map(len, batches))


def _seconds(stack: Stack, settings: Settings, leaf: str, share: float, *, anew: bool) -> float:
    with _copied(stack, settings) as connection:
        connection.execute(text(f"ALTER TABLE {leaf} SET (autovacuum_enabled = off)"))
        chosen = f"DELETE FROM {leaf} WHERE abs(hashtext(chunk_id::text)) % 1000 < :thousandths"
        connection.execute(text(chosen), {"thousandths": round(share * 1000)})
        connection.execute(text("CHECKPOINT"))
        with Watch() as watch:
            if anew:
                connection.execute(text(f"REINDEX INDEX CONCURRENTLY {index_name(leaf)}"))
            connection.execute(text(f"VACUUM {leaf}"))
    return watch.cpu_seconds


@contextmanager
def _copied(stack: Stack, settings: Settings) -> Iterator[Connection]:
    """Connect to a copy of the database, indexes and all."""
    stack.ask("CREATE DATABASE worn TEMPLATE whole STRATEGY file_copy")
    url = settings.database_url.get_secret_value().replace("/whole?", "/worn?")
    engine = single_connection_engine(type(settings.database_url)(url), "benchmark")
    try:
        with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            yield connection
    finally:
        stack.ask("DROP DATABASE worn WITH (FORCE)")
