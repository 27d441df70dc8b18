"""Faults of the Redis server, and of the way to it."""

import os
import signal
from contextlib import suppress
from functools import partial
from typing import Any

from redis import RedisError
from redis.exceptions import ResponseError

from benchmarks.chaos.faults import Kind, Scene, Struck

_FILLER = "filler"


def restart(scene: Scene, *, lose: bool) -> Struck:
    scene.servers.restart_valkey(lose=lose)
    return Struck()


def flush(scene: Scene) -> Struck:
    scene.servers.redis().flushall()
    return Struck()


def fill(scene: Scene) -> Struck:
    """Fill it until it refuses, as with `noeviction` it does."""
    client = scene.servers.redis()
    used: Any = client.info("memory")
    client.config_set("maxmemory", used["used_memory"] + (1 << 20))
    with suppress(ResponseError):
        while True:
            client.rpush(_FILLER, *["x" * 1_000] * 100)
    return Struck(seconds=scene.chance.uniform(1, 5), end=partial(_free, client))


def _free(client: Any) -> None:
    client.config_set("maxmemory", 0)
    client.delete(_FILLER)


def stop(scene: Scene) -> Struck:
    pid = scene.servers.valkey.pid
    os.kill(pid, signal.SIGSTOP)
    return Struck(seconds=scene.chance.uniform(1, 6), end=partial(os.kill, pid, signal.SIGCONT))


def cut(scene: Scene) -> Struck:
    scene.servers.valkey_proxy.cut()
    return Struck()


def drop_clients(scene: Scene) -> Struck:
    with suppress(RedisError):
        scene.servers.redis().client_kill_filter(_type="normal")
    return Struck()


def black_hole(scene: Scene) -> Struck:
    scene.servers.valkey_proxy.swallow()
    return Struck(seconds=scene.chance.uniform(1, 6), end=scene.servers.valkey_proxy.heal)


def half_open(scene: Scene) -> Struck:
    scene.servers.valkey_proxy.half_open()
    return Struck()


KINDS = (
    Kind("Redis: kill -9", partial(restart, lose=False), often=2, on="redis", alone=True),
    Kind("Redis: kill -9, its data lost", partial(restart, lose=True), often=2, on="redis", alone=True),
    Kind("Redis: flushed", flush, often=2, on="redis"),
    Kind("Redis: full", fill, often=2, on="redis", away=True),
    Kind("Redis: stopped", stop, on="redis", away=True),
    Kind("Redis: connections cut", cut, often=4),
    Kind("Redis: clients dropped", drop_clients, often=2, on="redis"),
    Kind("Redis: black hole", black_hole, often=2, on="redis", away=True),
    Kind("Redis: half-open", half_open, alone=True),
)
