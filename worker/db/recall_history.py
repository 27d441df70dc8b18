"""What the chore `recall` has measured, as `maintenance_runs` has it: for doctor, metrics, and itself."""

from typing import NamedTuple

from sqlalchemy import Connection, text

from worker.steps.recall import History, Measured

# So many runs before the newest tell what is usual.
_EARLIER = 7


class Latest(NamedTuple):
    """The last measurement with those before it, how old it is, and why the last run measured nothing.

    The first two are None where there is none yet, the last is where the last run did measure.
    """

    history: History | None
    seconds_ago: float | None
    not_measured: str | None


def latest(connection: Connection) -> Latest:
    """Give what was measured last, and the trend. Two short statements over an index.

    For metrics: `history.newest.over_all` and each of `history.newest.segments` with its `leaf` have recall,
    worst decile and underfill; `history.usual` and `history.usual_of(segment)` are the medians of the runs
    before, from which the trend follows. Runs that failed or measured nothing are left out.
    """
    found = connection.execute(
        text("""
            SELECT details, extract(epoch FROM now() - started_at)::float AS seconds_ago
            FROM maintenance_runs
            WHERE chore = 'recall' AND outcome = 'done' AND details ? 'segments'
            ORDER BY started_at DESC LIMIT :most"""),
        {"most": 1 + _EARLIER},
    ).all()
    runs = [Measured.read(run.details) for run in found]
    history = History(runs[0], tuple(runs[1:])) if runs else None
    return Latest(history, found[0].seconds_ago if found else None, _not_measured(connection))


def _not_measured(connection: Connection) -> str | None:
    said: str | None = connection.execute(
        text("""
            SELECT details ->> 'not_measured' FROM maintenance_runs
            WHERE chore = 'recall' AND outcome = 'done' ORDER BY started_at DESC LIMIT 1""")
    ).scalar_one_or_none()
    return said
