"""What `ingest doctor` reads in the tables: who is alive, what the schedule did, what is stuck."""

from collections.abc import Iterator
from typing import Any

from worker.cli.checks import Finding, State, unchecked
from worker.cli.output import age, printable
from worker.cli.recall import check_recall
from worker.cli.upkeep import NAMES as UPKEEP
from worker.cli.upkeep import judge_upkeep
from worker.db import operations, overview
from worker.db.engine import reach
from worker.db.overview import Health
from worker.db.schema import space_name, wanted_space
from worker.settings import Settings

_STUCK_SECONDS = 600
_HELD_UP_SHARE = 0.8
_WORKERS = ("ingest", "interactive", "search", "maintenance")
_NAMES = (
    "embedding space",
    *(f"{kind} worker" for kind in _WORKERS),
    "beat",
    "chores",
    *UPKEEP,
    "consistency",
    "sealing",
    "paused",
    "backlog",
    "recall",
)


def check_vitals(settings: Settings, *, migrated: bool) -> list[Finding]:
    """Look at what the tables tell, where there are tables."""
    if not migrated:
        return [unchecked(name) for name in _NAMES]
    seconds = settings.heartbeat_seconds * operations.STALE_AFTER
    health = reach(settings.database_url, lambda connection: overview.health(connection, seconds))
    return [*judge(health, settings), check_recall(settings)]


def judge(health: Health, settings: Settings) -> list[Finding]:
    """Judge what the tables tell."""
    return [
        _space(health, settings),
        *_workers(health),
        _beat(health, settings),
        _chores(health),
        *judge_upkeep(health),
        _consistency(health),
        _sealing(health, settings),
        *_paused(health),
        _backlog(health),
    ]


def _space(health: Health, settings: Settings) -> Finding:
    stored = space_name(health.dimension, health.column_type, health.metric)
    wanted = wanted_space(settings)
    if stored == wanted:
        return Finding("embedding space", State.OK, stored)
    mend = "set EMBEDDING_DIMENSION, EMBEDDING_TYPE and EMBEDDING_METRIC to what the database holds"
    return Finding(
        "embedding space", State.FAILED, f"the database holds {stored}, the settings say {wanted}", mend
    )


def _workers(health: Health) -> Iterator[Finding]:
    for kind in _WORKERS:
        alive = health.alive.get(kind, 0)
        if alive:
            yield Finding(f"{kind} worker", State.OK, f"{alive} alive")
        elif kind == "interactive":  # ingest workers do it, too, after what they are at
            seen = "none is running: what a person waits for waits for bulk batches to end"
            yield Finding(f"{kind} worker", State.WARNING, seen, f"run `ingest worker {kind}`")
        else:
            yield Finding(f"{kind} worker", State.FAILED, "none is running", f"run `ingest worker {kind}`")


def _beat(health: Health, settings: Settings) -> Finding:
    if not health.alive.get("beat"):
        return Finding("beat", State.FAILED, "not running", "run `ingest beat`")
    run = _last(health, "dispatch")
    since = None if run is None else run.seconds_ago
    if since is None or since > settings.late_seconds("dispatch"):
        seen = "its dispatch has not run" + ("" if since is None else f" for {age(since)}")
        return Finding("beat", State.WARNING, seen, "run `ingest worker maintenance`")
    return Finding("beat", State.OK, f"alive, dispatched {age(since)} ago")


def _last(health: Health, chore: str) -> Any:
    return next((run for run in health.runs if run.chore == chore), None)


def _chores(health: Health) -> Finding:
    failed = [run for run in health.runs if run.outcome == "failed"]
    if not failed:
        return Finding("chores", State.OK, f"{len(health.runs)} have run, the last time without failure")
    seen = "; ".join(f"{run.chore}: {printable(run.error_message or 'failed')}" for run in failed)
    return Finding("chores", State.FAILED, seen, f"run `ingest maintain {failed[0].chore}`")


def _consistency(health: Health) -> Finding:
    run = _last(health, "reconcile")
    if run is None or run.outcome == "failed":
        return Finding("consistency", State.OK, "not checked yet; `ingest verify` does it")
    if not run.details.get("left"):
        return Finding("consistency", State.OK, f"all as its rows say {age(run.seconds_ago)} ago")
    seen = f"{run.details['left']:,} things are not as their rows say"
    return Finding("consistency", State.FAILED, seen, "run `ingest verify`")


def _sealing(health: Health, settings: Settings) -> Finding:
    rows, most = health.segments.unsealed_rows, settings.most_unsealed_rows
    seen = f"{rows:,} rows without a vector index, at most {most:,}"
    blocked = next((build for build in health.segments.builds if build.blocker), None)
    if blocked:
        seen += f"; {blocked_build(blocked)}"
    if rows < _HELD_UP_SHARE * most:
        return Finding("sealing", State.OK, seen)
    mend = f"end the session {blocked.blocker}" if blocked else "run `ingest maintain seal`"
    return Finding("sealing", State.WARNING, f"{seen}; ingestion waits", mend)


def blocked_build(build: Any) -> str:
    """Name the session that an index build waits for."""
    since = "" if build.since_seconds is None else f", whose transaction began {age(build.since_seconds)} ago"
    return f"the index of {build.leaf} waits for session {build.blocker} ({build.waits_for}){since}"


def _paused(health: Health) -> Iterator[Finding]:
    if not health.paused:
        yield Finding("paused", State.OK, "nothing is paused")
    for pause in health.paused:
        why = f": {pause.reason}" if pause.reason else ""
        seen = printable(f"{pause.what}, for {age(pause.seconds)}, by {pause.paused_by}{why}")
        yield Finding("paused", State.WARNING, seen, f"`{printable(pause.end)}` when that is over")


def _backlog(health: Health) -> Finding:
    waiting = health.oldest_waiting_seconds
    if waiting is None:
        return Finding("backlog", State.OK, "nothing waits")
    seen = f"the oldest document waits for {age(waiting)}"
    if waiting > _STUCK_SECONDS and health.paused:
        return Finding("backlog", State.WARNING, seen, "resume what is paused, if that is what waits")
    if waiting > _STUCK_SECONDS and health.alive.get("ingest"):
        return Finding(
            "backlog", State.WARNING, seen, "run `ingest status`, then look at the ingest worker's log"
        )
    return Finding("backlog", State.OK, seen)
