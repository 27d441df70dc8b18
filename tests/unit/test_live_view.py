"""The pure parts of `ingest status --watch`: rates, what is left, and what fits into a terminal."""

from types import SimpleNamespace as Row
from typing import Any

import pytest

from worker.broker import Waiting
from worker.cli.checks import Finding, State
from worker.cli.rates import Meter, Rate, eta_seconds
from worker.cli.screen import screen
from worker.cli.watching import Documents, Seen
from worker.db.activity import Activity
from worker.db.batches import Done
from worker.db.overview import Health, Segments
from worker.settings import Settings, read_settings
from worker.types import Queue, Status

LONG = "n" * 300


# -- rates -----------------------------------------------------------------------------------------


def metered(*totals: tuple[float, int]) -> Meter:
    meter = Meter()
    for at, documents in totals:
        meter.add(at, Done(documents, 10 * documents, 1000 * documents))
    return meter


def test_one_total_is_no_rate() -> None:
    assert metered().now is None
    assert metered((1, 5)).smooth is None


def test_rate_of_the_last_interval_and_of_the_minute() -> None:
    meter = metered((0, 0), (10, 20), (12, 30))
    assert meter.now == Rate(5.0, 50.0, 5000.0)
    assert meter.smooth == Rate(2.5, 25.0, 2500.0)


def test_the_minute_moves_on() -> None:
    meter = metered(*((at, 1000 if at > 5 else 0) for at in range(0, 200, 2)))
    assert meter.smooth == Rate(0, 0, 0)


def test_minute_is_whole_where_intervals_are_long() -> None:
    assert metered((0, 0), (100, 100), (200, 300)).smooth == Rate(2.0, 20.0, 2000.0)


def test_clock_that_went_back_begins_anew() -> None:
    meter = metered((100, 50), (110, 60), (50, 61), (52, 65))
    assert meter.now == meter.smooth == Rate(2.0, 20.0, 2000.0)


@pytest.mark.parametrize(
    ("waiting", "documents", "seconds"),
    [(0, 0.0, 0.0), (0, None, 0.0), (10, 2.0, 5.0), (10, 0.0, None), (10, None, None)],
)
def test_what_is_left_takes_so_long(waiting: int, documents: float | None, seconds: float | None) -> None:
    rate = None if documents is None else Rate(documents, 0, 0)
    assert eta_seconds(waiting, rate) == seconds


# -- what is shown ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def settings() -> Settings:
    return read_settings(database_url="postgresql://u:hush@h/d", broker_url="redis://h", heartbeat_seconds=15)


def batch(**changed: Any) -> Any:
    usual = {
        "worker": "ingest-1@host", "batch_id": "b1", "tenant": "acme", "lane": "bulk", "documents": 256,
        "progress": 120, "seconds": 12.0, "expired_seconds": 0.0,
    }  # fmt: skip
    return Row(**{**usual, **changed})


def seen(**changed: Any) -> Seen:
    activity: dict[str, Any] = {
        "processes": [
            Row(name="ingest-1@host", kind="ingest", slots=2, seen_seconds=3.0),
            Row(name="maintenance-2@host", kind="maintenance", slots=4, seen_seconds=3.0),
            Row(name="beat@host", kind="beat", slots=0, seen_seconds=300.0),
        ],
        "running": [batch()],
        "queued": [Row(lane="bulk", batches=3, oldest_seconds=4.0)],
        "chores": [Row(chore="seal", seconds=80.0)],
        "ran": [
            Row(chore="dispatch", outcome="done", seconds_ago=3.0),
            Row(chore="vacuum", outcome="failed", seconds_ago=9e3),
        ],
    }
    health = Health(
        dimension=256,
        column_type="vector",
        metric="cosine",
        alive={},
        runs=[],
        running=[],
        beat_seconds=None,
        oldest_waiting_seconds=90.0,
        segments=Segments({"open": 1, "sealed": 2}, 4321, []),
        paused=[],
    )
    counts = dict.fromkeys(Status, 0) | {Status.PENDING: 1200, Status.COMPLETED: 12_345_678}
    usual: dict[str, Any] = {
        "documents": Documents(counts, health, changed.pop("reasons", []), asked=100.0),
        "now": Rate(5, 50, 5e6),
        "smooth": Rate(10, 100, 1e6),
        "queues": {queue: Waiting(2, 4.0) for queue in Queue},
        "asked": 100.0,
    }
    activity |= {name: changed.pop(name) for name in tuple(changed) if name in activity}
    return Seen(**{**usual, "activity": Activity(**activity), **changed})


def shown(settings: Settings, width: int = 120, height: int | None = None, **changed: Any) -> list[str]:
    return [line.plain for line in screen(seen(**changed), settings, 100.0, width, height)]


