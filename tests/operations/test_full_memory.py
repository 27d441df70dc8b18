"""A Redis server whose memory is full: workers wait for it, and go on."""

import redis

from tests.operations.stack import Stack, until
from tests.operations.test_runbooks import session


def test_workers_outlive_a_broker_that_takes_no_writes(stack: Stack) -> None:
    stack.whole("ingest", "maintenance", "beat")
    client = redis.Redis.from_url(stack.valkey.url)
    worker = stack.processes["ingest"]
    try:
        with session(stack, "SELECT 1 FROM segments WHERE state = 'open' FOR UPDATE"):
            stack.write("full", 40)
            until(lambda: client.llen("ingest") > 0)
            client.config_set("maxmemory", 1)
        until(lambda: worker.poll() is not None or "the broker takes no writes" in stack.log("ingest"))
        assert worker.poll() is None, stack.log("ingest")
    finally:
        client.config_set("maxmemory", 0)
    until(lambda: stack.counts("full") == {"completed": 40})
    assert worker.poll() is None
    client.close()
