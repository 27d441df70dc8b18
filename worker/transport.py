"""Kombu's Redis transport, mended where losing the broker, or a message, ends the worker.

Once a connection has broken, kombu 5.7 closes its channel. An acknowledgement that comes later, and
the putting back of what was not acknowledged, then ask the closed channel for its server's address:
an AttributeError, "Unrecoverable error", and the worker is gone. Said as a connection error, both are
logged and left: the batch is in the database, and its message, delivered again, finds it done.

So does a server that takes no writes for a while, as its memory or its disk is full or it became a replica:
to wait for a message is a write, to note one as taken or as done, to say which queue is meant when
connecting, to look for what others have taken and not acknowledged. Its disk full, it refuses even PING.

So does what is no message of Celery's, which another program may have put into a queue of that name: it is
taken out, and dropped.
"""

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from json import JSONDecodeError
from typing import Any

from celery import current_app
from kombu.exceptions import DecodeError
from kombu.transport import TRANSPORT_ALIASES, redis
from kombu.transport.virtual import Message
from redis.exceptions import ConnectionError as BrokerConnectionError
from redis.exceptions import ExecAbortError, OutOfMemoryError, ReadOnlyError, ResponseError

from worker.envelope import is_call, require_task, require_words

log = logging.getLogger(__name__)

# Metadata of documents may be 50 deep; a message holds a few levels beside.
DEEPEST = 100
# What a server says that lets us connect and takes no writes: its memory is full, or it became a replica.
TAKES_NO_WRITES = (OutOfMemoryError, ReadOnlyError)
# And in other words: of all that one transaction holds; of a disk that is full; of a wait that it ends, as it
# became a replica. Redis-py says first which command of a transaction it was.
_REFUSES, _SAYS = (*TAKES_NO_WRITES, ExecAbortError), ("MISCONF", "UNBLOCKED")
_PAUSE_SECONDS = 1
REFUSAL = {"error": f"the request is nested over {DEEPEST} deep", "hint": "a filter needs few levels"}


class NoMessageError(Exception):
    """This has not the form of a message."""


class ShallowMessage(Message):
    """A message that is refused where it is nested too deeply: it would end the worker, and then the next.

    Reading JSON, and pickling it for the process that does the task, each take some of the stack for a level.
    Raises NoMessageError where it is made of what has not the form of a message.
    """

    def __init__(self, payload: Any, channel: Any = None, **options: Any) -> None:
        try:
            super().__init__(payload, channel, **options)  # type: ignore[no-untyped-call] # kombu's
            place = self.delivery_info
            require_words((self.delivery_tag, place["exchange"], place["routing_key"]))
            require_words((self.content_type, self.content_encoding))
            require_task(self.headers)
        except (ValueError, TypeError, LookupError, AttributeError):
            raise NoMessageError from None

    def _decode(self) -> Any:
        try:
            payload = super()._decode()  # type: ignore[no-untyped-call] # kombu's
        except RecursionError:
            payload = None
        if payload is not None and _depth(payload) <= DEEPEST:
            if "task" in self.headers and not is_call(payload):
                self.body = b""  # Celery would put it into the log
                raise DecodeError("a message calls no task")
            return payload
        self._refuse()
        raise DecodeError(f"a message is nested over {DEEPEST} deep")

    def _refuse(self) -> None:
        """Answer who asked; and keep what was asked out of the log, where Celery would put it."""
        self.body = b""
        if self.headers.get("id") and not self.headers.get("ignore_result"):
            current_app.backend.store_result(self.headers["id"], REFUSAL, "SUCCESS")


def _depth(value: Any) -> int:
    """Give how many lists and objects are within one another."""
    depth, level = 0, [value]
    while inner := [one for one in level if isinstance(one, list | dict)]:
        depth += 1
        level = [child for one in inner for child in (one.values() if isinstance(one, dict) else one)]
    return depth


@contextmanager
def _refusals_as_losses(pause: float = _PAUSE_SECONDS) -> Iterator[None]:
    """Say of a server that takes no writes that its connection is lost, after a pause in seconds."""
    try:
        yield
    except ResponseError as error:
        if not (isinstance(error, _REFUSES) or any(words in str(error) for words in _SAYS)):
            raise
        time.sleep(pause)  # it lets us connect: without it we should be back at once
        raise BrokerConnectionError(f"the broker takes no writes: {error}") from None


