"""A worker whose link to the broker breaks without a word, with real processes."""

import asyncio
import os
from collections.abc import Callable

from benchmarks.chaos.proxy import Proxy
from tests.workers.conftest import StartWorker, Until
from worker import Document, submit
from worker.embedded import RunningValkey
from worker.maintenance.run import run_chore
from worker.resources import Resources


def test_a_worker_whose_broker_is_half_open_takes_up_work_again_by_itself(
    start: StartWorker,
    until: Until,
    valkey: RunningValkey,
    resources: Resources,
    counts: Callable[[], dict[str, int]],
) -> None:
    proxy = Proxy(lambda: asyncio.open_connection("127.0.0.1", valkey.port))
    by_proxy = os.environ["BROKER_URL"].replace(f":{valkey.port}/", f":{proxy.port}/")
    assert by_proxy != os.environ["BROKER_URL"]
    start("ingest", module="tests.workers.hasty", BROKER_URL=by_proxy)
    submit([Document.text("before", source_path="1.txt")])
    until(lambda: counts() == {"completed": 1})
    proxy.half_open()
    submit([Document.text("after", source_path="2.txt")])
    # the server may give the message to the connection that is lost, from which nobody takes it
    until(lambda: run_chore(resources, "dispatch") and counts() == {"completed": 2})
