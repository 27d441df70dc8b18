"""A TCP proxy before a server: it can cut every connection, or swallow what both sides say."""

import asyncio
import socket
import struct
import threading
from collections.abc import Awaitable, Callable
from contextlib import suppress

Stream = tuple[asyncio.StreamReader, asyncio.StreamWriter]
_RESET = struct.pack("ii", 1, 0)  # SO_LINGER on, of no time: a close sends RST
_BYTES = 1 << 16


class Proxy:
    """Listens on a port of this machine, in a thread of its own, until the process ends."""

    def __init__(self, connect: Callable[[], Awaitable[Stream]]) -> None:
        self._connect = connect
        self._writers: set[asyncio.StreamWriter] = set()
        self._swallows = False
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, name="proxy", daemon=True).start()
        self.port = asyncio.run_coroutine_threadsafe(self._listen(), self._loop).result()

    def cut(self) -> None:
        """Reset every connection, on both sides."""
        asyncio.run_coroutine_threadsafe(self._reset_all(), self._loop).result()

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
        await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        for pump in pumps:
            pump.cancel()

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
