"""Certificates, and a proxy that ends TLS: the servers out of wheels are built without it."""

import select
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from socketserver import BaseRequestHandler, ThreadingTCPServer
from struct import unpack
from typing import Any
from urllib.parse import parse_qs, urlsplit

import trustme

# What a client of PostgreSQL asks before it says who it is (its manual, "Message Formats").
_SSL_REQUEST, _GSS_REQUEST = 80877103, 80877104


class Proxy(ThreadingTCPServer):
    """A port of 127.0.0.1: takes TLS there, and passes on to a server what was in it."""

    daemon_threads, request_queue_size = True, 128

    def __init__(
        self, certificate: trustme.LeafCert, server: Callable[[], socket.socket], *, asked: bool
    ) -> None:
        """`asked`: clients ask whether there is TLS, as those of PostgreSQL do."""
        super().__init__(("127.0.0.1", 0), _Passing)
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        certificate.configure_cert(self.context)
        self.server, self.asked = server, asked
        self.port = int(self.server_address[1])


class _Passing(BaseRequestHandler):
    server: Proxy

    def handle(self) -> None:
        plain: socket.socket = self.request
        try:
            if self.server.asked:
                _answer(plain)
            with (
                self.server.context.wrap_socket(plain, server_side=True) as client,
                self.server.server() as behind,
            ):
                _pass_on(client, behind)
        except OSError:  # a client that does not trust us, or is gone
            return


def _answer(client: socket.socket) -> None:
    while (asked := unpack("!II", client.recv(8, socket.MSG_WAITALL))[1]) == _GSS_REQUEST:
        client.sendall(b"N")
    assert asked == _SSL_REQUEST
    client.sendall(b"S")


def _pass_on(client: ssl.SSLSocket, server: socket.socket) -> None:
    ends: dict[Any, Any] = {client: server, server: client}
    while True:
        for end in [client] if client.pending() else select.select([client, server], [], [])[0]:
            data = end.recv(1 << 16)
            if not data:
                return
            ends[end].sendall(data)


@contextmanager
def proxied(certificate: trustme.LeafCert, url: str) -> Iterator[int]:
    """Have the server of a URL answer with TLS on a port; give that port."""
    with Proxy(certificate, lambda: _connected(url), asked=url.startswith("postgresql")) as proxy:
        threading.Thread(target=proxy.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        try:
            yield proxy.port
        finally:
            proxy.shutdown()


def _connected(url: str) -> socket.socket:
    parts = urlsplit(url)
    if parts.hostname:
        return socket.create_connection((parts.hostname, parts.port))
    opened = socket.socket(socket.AF_UNIX)
    opened.connect(f"{parse_qs(parts.query)['host'][0]}/.s.PGSQL.5432")
    return opened
