"""When each chore is due: the settings of the schedule, and what they mean.

A timing is a number of seconds, five fields of crontab(5), or `off`.
"""

import math
import re
from datetime import datetime, time, timedelta
from functools import lru_cache
from itertools import islice, pairwise, takewhile
from typing import Annotated, NamedTuple
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from cronsim import CronSim, CronSimError
from pydantic import AfterValidator, Field
from pydantic_settings import BaseSettings

OFF = "off"
_LONGEST_SECONDS = 86_400
_FIELDS = 5
# A run may wait for a long one before it, for its jitter, or for a worker that starts.
_LATE_PERIODS, _LATE_SECONDS = 3, 90
# A crontab is looked at from a Monday on, so many times and years: both of a 29th of February.
_FROM, _UNTIL, _MOST_TIMES = datetime(2026, 1, 5), datetime(2035, 1, 1), 1_500  # noqa: DTZ001 -- gaps only
_WINDOW = re.compile(r"(\d\d):(\d\d)-(\d\d):(\d\d)", re.ASCII)


def _sound_timing(value: str) -> str:
    seconds = value.isascii() and value.isdecimal() and 1 <= int(value) <= _LONGEST_SECONDS
    if value == OFF or seconds or _is_crontab(value):
        return value
    raise ValueError(f"must be seconds (1 to {_LONGEST_SECONDS}), five fields of crontab, or {OFF}")


def _is_crontab(value: str) -> bool:
    """Tell whether it is due at some time. CronSim takes a sixth field, too: then the first is seconds."""
    try:
        next(CronSim(value, datetime(2026, 1, 1)))  # noqa: DTZ001 -- only whether it can be read
    except (CronSimError, StopIteration):
        return False
    return len(value.split()) == _FIELDS


def _sound_window(value: str) -> str:
    try:
        begin, end = _window(value)
    except ValueError:
        raise ValueError("must be two times of day, as 22:00-06:00") from None
    if begin == end:
        raise ValueError("must not end when it begins")
    return value


def _sound_zone(value: str) -> str:
    try:
        ZoneInfo(value)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise ValueError("must be a time zone, as UTC or Europe/Berlin") from None
    return value


Timing = Annotated[str, AfterValidator(_sound_timing)]
Window = Annotated[str, AfterValidator(_sound_window)]


class ScheduleSettings(BaseSettings):
    """The settings of the schedule: `<CHORE>_SCHEDULE` for each chore, and what holds for all."""

    dispatch_schedule: Timing = "10"
    rescue_schedule: Timing = "30"
    seal_schedule: Timing = "10"
    compact_schedule: Timing = "60"
    spares_schedule: Timing = "600"
    vacuum_schedule: Timing = "7 * * * *"
    indexes_schedule: Timing = "17 * * * *"
    reindex_schedule: Timing = "27 * * * *"
    recall_schedule: Timing = "23 3 * * *"
    purge_schedule: Timing = "37 * * * *"
    backfill_schedule: Timing = "300"
    reconcile_schedule: Timing = "53 4 * * *"
    schedule_zone: Annotated[str, AfterValidator(_sound_zone)] = "UTC"
    schedule_jitter: Annotated[int, Field(ge=0, le=3600)] = 30
    maintenance_window: Window | None = None

    def timing(self, chore: str) -> str:
        """Give the timing of a chore."""
        timing: str = getattr(self, f"{chore}_schedule")
        return timing

    def late_seconds(self, chore: str) -> float:
        """Give after how many seconds without a run a chore is late; infinite where it is off."""
        timing = self.timing(chore)
        if timing == OFF:
            return math.inf
        return _LATE_PERIODS * gaps(timing).longest + _LATE_SECONDS

    def in_window(self, moment: datetime) -> bool:
        """Tell whether heavy work may be done at a moment, which has a time zone."""
        if self.maintenance_window is None:
            return True
        begin, end = _window(self.maintenance_window)
        at = moment.astimezone(ZoneInfo(self.schedule_zone)).time()
        return begin <= at < end if begin < end else at >= begin or at < end


def next_due(timing: str, after: datetime) -> datetime:
    """Give when a timing, which is not off, is due next; a crontab in the zone of `after`."""
    if timing.isdecimal():
        return after + timedelta(seconds=int(timing))
    due: datetime = next(CronSim(timing, after))
    return due


class Gaps(NamedTuple):
    """The shortest and the longest time between two times that a timing is due, in seconds.

    They differ where it is hourly by day, say: then the time to the next is no measure for the last.
    """

    shortest: float
    longest: float


@lru_cache
def gaps(timing: str) -> Gaps:
    """Give the gaps of a timing that is not off."""
    if timing.isdecimal():
        return Gaps(float(timing), float(timing))
    dues = takewhile(lambda due: due < _UNTIL, islice(CronSim(timing, _FROM), _MOST_TIMES))
    found = [(later - earlier).total_seconds() for earlier, later in pairwise(dues)]
    return Gaps(min(found), max(found))


def _window(value: str) -> tuple[time, time]:
    found = _WINDOW.fullmatch(value)
    if found is None:
        raise ValueError(value)
    hours = [int(number) for number in found.groups()]
    return time(hours[0], hours[1]), time(hours[2], hours[3])
