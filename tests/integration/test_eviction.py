"""A Redis server that throws away keys when its memory is full throws away messages."""

import re

import pytest

from worker import broker
from worker.errors import BrokerUnavailableError
from worker.settings import Settings


@pytest.mark.parametrize("policy", ["allkeys-lru", "volatile-ttl"])
def test_a_broker_that_evicts_is_refused(settings: Settings, policy: str) -> None:
    client = broker.connect(settings)
    client.config_set("maxmemory-policy", policy)
    try:
        with pytest.raises(
            BrokerUnavailableError, match=re.escape(f"evicts keys when its memory is full ({policy})")
        ):
            broker.require_broker(settings)
    finally:
        client.config_set("maxmemory-policy", broker.SAFE_EVICTION)
    broker.require_broker(settings)
