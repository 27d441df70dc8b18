"""The pool of a worker whose process ends as the broker is lost."""

import os
import select
import signal
from collections.abc import Iterator
from contextlib import suppress

import pytest
from celery.concurrency.asynpool import AsynPool
from kombu.asynchronous import Hub

from worker.pool import Pool


@pytest.fixture
def hub() -> Iterator[Hub]:
    hub = Hub()  # type: ignore[no-untyped-call] # kombu's
    yield hub
    hub.close()  # type: ignore[no-untyped-call] # kombu's


@pytest.fixture
def pool(hub: Hub, request: pytest.FixtureRequest) -> Iterator[AsynPool]:
    """A pool that a loop watches, one of whose two processes has ended and is watched no more."""
    pool = request.param(processes=2, threads=False)  # as Celery makes it
    pool.register_with_event_loop(hub)
    ended = pool._pool[0]
    os.kill(ended.pid, signal.SIGKILL)
    assert select.select([ended._sentinel_poll], [], [], 30)[0]
    pool._untrack_child_process(ended, hub)
    yield pool
    pool.terminate()
    pool.join()


@pytest.mark.parametrize("pool", [Pool], indirect=True)
def test_the_broker_is_found_again_before_a_process_that_ended_is_replaced(hub: Hub, pool: Pool) -> None:
    before = [process.pid for process in pool._pool]
    pool.register_with_event_loop(hub)
    with suppress(ChildProcessError):  # it was waited for already
        os.waitid(os.P_PID, before[0], os.WEXITED | os.WNOWAIT)
    pool.maintain_pool()
    after = {process.pid for process in pool._pool if process.is_alive()}
    assert len(after) == 2
    assert before[1] in after


@pytest.mark.parametrize("pool", [AsynPool], indirect=True)
def test_celerys_own_pool_needs_the_mend(hub: Hub, pool: AsynPool) -> None:
    with pytest.raises(ValueError, match="file descriptor is None"):
        pool.register_with_event_loop(hub)
