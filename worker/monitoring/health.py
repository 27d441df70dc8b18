"""Whether processes live, which is more than being there, and whether the system is ready for work.

live   the processes of one host: each beats, and what waits for it moves. A restart may mend what is not.
ready  the system: settings, database, schema, broker, and a process of each kind that is needed.

Where a server that a check needs is away, work that does not move is not held against a process.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from redis import RedisError
from sqlalchemy import Connection

from worker import broker
from worker.db import liveness, operations, schema
from worker.db.engine import reach, statement_timeout
from worker.errors import DatabaseUnavailableError, IngestError, SettingsError
from worker.settings import Settings, load_settings
from worker.types import QUEUE_OF, Lane, Queue

KINDS = ("ingest", "interactive", "search", "maintenance", "beat")
STATEMENT_SECONDS = 5


@dataclass(frozen=True, slots=True)
class Check:
    """One thing looked at; `reason` is for people, also where it is well."""

    name: str
    ok: bool
    reason: str


def live(host: str) -> list[Check]:
    """Look at the processes of a host that have a heartbeat."""
    settings, found = _settings()
    if settings is None:
        return found
    url, setting = settings.monitor_url, settings.setting_of(settings.monitor_url)
    try:
        return reach(url, lambda connection: list(_Host(connection, host, settings).checks()), setting)
    except DatabaseUnavailableError as error:  # to restart what waits for it would only add to the outage
        return [Check("database", True, f"nothing is known while it is away: {error}")]
    except IngestError as error:
        return [Check("database", False, str(error))]


def ready(needed: Sequence[str] = KINDS) -> list[Check]:
    """Look at what work needs; `needed` are kinds of processes."""
    settings, found = _settings()
    if settings is None:
        return found
    return [*found, *_database(settings, needed), _broker(settings)]


def _settings() -> tuple[Settings | None, list[Check]]:
    try:
        return load_settings(), [Check("settings", True, "all valid")]
    except SettingsError as error:
        return None, [Check("settings", False, str(error))]


def _database(settings: Settings, needed: Sequence[str]) -> list[Check]:
    url, setting = settings.monitor_url, settings.setting_of(settings.monitor_url)
    try:
        found = reach(url, lambda connection: _of_tables(connection, settings, needed), setting)
    except IngestError as error:
        return [Check("database", False, str(error))]
    return [Check("database", True, "answers"), *found]


def _of_tables(connection: Connection, settings: Settings, needed: Sequence[str]) -> list[Check]:
    statement_timeout(connection, STATEMENT_SECONDS)
    try:
        schema.check_schema(connection, settings)
    except IngestError as error:
        return [Check("migrations", False, str(error))]
    hearts = liveness.hearts(connection)
    alive = {kind: sum(_is_fresh(h, settings) for h in hearts if h.kind == kind) for kind in needed}
    living = [Check(kind, bool(n), f"{n} alive" if n else "none lives") for kind, n in alive.items()]
    return [Check("migrations", True, f"at {schema.REVISIONS[-1]}"), *living]


def _broker(settings: Settings) -> Check:
    try:
        broker.require_broker(settings)
    except IngestError as error:
        return Check("broker", False, str(error))
    return Check("broker", True, "takes messages, and keeps them")


def _is_fresh(heart: Any, settings: Settings) -> bool:
    return bool(heart.age_seconds < settings.heartbeat_seconds * operations.STALE_AFTER)


class _Host:
    """The processes of one host, and what is known of their work."""

    def __init__(self, connection: Connection, host: str, settings: Settings) -> None:
        statement_timeout(connection, STATEMENT_SECONDS)
        self._connection, self._settings, self._host = connection, settings, host
        self._hearts = liveness.hearts(connection, host)

    def checks(self) -> Iterator[Check]:
        """Look at each kind of process here; of one that was replaced, the newest counts."""
        work = {
            "ingest": self._batches,
            "interactive": self._batches,
            "search": self._searches,
            "maintenance": self._chores,
        }
        if not self._hearts:
            yield Check("heartbeat", False, f"no process has a heartbeat on {self._host}")
        for kind in dict.fromkeys(heart.kind for heart in self._hearts):
            mine = [heart for heart in self._hearts if heart.kind == kind]
            fresh = [heart for heart in mine if _is_fresh(heart, self._settings)]
            yield Check(f"{kind} heartbeat", bool(fresh), f"{mine[0].age_seconds:.0f} s ago")
            progress = self._schedule if kind == "beat" else work.get(kind)
            if fresh and progress is not None:
                stuck = progress(fresh)
                yield Check(f"{kind} progress", stuck is None, stuck or "work moves, or none waits")

    def _batches(self, hearts: Sequence[Any]) -> str | None:
        """Say what does not move. A batch that takes longer than the limit is killed, and its lease ends."""
        limit = self._settings.task_time_limit + self._settings.lease_seconds
        if max(heart.up_seconds for heart in hearts) < limit:
            return None
        lanes = [Lane.INTERACTIVE] if hearts[0].kind == "interactive" else list(Lane)
        names = [heart.name for heart in hearts]
        found = liveness.stuck_batches(self._connection, names, lanes, limit)
        if found.finished:
            return None
        if found.running:
            return f"{found.running} batches are under way for over {limit} s, and none was finished"
        if found.queued and self._messages(*(QUEUE_OF[lane] for lane in lanes)):
            return f"{found.queued} batches wait for over {limit} s, and none was taken"
        return None

    def _searches(self, _hearts: Sequence[Any]) -> str | None:
        return "searches expire before they are taken" if self._expired(Queue.SEARCH) else None

    def _chores(self, hearts: Sequence[Any]) -> str | None:
        """Say what does not move; with a long chore in each place of the pool, others may wait."""
        running = liveness.running_chores(self._connection)
        if len(running) >= sum(heart.slots for heart in hearts):
            return None
        return "chores expire before they are taken" if self._expired(Queue.MAINTENANCE) else None

    def _schedule(self, hearts: Sequence[Any]) -> str | None:
        """Say what is not sent. What was sent and not taken is the maintenance worker's."""
        limit = self._settings.late_seconds("dispatch")
        up = max(heart.up_seconds for heart in hearts)
        since = liveness.seconds_since_run(self._connection, "dispatch")
        idle = up if since is None else min(since, up)
        if math.isinf(limit) or idle < limit or self._messages(Queue.MAINTENANCE) is not False:
            return None
        return f"nothing was dispatched for {idle:.0f} s, and nothing is on its way"

    def _messages(self, *queues: Queue) -> bool | None:
        """Tell whether messages wait in these queues; None where the broker does not say."""
        lengths = self._ask(broker.queue_lengths)
        return None if lengths is None else any(lengths[queue] for queue in queues)

    def _expired(self, queue: Queue) -> bool:
        return bool(self._ask(lambda client: broker.oldest_is_expired(client, queue)))

    def _ask(self, question: Any) -> Any:
        client = broker.connect(self._settings)
        try:
            return question(client)
        except (RedisError, OSError, ValueError):
            return None
        finally:
            client.close()