def test_everything_is_there(settings: Settings) -> None:
    text = "\n".join(shown(settings))
    for part in (
        "12,345,678", "the oldest waits for 90 s", "5.0 documents/s  50 chunks/s  5.00 MB/s",
        "1,200 to do, 2 min left", "ingest 2 (4 s)", "ingest-1@host  heard 3 s ago, 2 at once",
        "120 of 256 documents for 12 s, bulk, acme, batch b1", "seal for 80 s", "beat@host  silent for 5 min",
        "1 open, 2 sealed; 4,321 rows without a vector index", "dispatch 3 s ago", "vacuum 2 h ago FAILED",
    ):  # fmt: skip
        assert part in text, part


def test_what_is_stuck_is_said_with_what_mends_it(settings: Settings) -> None:
    reasons = [
        Row(status="failed", error_code="not_found", documents=7, message="there is no such file"),
        Row(status="pending", error_code="time_limit", documents=2, message="too slow"),
        Row(status="skipped", error_code="empty", documents=9, message="nothing in it"),
    ]
    lines = shown(
        settings,
        200,
        reasons=reasons,
        running=[batch(worker="ingest-9@gone", expired_seconds=50.0)],
        queued=[Row(lane="bulk", batches=3, oldest_seconds=400.0)],
        findings=(Finding("beat", State.FAILED, "not running", "run `ingest beat`"),),
    )
    text = "\n".join(lines)
    assert "beat: not running → run `ingest beat`" in text
    assert (
        "256 documents are in batches whose worker is silent, as ingest-9@gone → wait for the chore rescue"
        in text
    )
    assert "3 batches of bulk work wait for 7 min → `ingest doctor`" in text
    assert "7 failed: not_found: there is no such file → `ingest retry --code not_found`" in text
    assert "2 pending: time_limit: too slow → tried again by itself" in text
    assert "empty" not in text


def test_what_mends_it_is_never_cut_off(settings: Settings) -> None:
    lines = shown(settings, 80, findings=(Finding("x", State.FAILED, LONG, "run `ingest beat`"),))
    assert any(line.strip() == "→ run `ingest beat`" for line in lines)


@pytest.mark.parametrize(("width", "height"), [(80, 23), (80, 24), (40, 12), (20, 8), (200, 60)])
def test_no_line_is_wider_and_there_are_no_more_than_fit(settings: Settings, width: int, height: int) -> None:
    crowd = [Row(name=f"ingest-{n}@{LONG}", kind="ingest", slots=2, seen_seconds=3.0) for n in range(50)]
    troubles = tuple(Finding("x", State.FAILED, f"数{LONG}", LONG) for _ in range(30))
    lines = screen(seen(processes=crowd, findings=troubles, trouble=troubles), settings, 100.0, width, height)
    assert len(lines) <= height
    assert all(line.cell_len <= width for line in lines)
    assert all("\n" not in line.plain for line in lines)
    if height >= 23:
        headings = [line.plain.split()[0] for line in lines if not line.plain.startswith(" ")]
        assert headings == [
            "away",
            "documents",
            "rates",
            "queues",
            "trouble",
            "workers",
            "segments",
            "chores",
        ]
        assert any("more" in line.plain for line in lines)


def test_names_change_no_terminal(settings: Settings) -> None:
    bad = "a\x1b[2J\nb"
    text = "\n".join(
        shown(
            settings,
            processes=[Row(name=bad, kind="ingest", slots=1, seen_seconds=1.0)],
            running=[batch(worker=bad, tenant=bad)],
            reasons=[Row(status="failed", error_code="x", documents=1, message=bad)],
        )
    )
    assert "\x1b" not in text
    assert text.count("a\\x1b[2J\\nb") >= 3


def test_a_server_that_is_away_is_named_and_what_is_known_stands(settings: Settings) -> None:
    away = Finding("database", State.FAILED, "PostgreSQL is not usable", "check DATABASE_URL")
    lines = [line.plain for line in screen(seen(trouble=(away,), queues={}), settings, 142.0, 120, 23)]
    assert "database: PostgreSQL is not usable → check DATABASE_URL" in lines[0]
    assert "as of 42 s ago" in lines[1]
    assert any("12,345,678" in line for line in lines)
    assert any("not known while the broker is away" in line for line in lines)
    first = screen(Seen(trouble=(away,)), settings, 142.0, 80, 23)
    assert "PostgreSQL is not usable" in first[0].plain
    assert "first answer" in screen(Seen(), settings, 0.0, 80, 23)[0].plain


def test_counts_that_are_old_say_so(settings: Settings) -> None:
    lines = [line.plain for line in screen(seen(), settings, 100.0 + 40, 120, None)]
    assert any("counted 40 s ago" in line for line in lines)
