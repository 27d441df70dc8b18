"""Any interleaving of what producers, operators, chores and workers do leaves the database true.

CI runs the same few each time. `make test PROFILE=long` looks for others: see CONTRIBUTING.md.
"""

from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path

import pytest
from hypothesis import HealthCheck
from hypothesis import settings as limits
from hypothesis.stateful import run_state_machine_as_test
from pydantic import SecretStr

from tests.integration.interleaving.actors import Order
from tests.integration.interleaving.interleaving import Interleaving
from tests.integration.interleaving.watched import SCOPES, World
from worker import lease, provider
from worker.db.engine import driver_url
from worker.resources import Resources, close_resources, resources
from worker.settings import Settings, load_settings
from worker.types import Lane

_DAY = 86_400


@pytest.fixture
def environment() -> dict[str, str]:
    """Small batches of small documents; no time passes by itself, and any write may fill a segment."""
    return {
        "LEASE_SECONDS": str(_DAY),
        "HEARTBEAT_SECONDS": str(_DAY // 4),
        "RETRY_BASE_SECONDS": str(_DAY),
        "RETRY_MAX_SECONDS": str(_DAY),
        "MAX_ATTEMPTS": "2",
        "BATCH_DOCUMENTS": "3",
        "CHUNK_SIZE": "50",
        "EMBEDDING_BATCH_SIZE": "2",
        "SEGMENT_ROWS": "6",
        "MAX_UNSEALED_ROWS": "100000",
    }


@pytest.fixture
def world(
    settings: Settings,
    new_database: Callable[[str | None], str],
    administrate: Callable[[str], None],
    template: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[World]:
    """A copy of the template for each run: an index that a run has built is none of the next one's."""
    monkeypatch.setattr(lease, "_TELL_SECONDS", _DAY)  # a worker stands for as long as the others take
    monkeypatch.setattr(provider, "backoff", lambda *_: 0.0)  # and for as long as the model is away
    numbers = count()
    made: list[str] = []

    def drop() -> None:
        close_resources()
        while made:
            administrate(f"DROP DATABASE {driver_url(SecretStr(made.pop())).database} WITH (FORCE)")

    def make() -> tuple[Resources, Path]:
        drop()
        made.append(new_database(template))
        monkeypatch.setenv("DATABASE_URL", made[0])
        load_settings.cache_clear()
        folder = tmp_path / str(next(numbers))
        folder.mkdir()
        return resources(), folder

    yield make
    drop()


@pytest.fixture
def machine(world: World) -> type[Interleaving]:
    return type("Run", (Interleaving,), {"world": staticmethod(world)})


def test_who_waits_for_a_model_that_is_away_is_stopped_or_goes_on(machine: type[Interleaving]) -> None:
    run = machine()
    run.submit(SCOPES[0], "a", "abc", Lane.BULK, False)
    run.the_provider(away=True)
    assert not run.model.away, "nobody is there to meet it"
    for order, ends in ((Order.STOP, ("pending", 0)), (Order.END, ("completed", 0))):
        run.time_passes()
        run.claim(0)
        run.the_provider(away=True)
        run.finish(0)
        assert len(run.workers) == 1, "it stands"
        run.the_provider(away=order is Order.STOP)
        run.go_on(0, order)
        assert [(doc.status, doc.attempts) for doc in run.state.live()] == [ends]
    run.teardown()


@pytest.mark.timeout(3600)  # of the long profile
def test_any_interleaving_leaves_the_database_true(machine: type[Interleaving]) -> None:
    asked = limits.default
    assert asked is not None
    run_state_machine_as_test(
        machine,
        settings=limits(
            asked,
            max_examples=asked.max_examples // 8,
            stateful_step_count=2 * asked.stateful_step_count,  # half of them find nothing to do
            suppress_health_check=list(HealthCheck),
        ),
    )
