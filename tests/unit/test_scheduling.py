"""When chores are due: what the settings say, and when beat sends them."""

import logging
import pickle
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from celery import Celery

from worker.errors import SettingsError
from worker.scheduling import Gaps, gaps, next_due
from worker.settings import Settings, read_settings
from worker.timetable import DiskTolerantScheduler, Timetable, schedule
from worker.types import TaskName

NOON = datetime(2026, 6, 1, 12, tzinfo=UTC)
URLS = {"database_url": "postgresql://h/d", "broker_url": "redis://h/0"}


def given(**settings: str | int) -> Settings:
    return read_settings(**URLS, **settings)


class At(Timetable):
    """A timetable whose now is given."""

    moment = NOON

    def now(self) -> datetime:
        return self.moment


@pytest.mark.parametrize(
    ("timing", "due"),
    [
        ("10", NOON + timedelta(seconds=10)),
        ("*/15 * * * *", NOON + timedelta(minutes=15)),
        ("0 3 * * *", NOON + timedelta(hours=15)),
        ("30 1 * * sun", datetime(2026, 6, 7, 1, 30, tzinfo=UTC)),
    ],
)
def test_a_timing_says_when_it_is_due(timing: str, due: datetime) -> None:
    assert next_due(timing, NOON) == due


def test_a_crontab_is_in_the_zone_of_the_schedule() -> None:
    berlin = NOON.astimezone(ZoneInfo("Europe/Berlin"))
    assert next_due("0 3 * * *", berlin).astimezone(UTC) == datetime(2026, 6, 2, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    ("timing", "shortest", "longest"),
    [
        ("90", 90, 90),
        ("*/5 * * * *", 300, 300),
        ("0 9-17 * * *", 3600, 16 * 3600),
        ("0 3 * * 1-5", 86_400, 3 * 86_400),
        ("0 0 1 * *", 28 * 86_400, 31 * 86_400),
        ("0 0 29 2 *", 1461 * 86_400, 1461 * 86_400),
    ],
)
def test_gaps_are_those_of_the_whole_crontab(timing: str, shortest: float, longest: float) -> None:
    assert gaps(timing) == Gaps(shortest, longest)


def test_a_chore_of_working_hours_is_not_late_by_night() -> None:
    assert given(vacuum_schedule="0 9-17 * * *").late_seconds("vacuum") > 16 * 3600


@pytest.mark.parametrize(
    "timing",
    ["", " ", "0", "-1", "1.5", "86401", "٣", "* * * *", "* * * * * *", "99 * * * *", "0 0 31 2 *", "never"],
)
def test_a_timing_that_says_nothing_is_refused_by_name(timing: str) -> None:
    with pytest.raises(SettingsError, match="VACUUM_SCHEDULE: must be seconds"):
        given(vacuum_schedule=timing)


@pytest.mark.parametrize(
    "window", ["22-6", "22:00", "٢٢:00-06:00", "22:00-06:60", "24:00-06:00", "03:00-03:00"]
)
def test_a_window_that_says_nothing_is_refused_by_name(window: str) -> None:
    with pytest.raises(SettingsError, match="MAINTENANCE_WINDOW: must"):
        given(maintenance_window=window)


@pytest.mark.parametrize("zone", ["", "Mars/Base", "../etc", "/etc/passwd"])
def test_a_zone_that_there_is_not_is_refused_by_name(zone: str) -> None:
    with pytest.raises(SettingsError, match="SCHEDULE_ZONE: must be a time zone"):
        given(schedule_zone=zone)


@pytest.mark.parametrize(
    ("window", "hours"),
    [
        ("22:00-06:00", {22, 23, 0, 1, 2, 3, 4, 5}),
        ("01:00-03:00", {1, 2}),
        ("00:00-12:00", set(range(12))),
    ],
)
def test_a_window_may_go_over_midnight(window: str, hours: set[int]) -> None:
    settings = given(maintenance_window=window)
    day = datetime(2026, 6, 1, tzinfo=UTC)
    assert {hour for hour in range(24) if settings.in_window(day + timedelta(hours=hour))} == hours


def test_a_window_is_in_the_zone_of_the_schedule() -> None:
    settings = given(maintenance_window="14:00-15:00", schedule_zone="Europe/Berlin")
    assert settings.in_window(NOON)
    assert not settings.in_window(NOON + timedelta(hours=1))


def test_without_a_window_it_is_always_open() -> None:
    assert given().in_window(NOON)


def test_what_is_off_is_never_late_and_not_sent() -> None:
    settings = given(vacuum_schedule="off")
    assert settings.late_seconds("vacuum") == float("inf")
    assert "maintain.vacuum" not in schedule(settings)


