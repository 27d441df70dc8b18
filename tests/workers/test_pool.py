"""The pool of a worker whose process ends as the broker is lost, or as the worker starts."""

import os
import select
import signal
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

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


@pytest.fixture
def starting() -> Iterator[Callable[..., AsynPool]]:
    """Make a pool that no loop watches yet, one of whose processes ends."""
    pools = []

    def make(kind: type[AsynPool], *, kill: bool, **options: Any) -> AsynPool:
        pool = kind(processes=2, threads=False, **options)
        pools.append(pool)
        ended = pool._pool[0]
        if kill:
            os.kill(ended.pid, signal.SIGKILL)
        with suppress(ChildProcessError):  # it was waited for already
            os.waitid(os.P_PID, ended.pid, os.WEXITED | os.WNOWAIT)
        return pool

    yield make
    for pool in pools:
        pool.terminate()
        pool.join()


def test_a_process_that_is_killed_as_the_worker_starts_is_replaced(
    hub: Hub, starting: Callable[..., AsynPool]
) -> None:
    pool = starting(Pool, kill=True)
    before = [process.pid for process in pool._pool]
    pool.flush()  # the broker is lost before the worker takes work
    pool.register_with_event_loop(hub)
    assert pool.did_start_ok()
    after = {process.pid for process in pool._pool if process.is_alive()}
    assert len(after) == 2
    assert before[1] in after
    assert before[0] not in after


def test_a_process_that_gives_up_as_the_worker_starts_is_told_of(
    hub: Hub, starting: Callable[..., AsynPool]
) -> None:
    pool = starting(Pool, kill=False, initializer=os._exit, initargs=(3,))
    pool.register_with_event_loop(hub)
    assert not pool.did_start_ok()


def test_celerys_own_pool_needs_these_mends(starting: Callable[..., AsynPool]) -> None:
    with pytest.raises(StopIteration):
        starting(AsynPool, kill=True).flush()
    assert not starting(AsynPool, kill=True).did_start_ok()
