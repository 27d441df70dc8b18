"""The proxy of the chaos run: what is lost stays lost, without a word, and new connections pass."""

import asyncio
import socket
from collections.abc import Iterator

import pytest

from benchmarks.chaos.proxy import Proxy

_NOTHING_SECONDS = 0.2


@pytest.fixture
def proxy() -> Iterator[Proxy]:
    """Before a server that says what it hears."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)
        proxy = Proxy(lambda: asyncio.open_connection(*server.getsockname()))

        async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            while said := await reader.read(100):
                writer.write(said)
            writer.close()

        loop = proxy._loop
        asyncio.run_coroutine_threadsafe(asyncio.start_server(echo, sock=server.dup()), loop).result()
        yield proxy


def connected(proxy: Proxy) -> socket.socket:
    client = socket.create_connection(("127.0.0.1", proxy.port), timeout=10)
    client.sendall(b"a")
    assert client.recv(1) == b"a"
    return client


def test_a_lost_connection_is_neither_answered_nor_reset_and_its_client_finds_out_by_its_own_limit(
    proxy: Proxy,
) -> None:
    lost, waiting = connected(proxy), connected(proxy)
    proxy.half_open()
    with connected(proxy):
        proxy.cut()
        proxy.heal()
    waiting.settimeout(_NOTHING_SECONDS)
    with pytest.raises(TimeoutError, match="timed out"):
        waiting.recv(1)
    # fires only where nothing is acknowledged
    lost.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 500)
    lost.sendall(b"b")
    with pytest.raises(TimeoutError, match="Connection timed out"):
        lost.recv(1)
    lost.close()
    waiting.close()
    with connected(proxy):
        pass


def test_a_cut_connection_is_reset(proxy: Proxy) -> None:
    with connected(proxy) as client:
        proxy.cut()
        with pytest.raises(ConnectionResetError):
            client.recv(1)