def test_beat_sends_every_chore_that_is_on() -> None:
    sent = schedule(given())
    assert set(sent) == {name.value for name in TaskName if name.chore}
    for entry in sent.values():
        assert entry["options"]["queue"] == "maintenance"
        assert entry["options"]["expires"] > 0


def test_jitter_shifts_crontabs_and_no_intervals() -> None:
    sent = schedule(given(schedule_jitter=3600))
    offsets = {name: entry["schedule"].offset for name, entry in sent.items()}
    assert offsets["maintain.dispatch"] == 0
    assert 0 < offsets["maintain.vacuum"] <= 3600
    assert offsets["maintain.vacuum"] != offsets["maintain.purge"]
    assert {entry["schedule"].offset for entry in schedule(given(schedule_jitter=0)).values()} == {0}


@pytest.mark.parametrize(
    ("timing", "offset", "last_seconds_ago", "due", "rest"),
    [
        ("10", 0, 9, False, 1),
        ("10", 0, 10, True, 10),
        ("10", 0, 500, True, 10),
        ("0 * * * *", 0, 3600, True, 3600),
        ("0 * * * *", 0, 1, True, 3600),
        ("0 * * * *", 0, 0, False, 3600),
        ("0 * * * *", 60, 3540, False, 60),
        ("0 * * * *", 60, 3600, True, 60),
        ("59 * * * *", 60, 3600, True, 3600),
        ("0 3 * * *", 0, 200_000, True, 54_000),
        ("10", 0, -200_000, True, 10),
        ("0 * * * *", 60, -200_000, True, 60),
    ],
)
def test_beat_is_told_when_a_chore_is_due(
    timing: str, offset: float, last_seconds_ago: int, due: bool, rest: float
) -> None:
    found: Any = At(timing, "UTC", offset).is_due(NOON - timedelta(seconds=last_seconds_ago))
    assert tuple(found) == (due, rest)


def test_a_timetable_outlives_beat() -> None:
    kept = pickle.loads(pickle.dumps(Timetable("0 3 * * *", "Europe/Berlin", 12.5)))
    assert kept == Timetable("0 3 * * *", "Europe/Berlin", 12.5)
    assert kept != Timetable("0 3 * * *", "Europe/Berlin", 13)
    assert len({kept, Timetable("0 3 * * *", "Europe/Berlin", 12.5)}) == 1


@pytest.mark.parametrize("timing", ["10", "0 3 * * *"])
def test_a_clock_that_was_set_back_keeps_no_chore_waiting(timing: str) -> None:
    assert At(timing, "UTC").is_due(NOON + timedelta(days=1)).is_due


class Clocked(Celery):  # type: ignore[misc] # celery's
    """An app by whose clock its timetables go."""

    def now(self) -> datetime:
        return At.moment


@pytest.fixture
def clocked() -> Clocked:
    """Two chores, each due every 10 s, and a broker that is away."""
    app = Clocked("test", broker="redis://:hush@127.0.0.1:1/0", set_as_current=False)
    chores = (TaskName.DISPATCH, TaskName.RESCUE)
    entries = {name.value: {"task": name.value, "schedule": At("10", "UTC")} for name in chores}
    app.conf.update(task_publish_retry=False, result_expires=None, beat_schedule=entries)
    return app


class Sending(DiskTolerantScheduler):
    """A scheduler that notes what it would send."""

    producer = None
    sent: list[str]

    def apply_async(self, entry: Any, *_: Any, **__: Any) -> None:
        self.sent.append(entry.name)

    def go(self) -> set[str]:
        """Send what is due now."""
        self.sent = []
        while self.tick() == 0:
            pass
        return set(self.sent)


def test_a_running_beat_goes_on_when_its_clock_is_set_back(
    clocked: Clocked, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def set_clock(moment: datetime) -> None:
        monkeypatch.setattr(At, "moment", moment)

    beat = Sending(clocked, schedule_filename=str(tmp_path / "beat"))
    both = {"maintain.dispatch", "maintain.rescue"}
    set_clock(NOON + timedelta(seconds=10))
    assert beat.go() == both
    set_clock(NOON - timedelta(days=1))
    assert beat.go() == both
    assert beat.go() == set()
    set_clock(NOON - timedelta(days=1) + timedelta(seconds=10))
    assert beat.go() == both
    beat.close()


def test_a_broker_that_is_away_is_a_line_for_each_chore(
    clocked: Clocked, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    beat = DiskTolerantScheduler(clocked, schedule_filename=str(tmp_path / "beat"))
    with caplog.at_level(logging.WARNING):
        beat.apply_entry(beat.schedule["maintain.dispatch"])
    [record] = caplog.records
    assert (record.message, record.exc_info, vars(record)["chore"]) == ("chore.unsent", None, "dispatch")
    assert "127.0.0.1:1" in vars(record)["reason"]
    assert "hush" not in vars(record)["reason"]
    beat.close()
