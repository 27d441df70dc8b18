"""vacuum: VACUUM (ANALYZE) of the tables that need it, smallest first; worn graphs are built anew before."""

from collections import defaultdict
from typing import Any

from worker.db import builds, horizon, vacuums
from worker.db.vacuums import Due
from worker.maintenance.leeway import hindrance, lacks_room, rebuild
from worker.maintenance.turn import Turn

MOST_TABLES = 20
# From here on building a graph anew takes less than having VACUUM repair it (docs/decisions/0015).
_ANEW_SHARE = 0.05
_DETAILS = (
    "vacuumed", "frozen", "rebuilt_first", "analyzed", "locked", "refused", "waiting", "held_by", "still_due",
)  # fmt: skip

Found = defaultdict[str, list[Any]]


def run(turn: Turn) -> dict[str, Any]:
    """Give what was done to which tables, what waits and why, who holds dead rows, the oldest freeze age."""
    due = vacuums.due(turn.connection)
    if turn.dry_run:
        first = [table.table for table in due if _is_better_anew(table)]
        return {"to_vacuum": [table.table for table in due], "to_rebuild_first": first, **_age(turn)}
    found: Found = defaultdict(list)
    # what waits takes no time, and is the smallest each run: it must not keep the others from their turn
    while due and len(found["vacuumed"]) + len(found["analyzed"]) < MOST_TABLES:
        _treat(turn, due.pop(0), found)
    found["still_due"] = [table.table for table in due]
    return {name: found[name] for name in _DETAILS} | _age(turn)


def _treat(turn: Turn, table: Due, found: Found) -> None:
    """Do what may be done now: freezing, and taking the dead out of a graph, are heavy."""
    worn_graph = table.has_graph and table.is_worn
    refusal = hindrance(turn) if worn_graph or table.aged else None
    if refusal:
        found["waiting"].append({"table": table.table, **refusal})
        if worn_graph and refusal.get("held_by"):
            found["held_by"].append(_held(table, refusal["held_by"]))
    if table.has_graph and (refusal or not (worn_graph or table.aged)):
        if table.stale:
            _analyze(turn, table, found)
    elif table.is_worn or table.stale or not refusal:
        _vacuum(turn, table, found, freeze=table.aged and not refusal)


def _analyze(turn: Turn, table: Due, found: Found) -> None:
    before = vacuums.state(turn.connection, table.table).analyzed
    vacuums.analyze(turn.connection, table.table)
    done = vacuums.state(turn.connection, table.table).analyzed > before
    found["analyzed" if done else _undone(turn, table)].append(table.table)


def _undone(turn: Turn, table: Due) -> str:
    return "locked" if vacuums.may_vacuum(turn.connection, table.table) else "refused"


def _vacuum(turn: Turn, table: Due, found: Found, *, freeze: bool) -> None:
    if _is_better_anew(table) and not _rebuilt(turn, table, found):
        return
    before = vacuums.state(turn.connection, table.table).vacuumed
    vacuums.vacuum(turn.connection, table, freeze=freeze)
    after = vacuums.state(turn.connection, table.table)
    if after.vacuumed == before:
        found[_undone(turn, table)].append(table.table)
        return
    found["vacuumed"].append(table.table)
    if freeze:
        found["frozen"].append(table.table)
    left = table._replace(dead=after.dead)
    if left.is_worn:
        found["held_by"].append(_held(left, horizon.oldest(turn.connection)))


def _held(table: Due, holder: dict[str, Any] | None) -> dict[str, Any]:
    return {"table": table.table, "dead_rows": table.dead, **(holder or {"kind": "unknown"})}


def _is_better_anew(table: Due) -> bool:
    return table.has_graph and table.is_worn and table.dead_share >= _ANEW_SHARE


def _rebuilt(turn: Turn, table: Due, found: Found) -> bool:
    """Build its graph anew; where there is no room for that, VACUUM has to repair it."""
    index = builds.index_name(table.table)
    if not builds.is_valid(turn.connection, table.table):
        return True  # it is being made, or owed: seal's
    if lacks_room(turn, builds.size_of(turn.connection, index)):
        return True
    failed = rebuild(turn, index, table.table)
    if failed:
        found["waiting"].append({"table": table.table, **failed})
        return False
    found["rebuilt_first"].append(table.table)
    return True


def _age(turn: Turn) -> dict[str, Any]:
    return {"oldest_unfrozen": vacuums.oldest_unfrozen(turn.connection)._asdict()}
