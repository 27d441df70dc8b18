"""The schedule as beat reads it: a timing, and how much later than that each run of a chore is sent."""

import logging
import random
from datetime import datetime, timedelta
from shelve import Shelf
from typing import Any
from zoneinfo import ZoneInfo

from celery.beat import PersistentScheduler, SchedulingError
from celery.schedules import BaseSchedule, schedstate

from worker.db.engine import describe
from worker.scheduling import OFF, gaps, next_due
from worker.settings import Settings
from worker.types import Queue, TaskName

log = logging.getLogger(__name__)


class Timetable(BaseSchedule):
    """When a chore is sent. `offset`: seconds after each time that the timing names.

    Celery's own crontab knows no offset, and reads its fields a little differently from crontab(5).
    """

    def __init__(self, timing: str, zone: str, offset: float = 0.0) -> None:
        super().__init__()
        self.timing, self.zone, self.offset = timing, zone, offset

    def is_due(self, last_run_at: datetime) -> Any:
        """Tell whether it is due, and in how many seconds to ask again."""
        rest = self.remaining_estimate(last_run_at).total_seconds()
        if rest > 0:
            return schedstate(False, rest)
        return schedstate(True, max(self.remaining_estimate(self.now()).total_seconds(), 0.0))

    def remaining_estimate(self, last_run_at: datetime) -> timedelta:
        """Give how long it is until the next run after one; nothing where that one is yet to come.

        It was sent before the clock was set back: nothing would be sent until the clock is there again.
        """
        now: datetime = self.now()
        if last_run_at > now:
            return timedelta(0)
        offset = timedelta(seconds=self.offset)
        last = last_run_at.astimezone(ZoneInfo(self.zone))
        due: datetime = next_due(self.timing, last - offset) + offset
        return due - now

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Timetable) and self.__reduce__() == other.__reduce__()

    def __hash__(self) -> int:
        return hash((self.timing, self.zone, self.offset))

    def __reduce__(self) -> Any:
        return type(self), (self.timing, self.zone, self.offset)

    def __repr__(self) -> str:
        return f"<{self.timing} {self.zone} +{self.offset:.0f} s>"


class DiskTolerantScheduler(PersistentScheduler):
    """Beat's scheduler: it goes on without its file or the broker, and where the clock is set back.

    Celery's does not start then; and told to stop, it fails to save, in the middle of a broad `except`, and
    runs on. What is lost is when crontabs were last due, and those of a chore are in the database.
    """

    _kept = True
    _asked_at: datetime | None = None

    def tick(self, *arguments: Any, **options: Any) -> float:
        """Send what is due first; gives in how many seconds to ask again."""
        asked_at: datetime = self.app.now()
        if self._asked_at and asked_at < self._asked_at:
            # the clock was set back: what comes next was reckoned by the old one
            self._heap = None
        self._asked_at = asked_at
        seconds: float = super().tick(*arguments, **options)
        return seconds

    def apply_async(self, entry: Any, *arguments: Any, **options: Any) -> Any:
        """Send a chore. One that cannot be sent is due again at its next time."""
        try:
            return super().apply_async(entry, *arguments, **options)
        except SchedulingError as error:  # Celery would write two tracebacks, each time
            reason = describe(error.__context__ or error)
            log.warning("chore.unsent", extra={"chore": entry.name.rpartition(".")[2], "reason": reason})

    def _open_schedule(self) -> Any:
        return super()._open_schedule() if self._kept else Shelf({}, writeback=True)

    def setup_schedule(self) -> None:
        """Read the file, or do without it."""
        try:
            super().setup_schedule()
        except OSError as error:
            self._warn(error)
            self._kept = False
            super().setup_schedule()

    def sync(self) -> None:
        """Write the file, where that can be done."""
        try:
            super().sync()
        except OSError as error:
            self._warn(error)

    def close(self) -> None:
        """End, with the file written where that can be done."""
        try:
            super().close()
        except OSError as error:
            self._warn(error)

    def _warn(self, error: OSError) -> None:
        log.warning("schedule.unsaved", extra={"reason": error})


def schedule(settings: Settings) -> dict[str, dict[str, Any]]:
    """Give the beat schedule. A run that is not taken before the next one is due expires.

    Chores of a crontab are sent up to SCHEDULE_JITTER late, by as much each time: not all of them at once,
    and not those of every installation on the same minute.
    """
    return {
        name.value: _entry(name, timing, settings)
        for name in TaskName
        if name.chore and (timing := settings.timing(name.chore)) != OFF
    }


def _entry(name: TaskName, timing: str, settings: Settings) -> dict[str, Any]:
    jitter = 0 if timing.isdecimal() else settings.schedule_jitter
    offset = random.uniform(0, jitter)  # noqa: S311 -- spreads load, hides nothing
    return {
        "task": name.value,
        "schedule": Timetable(timing, settings.schedule_zone, offset),
        "options": {"queue": Queue.MAINTENANCE.value, "expires": gaps(timing).shortest},
    }
