"""What the chores that look after tables and indexes found, as `ingest doctor` and `ingest status` say it."""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from worker.cli.checks import Finding, State
from worker.cli.output import age, printable
from worker.db.overview import Health

NAMES = ("indexes", "index sizes", "vacuum", "consistency")
# Of the way to a forced VACUUM: from here on the server begins with it at any time.
_AGED = 0.95
_CHORES = {"indexes": "indexes", "index sizes": "reindex", "vacuum": "vacuum", "consistency": "reconcile"}

_LEAF = re.compile(r"((chunks|postings)_(?:s0*(\d+)|trash)) (is gone|lacks)")

Details = Mapping[str, Any]


def judge_upkeep(health: Health) -> Iterator[Finding]:
    """Judge the last run of each."""
    judges = {"indexes": _indexes, "index sizes": _sizes, "vacuum": _vacuum, "consistency": _consistency}
    for name, judge in judges.items():
        chore = _CHORES[name]
        run = next((run for run in health.runs if run.chore == chore), None)
        if run is None:
            yield Finding(
                name, State.OK, f"not due for their first check yet; `ingest maintain {chore}` does it"
            )
        elif run.outcome != "done":  # it may have looked at nothing; `chores` says why
            seen = "not known: the last run failed"
            yield Finding(name, State.UNCHECKED, seen, f"run `ingest maintain {chore}`")
        else:
            yield judge(name, run.details, age(run.seconds_ago))


def _consistency(name: str, details: Details, ago: str) -> Finding:
    if not details.get("left"):
        return Finding(name, State.OK, f"all as its rows say {ago} ago")
    seen = f"{details['left']:,} things are not as their rows say"
    return Finding(name, State.FAILED, seen, "run `ingest verify`")


def _indexes(name: str, details: Details, ago: str) -> Finding:
    if damaged := details.get("damaged"):
        seen = "; ".join(f"{found['index']} is damaged: {printable(found['why'])}" for found in damaged)
        mend = (
            f"look for what is wrong with the disk, then run REINDEX INDEX CONCURRENTLY {damaged[0]['index']}"
        )
        return Finding(name, State.FAILED, seen, mend)
    if missing := details.get("missing"):
        why = "".join(f"; {found['index']}: {_refused(found)}" for found in details.get("not_made", ()))
        return Finding(name, State.FAILED, ", ".join(missing) + why, _restored(details))
    if invalid := details.get("invalid"):
        mend = f"run REINDEX INDEX CONCURRENTLY {invalid[0]}, or drop it, then `ingest maintain indexes`"
        return Finding(name, State.FAILED, f"{', '.join(invalid)} cannot be used", mend)
    if unknown := details.get("without_statistics"):
        seen = f"the planner knows nothing of {', '.join(unknown)}, and may search without an index"
        return Finding(name, State.WARNING, seen, "run `ingest maintain vacuum`")
    return Finding(name, State.OK, f"all valid {ago} ago{_spare(details)}")


def _restored(details: Details) -> str:
    """Say what brings back the first that is gone: a leaf, its place, a key, or another index."""
    leaf = _LEAF.match(details["missing"][0])
    if leaf and leaf[4] == "lacks":
        return f"run ALTER TABLE {leaf[2]} ATTACH PARTITION {leaf[1]} FOR VALUES IN ({leaf[3] or -1})"
    if leaf and leaf[3]:
        return "make it anew by `ingest verify --repair`; what cannot be read again is in your backups"
    if leaf:
        return "restore the table from a backup, then run `ingest verify`"
    mends = [found["mend"] for found in details.get("not_made", ()) if "mend" in found]
    return f"run {mends[0]}" if mends else "run `ingest maintain indexes`"


def _spare(details: Details) -> str:
    """Name what is there for nothing: to drop it is a person's decision."""
    said = [f"{found['index']} is the same as {found['same_as']}" for found in details.get("duplicates", ())]
    said += [
        f"{found['index']} was never used since {found['since'][:10]}" for found in details.get("unused", ())
    ]
    return "".join(f"; {line}" for line in said)


def _sizes(name: str, details: Details, ago: str) -> Finding:
    left = details.get("left", ())
    if not left:
        return Finding(
            name, State.OK, f"as their rows need {ago} ago, by {details.get('sizes_by', 'estimate')}"
        )
    seen = "; ".join(
        f"{found['index']} takes {found['times_a_fresh_one']:g} times what its rows need: {_refused(found)}"
        for found in left
    )
    held = left[0].get("held_by")
    return Finding(name, State.WARNING, seen, _ended(held) if held else "run `ingest maintain reindex`")


def _vacuum(name: str, details: Details, ago: str) -> Finding:
    if refused := details.get("refused"):
        seen = f"the role may not vacuum {', '.join(refused)}"
        return Finding(
            name, State.FAILED, seen, "run `ingest roles`, and set MAINTENANCE_DATABASE_URL as it says"
        )
    if held := details.get("held_by"):
        seen = "; ".join(
            f"{found['dead_rows']:,} dead rows of {found['table']} are kept by {_holder(found)}"
            for found in held
        )
        return Finding(name, State.WARNING, seen, _ended(held[0]))
    oldest = details.get("oldest_unfrozen", {})
    share, table = oldest.get("share", 0), oldest.get("name", "")
    if share >= _AGED:
        seen = f"{table} is {oldest['age']:,} transactions old and was not frozen"
        return Finding(name, State.WARNING, seen, "run `ingest maintain vacuum`")
    return Finding(name, State.OK, f"done {ago} ago; {table} is {share:.0%} of the way to a forced one")


def _refused(found: Details) -> str:
    held = found.get("held_by")
    return f"{found['why']} ({_holder(held)})" if held else str(found["why"])


def _holder(found: Details) -> str:
    if found["kind"] == "unknown":
        return "somebody whom the role does not see"
    since = "" if found.get("seconds") is None else f", for {age(found['seconds'])}"
    return f"{found['kind']} {printable(found['name'])} ({printable(found['who'])}){since}"


def _ended(found: Details) -> str:
    """Say what ends whoever holds maintenance up."""
    name = str(found.get("name", "")).replace("'", "''")
    return {
        "session": f"end it: SELECT pg_terminate_backend({name})",
        "prepared transaction": f"end it: ROLLBACK PREPARED '{name}', or COMMIT PREPARED",
        "replica": "end its longest query: SELECT pg_cancel_backend(pid); or turn hot_standby_feedback off",
        "replication slot": f"start who reads it, or SELECT pg_drop_replication_slot('{name}')",
    }.get(found["kind"], "run `ingest roles`: its roles see who it is")


def vacuum_under_way(vacuum: Any) -> str:
    """Say how far a VACUUM is: the share of the table's pages, and the indexes it is at."""
    done = "" if vacuum.done is None else f", {vacuum.done:.0%}"
    if vacuum.phase != "vacuuming indexes":
        return f"VACUUM of {vacuum.leaf}: {vacuum.phase}{done}"
    counted = "" if vacuum.indexes_total is None else f", {vacuum.indexes_done} of {vacuum.indexes_total}"
    graph = ", its vector index among them" if vacuum.has_graph else ""
    return f"VACUUM of {vacuum.leaf}: {vacuum.phase}{counted}{graph}, pass {vacuum.index_pass}"
