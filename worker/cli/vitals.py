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
from worker.scheduling import OFF
from worker.settings import Settings
from worker.types import TaskName

_STUCK_SECONDS = 600
_HELD_UP_SHARE = 0.8
_WORKERS = ("ingest", "interactive", "search", "maintenance")
_NAMES = (
    "embedding space",
    *(f"{kind} worker" for kind in _WORKERS),
    "beat",
    "chores",
    *UPKEEP,
    "sealing",
    "paused",
    "batches",
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
        _chores(health, settings),
        *judge_upkeep(health),
        _sealing(health, settings),
        *_paused(health),
        *_batches(health),
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
    """Look whether the schedule is sent: a process that lives may still send nothing."""
    if not health.alive.get("beat"):
        return Finding("beat", State.FAILED, "not running: no chore is sent", "run `ingest beat`")
    late, scheduled = _late(health, settings), _scheduled(settings)
    if not scheduled:
        return Finding("beat", State.OK, "alive; every chore is off")
    if len(late) < len(scheduled):
        return Finding("beat", State.OK, "alive, and chores run")
    seen = "alive, but no chore has run" + (f" for {age(min(late.values()))}" if health.runs else "")
    if health.alive.get("maintenance"):
        mend = "start `ingest beat` again: its log says what keeps it from sending"
    else:
        mend = "run `ingest worker maintenance`"
    return Finding("beat", State.WARNING, seen, mend)


def _scheduled(settings: Settings) -> list[str]:
    return [name.chore for name in TaskName if name.chore and settings.timing(name.chore) != OFF]


def _late(health: Health, settings: Settings) -> dict[str, float]:
    """Give the chores that are late, and since when they have not run, in seconds.

    One that never ran counts from when beat was first heard of; one that runs now is not late.
    """
    last = {run.chore: float(run.seconds_ago) for run in health.runs}
    since = {chore: last.get(chore, health.beat_seconds or 0.0) for chore in _scheduled(settings)}
    return {
        chore: seconds
        for chore, seconds in since.items()
        if seconds > settings.late_seconds(chore) and chore not in health.running
    }


def _chores(health: Health, settings: Settings) -> Finding:
    failed = [run for run in health.runs if run.outcome == "failed"]
    late = _late(health, settings)
    said = [f"{run.chore} failed: {printable(run.error_message or 'it does not say why')}" for run in failed]
    said += [f"{chore} has not run for {age(seconds)}" for chore, seconds in late.items()]
    if not said:
        return Finding("chores", State.OK, f"{len(health.runs)} have run, the last time without failure")
    first = failed[0].chore if failed else next(iter(late))
    state = State.FAILED if failed else State.WARNING
    return Finding("chores", state, "; ".join(said), _mend_of(first, health))


def _mend_of(chore: str, health: Health) -> str:
    """Say what has a chore run: who sends it and who takes it come first."""
    if not health.alive.get("beat"):
        return "run `ingest beat`"
    if not health.alive.get("maintenance"):
        return "run `ingest worker maintenance`"
    return f"run `ingest maintain {chore}`, which says what is wrong"


def _sealing(health: Health, settings: Settings) -> Finding:
    rows, most = health.segments.unsealed_rows, settings.most_unsealed_rows
    seen = f"{rows:,} rows without a vector index, at most {most:,}"
    blocked = next((build for build in health.segments.builds if build.blocker), None)
    if blocked:
        seen += f"; {blocked_build(blocked)}"
    if rows < _HELD_UP_SHARE * most:
        return Finding("sealing", State.OK, seen)
    end = f"end that session: `SELECT pg_terminate_backend({blocked.blocker})`" if blocked else ""
    mend = end or "run `ingest maintain seal`, which says what is wrong"
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


def _batches(health: Health) -> Iterator[Finding]:
    if not health.troubles:
        yield Finding("batches", State.OK, "nothing holds up what is under way")
    for trouble in health.troubles:
        mend = "it goes on by itself once that is over; `ingest status --watch` follows it"
        yield Finding("batches", State.WARNING, held_up(trouble), mend)


def held_up(trouble: Any) -> str:
    """Say which batches under way do not go on, and why."""
    batches = "1 batch" if trouble.batches == 1 else f"{trouble.batches:,} batches"
    since = f"claimed {age(trouble.seconds)} ago"
    return printable(f"{batches} of {trouble.documents:,} documents, {since}: {trouble.trouble}")


def _backlog(health: Health) -> Finding:
    waiting = health.oldest_waiting_seconds
    if waiting is None:
        return Finding("backlog", State.OK, "nothing waits")
    seen = f"the oldest document waits for {age(waiting)}"
    if waiting > _STUCK_SECONDS and health.paused:
        return Finding(
            "backlog", State.WARNING, seen, "`ingest resume` what is paused, if that is what waits"
        )
    if waiting > _STUCK_SECONDS and health.alive.get("ingest"):
        mend = "run `ingest status --watch`, which says what holds it; then `ingest maintain dispatch`"
        return Finding("backlog", State.WARNING, seen, mend)
    return Finding("backlog", State.OK, seen)
