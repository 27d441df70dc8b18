"""A broker that refuses what a worker asks of it is a broker that is lost: who uses it tries again."""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from kombu.asynchronous import Hub
from kombu.connection import Connection
from kombu.entity import Exchange
from kombu.entity import Queue as BrokerQueue
from redis.exceptions import ConnectionError as BrokerConnectionError
from tenacity import Retrying, retry_if_result, stop_after_delay, wait_fixed

from tests.disk import disk_refused
from worker import broker, search, transport
from worker.errors import BrokerUnavailableError, NoAnswerError
from worker.settings import Settings
from worker.types import Queue


@pytest.fixture
def client(settings: Settings) -> Iterator[Any]:
    with broker.connect(settings) as client:
        yield client


@pytest.fixture
def queue(settings: Settings) -> Iterator[Any]:
    transport.install()
    connection: Any = Connection(settings.broker_url.get_secret_value())  # type: ignore[no-untyped-call] # kombu's
    with connection, connection.SimpleQueue("refused") as queue:
        yield queue


def test_who_connects_while_the_memory_is_full_leaves_no_connection(client: Any, queue: Any) -> None:
    connection = queue.channel.connection.client.clone()
    before = {one["id"] for one in client.client_list()}
    client.config_set("maxmemory", 1)
    try:
        with pytest.raises(BrokerConnectionError, match="takes no writes"):
            connection.transport.register_with_event_loop(connection.connection, Hub())  # type: ignore[no-untyped-call] # kombu's
    finally:
        client.config_set("maxmemory", 0)
    assert {one["id"] for one in client.client_list()} <= before


@pytest.mark.parametrize("done", ["ack", "reject"])
def test_a_message_that_is_done_while_the_disk_is_full(client: Any, queue: Any, done: str) -> None:
    queue.put([[], {}, {}], headers={"task": "none", "id": "x"})
    queue.channel.basic_qos(0, 1, False)
    message = queue.get()
    with disk_refused(client), pytest.raises(BrokerConnectionError, match=r"takes no writes: .*MISCONF"):
        getattr(message, done)()
    assert queue.channel.qos.can_consume_max_estimate() == 1, "its place is free for another"


def test_a_link_that_is_looked_at_while_the_disk_is_full(client: Any, queue: Any) -> None:
    told = BrokerQueue("told", Exchange("told", "fanout"))  # type: ignore[no-untyped-call] # kombu's
    with queue.channel.connection.client.clone() as connection:
        channel = connection.channel()  # that waits for no message, as one does whose slots are all busy
        with connection.Consumer(told, channel=channel, callbacks=[print]), disk_refused(client):
            channel.connection.cycle.on_poll_start()
            channel.subclient.ping()
            with pytest.raises(BrokerConnectionError, match="MISCONF"):
                connection.drain_events(timeout=30)


def test_who_connects_while_the_disk_is_full(client: Any, queue: Any) -> None:
    connection = queue.channel.connection.client.clone()
    with disk_refused(client), connection, pytest.raises(BrokerConnectionError, match="MISCONF"):
        connection.channel()


def test_a_wait_that_the_server_ends_as_one_does_that_becomes_a_replica(client: Any, queue: Any) -> None:
    soon = Retrying(
        stop=stop_after_delay(30), wait=wait_fixed(0.05), retry=retry_if_result(lambda it: not it)
    )
    with ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(queue.get, timeout=30)
        (waiter,) = soon(lambda: [one["id"] for one in client.client_list() if one["cmd"] == "brpop"])
        soon(lambda: client.client_unblock(waiter, error=True))  # between two waits it hits nobody
        with pytest.raises(BrokerConnectionError, match="UNBLOCKED"):
            waiting.result(30)


def test_who_searches_while_the_disk_or_the_memory_is_full_is_told_in_a_line(client: Any) -> None:
    with disk_refused(client), pytest.raises(BrokerUnavailableError, match="MISCONF") as refused:
        search("text")
    assert "its log says why" in refused.value.hint
    client.config_set("maxmemory", 1)
    try:
        with pytest.raises(BrokerUnavailableError, match="maxmemory"):
            search("text")
    finally:
        client.config_set("maxmemory", 0)


@pytest.mark.filterwarnings("ignore:Call to deprecated setex")  # Celery's
def test_a_search_that_its_worker_takes_for_too_old_has_no_answer(client: Any) -> None:
    def revoke() -> None:
        _, message = client.brpop([Queue.SEARCH.value], timeout=30)
        from worker.app import app  # once there are settings

        app.backend.mark_as_revoked(json.loads(message)["headers"]["id"], "expired")

    with ThreadPoolExecutor(1) as threads:
        revoked = threads.submit(revoke)
        with pytest.raises(NoAnswerError, match="no search worker answered"):
            search("text")
        revoked.result()
