"""What we ask the Redis server beside Celery: is it there, is it safe, how long are its queues."""

import json
import time
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any, NamedTuple

from pydantic import SecretStr
from redis import Redis, RedisError

from worker.errors import BrokerUnavailableError
from worker.settings import Settings, masked
from worker.types import Queue

# Of the names that results have: where a server's access list lets us in at all, it has these.
_PROBE = "celery-task-meta-ingest-probe"
# Every other policy throws messages away when memory runs out, in silence.
SAFE_EVICTION = "noeviction"


class Waiting(NamedTuple):
    """What waits in a queue: how many messages, and the age of the oldest where it says when it was sent."""

    messages: int
    oldest_seconds: float | None


def connect(settings: Settings) -> "Redis":
    """Open a client to the broker, with bounded waits."""
    return Redis.from_url(_redis_url(settings.broker_url), socket_timeout=5, socket_connect_timeout=5)


def _redis_url(url: SecretStr) -> str:
    """Write Celery's spelling of a socket URL as redis-py's."""
    return url.get_secret_value().replace("redis+socket://", "unix://", 1).replace("virtual_host=", "db=", 1)


def queue_length(client: "Redis", queue: Queue) -> int:
    """Count the messages waiting in a queue. Raises RedisError."""
    return int(client.llen(queue.value))


def queue_lengths(client: "Redis") -> dict[Queue, int]:
    """Count the messages waiting in every queue, in one round trip. Raises RedisError."""
    pipeline = client.pipeline(transaction=False)
    for queue in Queue:
        pipeline.llen(queue.value)
    return dict(zip(Queue, pipeline.execute(), strict=True))


def oldest_is_expired(client: "Redis", queue: Queue) -> bool:
    """Tell whether the oldest message of a queue has waited too long: a worker would have dropped it.

    Searches and chores expire. Raises RedisError.
    """
    expires = _header(client.lindex(queue.value, -1), "expires")
    with suppress(ValueError, TypeError):
        return datetime.fromisoformat(expires) < datetime.now(UTC)
    return False


def waiting(client: "Redis") -> dict[Queue, Waiting]:
    """Look into all queues, in one round trip. Raises RedisError."""
    pipeline = client.pipeline(transaction=False)
    for queue in Queue:
        pipeline.llen(queue.value)
        pipeline.lindex(queue.value, -1)
    found = pipeline.execute()
    pairs = zip(Queue, found[::2], found[1::2], strict=True)
    return {queue: Waiting(int(length), _age(oldest)) for queue, length, oldest in pairs}


def _age(message: Any) -> float | None:
    """Give the seconds since a message was sent: worker/app.py writes that into its headers."""
    with suppress(ValueError, TypeError, OverflowError):
        return max(time.time() - float(_header(message, "sent_at")), 0.0)
    return None


def _header(message: Any, name: str) -> Any:
    """Give a header of a message; None where it has none, or is no message at all."""
    with suppress(ValueError, TypeError, KeyError, RecursionError):
        return json.loads(message)["headers"][name]
    return None


def probe(client: "Redis") -> None:
    """Have the server take something for a moment. Raises RedisError.

    One that is full, or a replica, answers all questions and takes no message.
    """
    client.set(_PROBE, "", px=1)


def eviction_policy(client: "Redis") -> str:
    """Give what the server does when its memory is full; "unknown" where it does not say."""
    try:
        return str(client.info("memory").get("maxmemory_policy", "unknown"))
    except RedisError:
        return "unknown"


def require_broker(settings: Settings) -> None:
    """Refuse a broker that is away, takes no message or may lose some. Raises BrokerUnavailableError."""
    where = masked(settings.broker_url)
    try:
        client = connect(settings)
        probe(client)
    except (RedisError, OSError, ValueError) as error:
        said = str(error).splitlines()[0] if str(error) else type(error).__name__
        hint = "check that the Redis server runs there and that BROKER_URL names it and its password"
        for sign, mend in (
            (
                "MISCONF",
                "its log says why the server that BROKER_URL names cannot write: mostly as its disk is full",
            ),
            ("No space left", "free some space on the disk of the server that BROKER_URL names"),
            (
                "maxmemory",
                "raise maxmemory of the server that BROKER_URL names, or empty it of what is not ours",
            ),
            ("read only", "name the server in BROKER_URL that takes writes"),
            (
                "CERTIFICATE",
                "BROKER_URL: ssl_ca_certs is who signed the server's certificate, its host as there",
            ),
            ("NOPERM", "give the user of BROKER_URL its rights: docs/operations/tls.md"),
        ):
            if sign in said:
                hint = mend
        raise BrokerUnavailableError(f"the broker at {where} is not usable: {said}", hint) from None
    policy = eviction_policy(client)
    client.close()
    if policy not in {SAFE_EVICTION, "unknown"}:
        raise BrokerUnavailableError(
            f"the broker at {where} evicts keys when its memory is full ({policy}): messages would be lost",
            "run `redis-cli CONFIG SET maxmemory-policy noeviction`, and set it in its file",
        )
