"""A soak tells what rises from what only varies."""

import random

import pytest

from benchmarks.soak.load import SEARCH_MS
from benchmarks.soak.sampling import (
    CONNECTIONS,
    DESCRIPTORS,
    DOCUMENTS,
    MEMORY,
    POSTGRES,
    REDIS_DATA,
    REDIS_KEYS,
    SEARCHES,
    SIZE,
)
from benchmarks.soak.slopes import Blocks, warm_up
from benchmarks.soak.summary import of_slopes

POOL = f"{MEMORY}search pool"
LEVEL = {
    POOL: 100.0, f"{DESCRIPTORS}search pool": 20.0, DESCRIPTORS + POSTGRES: 1_000.0,
    f"{CONNECTIONS}all": 12.0, REDIS_DATA: 2.0, REDIS_KEYS: 4.0, SIZE: 60.0,
    SEARCH_MS: 20.0, DOCUMENTS: 16.0, SEARCHES: 2.0,
}  # fmt: skip
MINUTES = (10, 60, 360)


def broken(
    minutes: int, name: str = POOL, an_hour: float = 0.0, noise: float = 0.02, warm: float = 0.0
) -> set[str]:
    """What a run breaks in which one figure rises by a share of itself an hour, or while it is warming up."""
    chance = random.Random(minutes)
    blocks = Blocks(60 * minutes)
    for at in range(0, round(blocks.total), 5):
        sample = {one: level * (1 + noise * chance.gauss()) for one, level in LEVEL.items()}
        risen = an_hour * at / 3600 + warm * min(at / warm_up(blocks.seconds), 1)
        blocks.add(at, sample | {name: sample[name] * (1 + risen)})
    return {demand.name for demand in of_slopes(blocks.slopes(), blocks.seconds) if not demand.holds}


@pytest.mark.parametrize("minutes", MINUTES)
def test_what_varies_and_what_fills_in_the_warm_up_breaks_nothing(minutes: int) -> None:
    assert not broken(minutes)
    assert not broken(minutes, warm=0.5)


@pytest.mark.parametrize(("minutes", "span"), [(10, "within the run"), (30, "an hour"), (360, "an hour")])
@pytest.mark.parametrize("name", sorted(LEVEL.keys() - {DOCUMENTS, SEARCHES, DESCRIPTORS + POSTGRES}))
def test_what_rises_is_found(minutes: int, span: str, name: str) -> None:
    assert any(demand.endswith(span) for demand in broken(minutes, name, an_hour=0.5))


def test_what_ten_minutes_cannot_tell_half_an_hour_does() -> None:
    assert not broken(10, an_hour=0.2)
    assert broken(30, an_hour=0.2) >= {"memory of a kind, % more an hour"}


@pytest.mark.parametrize("name", [DOCUMENTS, SEARCHES])
def test_what_gets_fewer_is_found(name: str) -> None:
    assert broken(60, name, an_hour=-0.25) >= {f"{name}, % fewer an hour"}


def test_a_leak_that_is_small_an_hour_is_found_in_a_night() -> None:
    assert broken(360, an_hour=0.02) == {"memory of a kind, % more within the run"}


def test_files_that_postgresql_caches_may_rise() -> None:
    assert not broken(60, DESCRIPTORS + POSTGRES, an_hour=1.0)
