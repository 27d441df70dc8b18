"""Faults of PostgreSQL, of the way to it, and of what may be done there."""

import os
import signal
import threading
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from typing import Any

import psutil
import psycopg2

from benchmarks.chaos.faults import Kind, Scene, Struck, signal_each
from benchmarks.chaos.servers import connected
from worker.db.engine import driver_url
from worker.db.grants import Role
from worker.db.logins import PREFIX, role_names
from worker.settings import load_settings

_NAME = role_names(PREFIX)[Role.INGEST]
_THEIRS = """SELECT pid FROM pg_stat_activity
    WHERE usename LIKE 'ingest\\_%%' AND backend_type = 'client backend'
    ORDER BY (state = 'active' OR xact_start IS NOT NULL) DESC, pid LIMIT 6"""
_MOST_CONNECTIONS = 200


def _backend(scene: Scene) -> int | None:
    """Choose a session of the product's, one that does something where there are some."""
    found = [row[0] for row in scene.servers.ask(_THEIRS)]
    return scene.chance.choice(found) if found else None


def tell_backend(function: str, scene: Scene) -> Struck:
    scene.servers.ask(f"SELECT {function}(%s)", _backend(scene))
    return Struck()


def kill_backend(scene: Scene) -> Struck:
    """Kill one: the postmaster then ends all others, and recovers."""
    pid = _backend(scene)
    with suppress(ProcessLookupError):
        if pid:
            os.kill(pid, signal.SIGKILL)
    return Struck()


def stop_backend(scene: Scene) -> Struck:
    pid = _backend(scene)
    return _stopped([psutil.Process(pid)] if pid else [], scene.chance.uniform(2, 6))


def stop_server(scene: Scene) -> Struck:
    postmaster = psutil.Process(scene.servers.postgres.pid)
    postmaster.suspend()  # from here on it has no more children
    return _stopped([postmaster, *postmaster.children()], scene.chance.uniform(2, 6))


def _stopped(family: Sequence[psutil.Process], seconds: float) -> Struck:
    """Have a thread of its own let them go on: whoever strikes next may wait for an answer of theirs."""
    signal_each(family, signal.SIGSTOP)
    timer = threading.Timer(seconds, signal_each, (family, signal.SIGCONT))
    timer.start()
    return Struck(seconds=seconds, end=timer.join)


def kill_postmaster(scene: Scene) -> Struck:
    scene.servers.restart_postgres()
    return Struck()


def restart(scene: Scene) -> Struck:
    scene.servers.postgres.stop()
    scene.servers.postgres.start()
    return Struck()


def cut(scene: Scene) -> Struck:
    scene.servers.postgres_proxy.cut()
    return Struck()


def black_hole(scene: Scene) -> Struck:
    scene.servers.postgres_proxy.swallow()
    return Struck(seconds=scene.chance.uniform(1, 6), end=scene.servers.postgres_proxy.heal)


def half_open(scene: Scene) -> Struck:
    scene.servers.postgres_proxy.half_open()
    return Struck()


def revoke_login(scene: Scene) -> Struck:
    scene.servers.ask(f"ALTER ROLE {_NAME} NOLOGIN")
    scene.servers.postgres_proxy.cut()
    give_back = partial(scene.servers.ask, f"ALTER ROLE {_NAME} LOGIN")
    return Struck(seconds=scene.chance.uniform(1, 4), end=give_back)


def revoke_writing(scene: Scene) -> Struck:
    """Take away the right to insert into the leaf that is written to; others are made meanwhile."""
    leaf = scene.servers.ask("SELECT leaf FROM segments WHERE state = 'open'")[0][0]
    scene.servers.ask(f"REVOKE INSERT ON {leaf} FROM {_NAME}")
    give_back = partial(scene.servers.ask, f"GRANT INSERT ON {leaf} TO {_NAME}")
    return Struck(seconds=scene.chance.uniform(1, 4), end=give_back)


def revoke_documents(scene: Scene) -> Struck:
    scene.servers.ask(f"REVOKE UPDATE ON documents FROM {_NAME}")
    give_back = partial(scene.servers.ask, f"GRANT UPDATE ON documents TO {_NAME}")
    return Struck(seconds=scene.chance.uniform(1, 4), end=give_back)


def hold_lock(statement: str, scene: Scene) -> Struck:
    connection = connected(load_settings().database_url)
    connection.autocommit = False
    connection.cursor().execute(statement)
    return Struck(seconds=scene.chance.uniform(2, 7), end=partial(_close, connection))


def _close(*connections: Any) -> None:
    for connection in connections:
        with suppress(psycopg2.Error):
            connection.close()


def exhaust(scene: Scene) -> Struck:
    """Take every connection there is but those kept for superusers; then cut those of the product."""
    where = driver_url(load_settings().database_url).set(drivername="postgresql", username=_NAME)
    scene.servers.postgres_proxy.cut()
    taken = []
    with suppress(psycopg2.OperationalError):
        for _ in range(_MOST_CONNECTIONS):
            taken.append(psycopg2.connect(where.render_as_string(hide_password=False)))  # noqa: PERF401 -- until refused
    return Struck(seconds=scene.chance.uniform(1, 4), end=partial(_close, *taken))


_ROW = "SELECT 1 FROM segments WHERE state = 'open' FOR UPDATE"
_TABLE = "LOCK TABLE documents IN SHARE MODE"

KINDS = (
    Kind("PostgreSQL: backend terminated", partial(tell_backend, "pg_terminate_backend"), often=8),
    Kind("PostgreSQL: statement cancelled", partial(tell_backend, "pg_cancel_backend"), often=6),
    Kind("PostgreSQL: backend kill -9", kill_backend, often=2, on="postgres", alone=True),
    Kind("PostgreSQL: postmaster kill -9", kill_postmaster, often=2, on="postgres", alone=True),
    Kind("PostgreSQL: restarted", restart, on="postgres", alone=True),
    Kind("PostgreSQL: backend stopped", stop_backend, often=3, on="postgres"),
    Kind("PostgreSQL: stopped", stop_server, often=2, on="postgres", away=True),
    Kind("PostgreSQL: connections cut", cut, often=4),
    Kind("PostgreSQL: black hole", black_hole, often=2, on="postgres", away=True),
    Kind("PostgreSQL: half-open", half_open, alone=True),
    Kind("PostgreSQL: login revoked", revoke_login, on="postgres", away=True),
    Kind("PostgreSQL: writing revoked", revoke_writing, on="postgres", away=True),
    Kind("PostgreSQL: updating documents revoked", revoke_documents, on="postgres", away=True),
    Kind("PostgreSQL: row locked", partial(hold_lock, _ROW), on="postgres", away=True),
    Kind("PostgreSQL: table locked", partial(hold_lock, _TABLE), on="postgres", away=True),
    Kind("PostgreSQL: connections exhausted", exhaust, on="postgres", away=True),
)
