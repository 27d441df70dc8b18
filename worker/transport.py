"""Kombu's Redis transport, mended where losing the broker ends the worker.

Once a connection has broken, kombu 5.7 closes its channel. An acknowledgement that comes later, and
the putting back of what was not acknowledged, then ask the closed channel for its server's address:
an AttributeError, "Unrecoverable error", and the worker is gone. Said as a connection error, both are
logged and left: the batch is in the database, and its message, delivered again, finds it done.
"""

from typing import Any

from kombu.transport import TRANSPORT_ALIASES, redis
from redis.exceptions import ConnectionError as BrokerConnectionError


class Channel(redis.Channel):
    """A channel that knows when it is closed."""

    def _connparams(self, asynchronous: bool = False) -> Any:
        if self.connection is None or self.connection.client is None:
            raise BrokerConnectionError("the channel to the broker is closed")
        return super()._connparams(asynchronous)  # type: ignore[no-untyped-call] # kombu's


class Transport(redis.Transport):
    """The transport of redis:// and rediss:// URLs, with that channel."""

    Channel = Channel


def install() -> None:
    """Have kombu use this transport for Redis URLs."""
    for scheme in ("redis", "rediss"):
        TRANSPORT_ALIASES[scheme] = f"{__name__}:Transport"
