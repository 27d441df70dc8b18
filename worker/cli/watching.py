"""What `ingest status --watch` knows: asked again and again, by a thread, and kept while a server is away."""

import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from redis import RedisError
from sqlalchemy import Connection
from sqlalchemy.exc import SQLAlchemyError

from worker import broker
from worker.cli.checks import Finding, State
from worker.cli.rates import SMOOTHING_SECONDS, Meter, Rate
from worker.cli.vitals import judge
from worker.db import activity, operations, overview
from worker.db.activity import Activity
from worker.db.batches import Done
from worker.db.engine import clock, describe, is_retryable, make_engine, transaction, unavailable
from worker.db.overview import Health
from worker.errors import BrokerUnavailableError, IngestError
from worker.settings import Settings
from worker.types import Queue, Status

# A question that takes longer is given up, and what was known stands.
STATEMENT_SECONDS = 3
# What reads all documents is asked again after this many times the time it took: it must not become the load.
_REST = 20
_MOST_REASONS = 5
# The total is counted from a moment that moves on: it must not become long.
_LONGEST_COUNT = timedelta(minutes=10)


@dataclass(frozen=True, slots=True)
class Documents:
    """What is known of all documents, and when it was asked (monotonic seconds)."""

    counts: Mapping[Status, int]
    health: Health
    reasons: Sequence[object]
    asked: float


@dataclass(frozen=True, slots=True)
class Seen:
    """What the view shows. `trouble`: what is away, and how long what is shown is old then."""

    documents: Documents | None = None
    activity: Activity | None = None
    now: Rate | None = None
    smooth: Rate | None = None
    queues: Mapping[Queue, broker.Waiting] = field(default_factory=dict)
    trouble: tuple[Finding, ...] = ()
    findings: tuple[Finding, ...] = ()
    asked: float = 0.0


class Watcher:
    """Asks in a thread of its own: a server that does not answer must not hold up the terminal."""

    def __init__(self, settings: Settings, interval: float) -> None:
        self._settings, self._interval = settings, interval
        self._engine = make_engine(settings, application="ingest status --watch")
        self._count = Count()
        self._fresh = threading.Condition()
        self._seen = Seen()
        self._rested = 0.0
        self.rounds = 0

    def start(self) -> None:
        """Begin to ask. The thread ends with the process."""
        threading.Thread(target=self._run, name="watch", daemon=True).start()

    def latest(self, after: int, seconds: float) -> Seen:
        """Give what is known once more than `after` rounds are over, or so many seconds."""
        with self._fresh:
            self._fresh.wait_for(lambda: self.rounds > after, seconds)
            return self._seen

    def _run(self) -> None:
        while True:
            begun = time.monotonic()
            seen = self.look()
            with self._fresh:
                self._seen, self.rounds = seen, self.rounds + 1
                self._fresh.notify_all()
            time.sleep(max(self._interval - (time.monotonic() - begun), 0.05))

    def look(self) -> Seen:
        """Ask everything that is due once."""
        seen, trouble = self._seen, []
        try:
            seen = self._ask_database(seen)
        except IngestError as error:
            trouble.append(Finding("database", State.FAILED, error.message, error.hint))
        queues: Mapping[Queue, broker.Waiting] = {}
        try:
            queues = _ask_broker(self._settings)
        except BrokerUnavailableError as error:
            trouble.append(Finding("broker", State.FAILED, error.message, error.hint))
        findings = judge(seen.documents.health, self._settings) if seen.documents else []
        return Seen(
            documents=seen.documents,
            activity=seen.activity,
            now=self._count.meter.now,
            smooth=self._count.meter.smooth,
            queues=queues,
            trouble=tuple(trouble),
            findings=tuple(one for one in findings if one.state is not State.OK),
            asked=seen.asked,
        )

    def _ask_database(self, seen: Seen) -> Seen:
        """Ask what is due; what takes too long is left as it was. Raises IngestError."""
        url = self._settings.database_url
        try:
            with transaction(self._engine, STATEMENT_SECONDS, reading=True) as connection:
                going = activity.activity(connection)
                self._count.update(connection)
            documents = self._ask_documents(seen.documents)
        except SQLAlchemyError as error:
            if is_retryable(error):
                raise unavailable(url, error) from None
            raise IngestError(f"the database refused: {describe(error)}", "run `ingest doctor`") from None
        return Seen(documents=documents, activity=going, asked=time.monotonic())

    def _ask_documents(self, before: Documents | None) -> Documents | None:
        begun = time.monotonic()
        if before is not None and begun < self._rested:
            return before
        seconds = self._settings.heartbeat_seconds * operations.STALE_AFTER
        try:
            with transaction(self._engine, STATEMENT_SECONDS, reading=True) as connection:
                return Documents(
                    overview.counts(connection, None),
                    overview.health(connection, seconds),
                    overview.reasons(connection, None, _MOST_REASONS),
                    time.monotonic(),
                )
        except SQLAlchemyError as error:
            if not is_retryable(error):
                raise
            return before  # as late as it is large: the view says of when it is
        finally:
            self._rested = time.monotonic() + _REST * (time.monotonic() - begun)


class Count:
    """A running total of what is done, from a moment that moves on."""

    def __init__(self) -> None:
        self.meter = Meter()
        self._since: datetime | None = None
        self._before = Done()

    def update(self, connection: Connection) -> None:
        """Add the total of now, read in one snapshot."""
        now = clock(connection)
        if self._since is None:
            self._since = now - timedelta(seconds=SMOOTHING_SECONDS)
            self.meter.add(self._since.timestamp(), Done())
        total = activity.done_since(connection, self._since)
        self.meter.add(now.timestamp(), self._before.plus(total))
        if now - self._since > _LONGEST_COUNT:
            later = now - timedelta(seconds=2 * SMOOTHING_SECONDS)
            left = activity.done_since(connection, later)
            gone = Done(*(whole - part for whole, part in zip(total, left, strict=True)))
            self._since, self._before = later, self._before.plus(gone)


def _ask_broker(settings: Settings) -> Mapping[Queue, broker.Waiting]:
    """Look into the queues. Raises BrokerUnavailableError."""
    try:
        client = broker.connect(settings)
        try:
            return broker.waiting(client)
        finally:
            client.close()
    except (RedisError, OSError):
        broker.require_broker(settings)  # says what is wrong, where it still is
        raise BrokerUnavailableError(
            "the broker was away for a moment", "`ingest doctor` looks again"
        ) from None
