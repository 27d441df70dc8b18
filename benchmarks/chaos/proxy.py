"""A TCP proxy before a server: it can cut every connection, lose it, or swallow what both sides say."""

import asyncio
import ctypes
import socket
import struct
import threading
from collections.abc import Awaitable, Callable
from contextlib import suppress

Stream = tuple[asyncio.StreamReader, asyncio.StreamWriter]
_RESET = struct.pack("ii", 1, 0)  # SO_LINGER on, of no time: a close sends RST
_BYTES = 1 << 16
_SO_ATTACH_FILTER = 26  # linux/socket.h
_DROP = ctypes.create_string_buffer(struct.pack("HBBI", 0x06, 0, 0, 0))  # BPF: return 0, take none of it
_DROP_ALL = struct.pack("@HP", 1, ctypes.addressof(_DROP))
# The server ends a transaction that stays open after 60 s. A client's limits are shorter than the other.
_SERVER_KEEPS_SECONDS, _CLIENT_LOST_SECONDS = 90, 600


class Proxy:
    """Listens on a port of this machine, in a thread of its own, until the process ends."""

    def __init__(self, connect: Callable[[], Awaitable[Stream]]) -> None:
        self._connect = connect
        self._writers: set[asyncio.StreamWriter] = set()
        self._clients: set[asyncio.StreamWriter] = set()
        self._swallows = False
        self._loop = asyncio.new_event_loop()
        self._broken = self._loop.create_future()
        threading.Thread(target=self._loop.run_forever, name="proxy", daemon=True).start()
        self.port = asyncio.run_coroutine_threadsafe(self._listen(), self._loop).result()

    def cut(self) -> None:
        """Reset every connection, on both sides."""
        asyncio.run_coroutine_threadsafe(self._reset_all(), self._loop).result()

    def half_open(self) -> None:
        """Lose every connection there is, as a link that breaks does; new ones pass.

        The kernel drops what a client sends before TCP sees it: nothing is acknowledged, no probe answered,
        nothing reset. The server is told nothing, and its sessions stay for 90 s.
        """
        asyncio.run_coroutine_threadsafe(self._lose_all(), self._loop).result()

    def swallow(self) -> None:
        """Let nothing through from now on; connections are taken, and never answered."""
        self._swallows = True

    def heal(self) -> None:
        """Let everything through again; connections that lost something are reset."""
        self._swallows = False
        self.cut()

    async def _listen(self) -> int:
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        port: int = server.sockets[0].getsockname()[1]
        return port

    async def _reset_all(self) -> None:
        for writer in list(self._writers):
            _reset(writer)

    async def _lose_all(self) -> None:
        for writer in self._clients:
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, _DROP_ALL)
        self._broken.set_result(None)
        self._broken = self._loop.create_future()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        try:
            if self._swallows:
                await self._pump(reader, None)
                return
            try:
                upstream, sink = await self._connect()
            except OSError:
                return
            self._writers.add(sink)
            try:
                await self._both_ways((reader, writer), (upstream, sink))
            finally:
                self._writers.discard(sink)
                _reset(sink)
        finally:
            self._writers.discard(writer)
            _reset(writer)

    async def _both_ways(self, near: Stream, far: Stream) -> None:
        pumps = [
            asyncio.ensure_future(self._pump(near[0], far[1])),
            asyncio.ensure_future(self._pump(far[0], near[1])),
        ]
        broken = self._broken
        self._clients.add(near[1])
        await asyncio.wait([*pumps, broken], return_when=asyncio.FIRST_COMPLETED)
        self._clients.discard(near[1])
        for pump in pumps:
            pump.cancel()
        if broken.done():
            await self._keep_lost(near[1], far[1])

    async def _keep_lost(self, near: asyncio.StreamWriter, far: asyncio.StreamWriter) -> None:
        self._writers -= {near, far}
        await asyncio.sleep(_SERVER_KEEPS_SECONDS)
        _reset(far)
        await asyncio.sleep(_CLIENT_LOST_SECONDS)

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter | None) -> None:
        with suppress(OSError):
            while data := await reader.read(_BYTES):
                if writer is not None and not self._swallows:
                    writer.write(data)
                    await writer.drain()


def _reset(writer: asyncio.StreamWriter) -> None:
    peer = writer.get_extra_info("socket")
    with suppress(OSError):
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    writer.transport.abort()
