"""What doctor and status say of the chores that look after tables and indexes."""

from types import SimpleNamespace
from typing import Any

import pytest

from worker.cli.checks import Finding, State
from worker.cli.upkeep import judge_upkeep, vacuum_under_way

OLDEST = {"name": "documents", "age": 20_000_000, "share": 0.1}
SLOT = {"kind": "replication slot", "name": "old's", "who": "not in use", "seconds": None}
REPLICA = {"kind": "replica", "name": "9", "who": "walreceiver, streaming", "seconds": None}
PREPARED = {"kind": "prepared transaction", "name": "left", "who": "alice", "seconds": 7200.0}
LARGE = {"index": "documents_status_idx", "times_a_fresh_one": 3.0}


def judged(chore: str, **details: Any) -> Finding:
    runs = [SimpleNamespace(chore=chore, outcome="done", seconds_ago=60.0, details=details)]
    names = {"indexes": "indexes", "reindex": "index sizes", "vacuum": "vacuum"}
    health: Any = SimpleNamespace(runs=runs)
    return next(found for found in judge_upkeep(health) if found.name == names[chore])


def test_what_has_not_run_yet_is_no_finding() -> None:
    health: Any = SimpleNamespace(runs=[])
    assert {found.state.value for found in judge_upkeep(health)} == {"ok"}


@pytest.mark.parametrize("chore", ["indexes", "reindex", "vacuum", "reconcile"])
def test_of_a_run_that_failed_nothing_is_called_well(chore: str) -> None:
    runs = [SimpleNamespace(chore=chore, outcome="failed", seconds_ago=60.0, details={})]
    health: Any = SimpleNamespace(runs=runs)
    [found] = [found for found in judge_upkeep(health) if found.state is not State.OK]
    assert (found.state, found.mend) == (State.UNCHECKED, f"run `ingest maintain {chore}`")


@pytest.mark.parametrize(
    ("chore", "details", "state", "seen", "mend"),
    [
        (
            "vacuum",
            {"oldest_unfrozen": OLDEST},
            "ok",
            "done 60 s ago; documents is 10% of the way to a forced one",
            "",
        ),
        (
            "vacuum",
            {"oldest_unfrozen": OLDEST | {"share": 1.2, "age": 240_000_000}},
            "warning",
            "documents is 240,000,000 transactions old and was not frozen",
            "run `ingest maintain vacuum`",
        ),
        (
            "vacuum",
            {"held_by": [{"table": "documents", "dead_rows": 5000, **SLOT}]},
            "warning",
            "5,000 dead rows of documents are kept by replication slot old's (not in use)",
            "start who reads it, or SELECT pg_drop_replication_slot('old''s')",
        ),
        (
            "vacuum",
            {"held_by": [{"table": "documents", "dead_rows": 5000, **REPLICA}]},
            "warning",
            "5,000 dead rows of documents are kept by replica 9 (walreceiver, streaming)",
            "end its longest query: SELECT pg_cancel_backend(pid); or turn hot_standby_feedback off",
        ),
        (
            "vacuum",
            {"held_by": [{"table": "documents", "dead_rows": 5000, **PREPARED}]},
            "warning",
            "5,000 dead rows of documents are kept by prepared transaction left (alice), for 2 h",
            "end it: ROLLBACK PREPARED 'left', or COMMIT PREPARED",
        ),
        (
            "vacuum",
            {"held_by": [{"table": "documents", "dead_rows": 5000, "kind": "unknown"}]},
            "warning",
            "5,000 dead rows of documents are kept by somebody whom the role does not see",
            "run `ingest roles`: its roles see who it is",
        ),
        (
            "reindex",
            {"left": [], "sizes_by": "pgstattuple"},
            "ok",
            "as their rows need 60 s ago, by pgstattuple",
            "",
        ),
        (
            "reindex",
            {"left": [LARGE | {"why": "outside of MAINTENANCE_WINDOW"}]},
            "warning",
            "documents_status_idx takes 3 times what its rows need: outside of MAINTENANCE_WINDOW",
            "run `ingest maintain reindex`",
        ),
        (
            "reindex",
            {"left": [LARGE | {"why": "a transaction is open for long", "held_by": PREPARED}]},
            "warning",
            (
                "documents_status_idx takes 3 times what its rows need:"
                " a transaction is open for long (prepared transaction left (alice), for 2 h)"
            ),
            "end it: ROLLBACK PREPARED 'left', or COMMIT PREPARED",
        ),
    ],
)
def test_each_finding_says_what_it_is_and_what_mends_it(
    chore: str, details: dict[str, Any], state: str, seen: str, mend: str
) -> None:
    found = judged(chore, **details)
    assert (found.state.value, found.seen, found.mend) == (state, seen, mend)


@pytest.mark.parametrize(
    ("state", "said"),
    [
        (("scanning heap", 0.42, 1, None, None, True), "scanning heap, 42%"),
        (("vacuuming indexes", 1.0, 2, None, None, False), "vacuuming indexes, pass 2"),
        (
            ("vacuuming indexes", 1.0, 1, 5, 7, True),
            "vacuuming indexes, 5 of 7, its vector index among them, pass 1",
        ),
        (("initializing", None, 1, None, None, False), "initializing"),
    ],
)
def test_how_far_a_vacuum_is(state: tuple[Any, ...], said: str) -> None:
    columns = ("phase", "done", "index_pass", "indexes_done", "indexes_total", "has_graph")
    row = SimpleNamespace(leaf="chunks_s000001", **dict(zip(columns, state, strict=True)))
    assert vacuum_under_way(row) == f"VACUUM of chunks_s000001: {said}"