@contextmanager
def _dropped(forget: Callable[[], object] = lambda: None) -> Iterator[None]:
    """Drop what is no message; `forget` has it not delivered again. The log does not say what it says."""
    try:
        yield
    except (NoMessageError, JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        log.warning("message.dropped", extra={"reason": f"no message of ours: {type(error).__name__}"})
        forget()


class QoS(redis.QoS):
    """What a channel has taken and not acknowledged."""

    def ack(self, tag: Any) -> None:
        """Note a message as done."""
        with self._letting_go(tag):
            super().ack(tag)  # type: ignore[no-untyped-call] # kombu's

    def reject(self, tag: Any, requeue: bool = False) -> None:
        """Put a message back, or away."""
        with self._letting_go(tag):
            super().reject(tag, requeue)  # type: ignore[no-untyped-call] # kombu's

    @contextmanager
    def _letting_go(self, tag: Any) -> Iterator[None]:
        """Free the place of a message, also where the server refuses. Nobody asks again: it comes again."""
        try:
            with _refusals_as_losses(pause=0):
                yield
        finally:
            self._quick_ack(tag)

    def restore_visible(self, *arguments: Any, **options: Any) -> None:
        """Put back what others have taken and not acknowledged for too long."""
        with _refusals_as_losses():
            super().restore_visible(*arguments, **options)  # type: ignore[no-untyped-call] # kombu's

    def restore_by_tag(self, tag: Any, *arguments: Any, **options: Any) -> None:
        """Put back what was taken as `tag`."""
        with _dropped(lambda: self._forget(tag)):
            super().restore_by_tag(tag, *arguments, **options)  # type: ignore[no-untyped-call] # kombu's

    def _forget(self, tag: Any) -> None:
        self._remove_from_indices(tag).execute()  # type: ignore[no-untyped-call] # kombu's


class Channel(redis.Channel):
    """A channel that knows when it is closed."""

    Message, QoS = ShallowMessage, QoS

    def __init__(self, *arguments: Any, **options: Any) -> None:
        with _refusals_as_losses():
            super().__init__(*arguments, **options)  # type: ignore[no-untyped-call] # kombu's

    def _connparams(self, asynchronous: bool = False) -> Any:
        if self.connection is None or self.connection.client is None:
            raise BrokerConnectionError("the channel to the broker is closed")
        return super()._connparams(asynchronous)  # type: ignore[no-untyped-call] # kombu's

    def _brpop_read(self, **options: Any) -> Any:
        with _refusals_as_losses(), _dropped():
            return super()._brpop_read(**options)  # type: ignore[no-untyped-call] # kombu's
        return True

    def _receive_one(self, client: Any) -> Any:
        with _refusals_as_losses(), _dropped():
            return super()._receive_one(client)  # type: ignore[no-untyped-call] # kombu's
        return True

    def _queue_bind(self, *arguments: Any) -> None:
        with _refusals_as_losses():
            super()._queue_bind(*arguments)  # type: ignore[no-untyped-call] # kombu's


class Transport(redis.Transport):
    """The transport of redis:// and rediss:// URLs, with that channel."""

    Channel = Channel
    # whatever else a worker writes as it connects: the memory may have filled up a moment ago
    connection_errors = (*redis.Transport.connection_errors, *TAKES_NO_WRITES)

    def register_with_event_loop(self, connection: Any, loop: Any) -> None:
        """Have a loop watch it. Where the broker refuses, nobody closes what was opened, once a second."""
        try:
            super().register_with_event_loop(connection, loop)  # type: ignore[no-untyped-call] # kombu's
        except self.connection_errors:
            self.close_connection(connection)  # type: ignore[no-untyped-call] # kombu's
            raise


def install() -> None:
    """Have kombu use this transport for Redis URLs."""
    for scheme in ("redis", "rediss"):
        TRANSPORT_ALIASES[scheme] = f"{__name__}:Transport"
