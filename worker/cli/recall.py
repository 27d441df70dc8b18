"""What `ingest doctor` says of recall: how much is found, where that is too little, and what mends it."""

from worker.cli.checks import Finding, State
from worker.cli.output import age, count
from worker.db import recall_history
from worker.db.engine import reach
from worker.db.recall_history import Latest
from worker.scheduling import OFF
from worker.settings import Settings
from worker.steps.falls import falls
from worker.steps.recall import K, Measured

NAME = "recall"
_MEASURE = "run `ingest maintain recall`"


def check_recall(settings: Settings) -> Finding:
    """Look at what the chore measured last."""
    return judge(reach(settings.database_url, recall_history.latest), settings)


def judge(latest: Latest, settings: Settings) -> Finding:
    """Judge what it measured, by the settings of today."""
    history, seconds_ago, not_measured = latest
    if history is None or seconds_ago is None:
        due = "not measured, by RECALL_SCHEDULE" if settings.recall_schedule == OFF else "not measured yet"
        return Finding(NAME, State.OK, not_measured or f"{due}; `ingest maintain recall` does it")
    found = falls(history, settings.recall_alert, settings.hnsw_m, settings.hnsw_ef_construction)
    seen = f"{age(seconds_ago)} ago"
    if found:
        more = f", and {count(len(found) - 1, 'more finding')}" if found[1:] else ""
        return Finding(NAME, State.FAILED, f"{found[0]}{more}, {seen}", found[0].mend)
    if seconds_ago > settings.late_seconds(NAME):
        why = f": {not_measured}" if not_measured else ""
        return Finding(NAME, State.WARNING, f"last measured {seen}{why}", _MEASURE)
    return Finding(NAME, State.OK, f"{_said(history.newest)}, {seen}")


def _said(newest: Measured) -> str:
    lowest = min(
        (one.figures.recall for one in newest.segments if one.figures.recall is not None), default=None
    )
    searches = newest.over_all.recall
    parts = [
        "searches compare one by one" if searches is None else f"recall@{K} {searches:.3f} of searches",
        *([] if lowest is None else [f"{lowest:.3f} in the worst segment"]),
    ]
    return ", ".join(parts)
