"""A worker, and a producer, whose link to the broker breaks without a word; with real processes."""

import asyncio
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from itertools import islice

import pytest

from benchmarks.chaos.proxy import Proxy
from tests.workers.conftest import StartWorker, Until
from worker import Document, submit
from worker.embedded import RunningValkey
from worker.maintenance.run import run_chore
from worker.resources import Resources


@pytest.fixture
def proxy(valkey: RunningValkey) -> Proxy:
    """Between a process that is given `by_proxy` and the broker."""
    return Proxy(lambda: asyncio.open_connection("127.0.0.1", valkey.port))


@pytest.fixture
def by_proxy(proxy: Proxy, valkey: RunningValkey) -> str:
    url = os.environ["BROKER_URL"].replace(f":{valkey.port}/", f":{proxy.port}/")
    assert url != os.environ["BROKER_URL"]
    return url


@pytest.fixture
def ask(by_proxy: str) -> Iterator[Callable[[], str]]:
    """Search in one process, again and again: gives how many hits, or the kind of error."""
    environment = {**os.environ, "BROKER_URL": by_proxy, "SEARCH_TIMEOUT_SECONDS": "5"}
    with subprocess.Popen(
        [sys.executable, "-m", "tests.workers.asking"],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as asker:
        assert asker.stdin
        assert asker.stdout
        told, heard = asker.stdin, asker.stdout

        def once() -> str:
            told.write("ships\n")
            told.flush()
            return heard.readline().strip()

        yield once


def test_a_worker_whose_broker_is_half_open_takes_up_work_again_by_itself(
    start: StartWorker,
    until: Until,
    proxy: Proxy,
    by_proxy: str,
    resources: Resources,
    counts: Callable[[], dict[str, int]],
) -> None:
    start("ingest", module="tests.workers.hasty", BROKER_URL=by_proxy)
    submit([Document.text("before", source_path="1.txt")])
    until(lambda: counts() == {"completed": 1})
    proxy.half_open()
    submit([Document.text("after", source_path="2.txt")])
    # the server may give the message to the connection that is lost, from which nobody takes it
    until(lambda: run_chore(resources, "dispatch") and counts() == {"completed": 2})


def test_a_producer_whose_broker_is_half_open_hears_answers_again(
    start: StartWorker,
    until: Until,
    proxy: Proxy,
    ask: Callable[[], str],
    counts: Callable[[], dict[str, int]],
) -> None:
    start("ingest")
    start("search")
    submit([Document.text("three ships", source_path="1.txt")])
    until(lambda: counts() == {"completed": 1})
    until(lambda: ask() == "1 hits")
    proxy.half_open()
    said = [*islice(iter(ask, "1 hits"), 6)]  # one for each connection that is found lost
    assert said == ["BrokerUnavailableError"] * len(said)
    assert ask() == "1 hits"
