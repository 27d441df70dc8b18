"""The schedule by real processes: two beats, one of them killed; chores that are off."""

from pathlib import Path

import pytest
from sqlalchemy import Connection, text

from tests.workers.conftest import StartWorker, Until
from worker.scheduling import ScheduleSettings

CHORES = [name for name in ScheduleSettings.model_fields if name.endswith("_schedule")]
PERIOD = 2


@pytest.fixture
def environment() -> dict[str, str]:
    """One chore that is often due; the others are off."""
    return {name.upper(): "off" for name in CHORES} | {"PURGE_SCHEDULE": str(PERIOD)}


def runs(connection: Connection) -> list[tuple[str, float | None]]:
    """(chore, seconds since the run before) of all runs, in order."""
    found = connection.execute(
        text("""
            SELECT chore, extract(epoch FROM started_at - lag(started_at) OVER (ORDER BY started_at))::float
            FROM maintenance_runs ORDER BY started_at""")
    )
    return [(row[0], row[1]) for row in found]


def test_two_beats_have_a_chore_run_once(
    start: StartWorker, until: Until, connection: Connection, tmp_path: Path
) -> None:
    start("maintenance")
    first = start("beat")
    start("beat")
    until(lambda: len(runs(connection)) > 3)
    beats = "SELECT count(*) FROM heartbeats WHERE kind = 'beat'"
    until(lambda: connection.execute(text(beats)).scalar_one() == 2)
    first.kill("SIGKILL")
    before = len(runs(connection))
    until(lambda: len(runs(connection)) > before + 2)
    assert {chore for chore, _ in runs(connection)} == {"purge"}
    gaps = [gap for _, gap in runs(connection) if gap is not None]
    assert min(gaps) > PERIOD / 2, gaps
