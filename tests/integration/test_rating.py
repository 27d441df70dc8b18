"""Recorded searches: written beside the search, rated later, gone after their days; nobody sees another's."""

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy import Connection, text

from tests.conftest import Run
from worker import Document, rate, runs, submit
from worker.db.engine import driver_url
from worker.db.roles import make_roles
from worker.db.tenants import known_scope
from worker.errors import Exit, IngestError
from worker.queries import read_query
from worker.rating import LONGEST_COMMENT, UnknownRunError
from worker.resources import Resources, close_resources
from worker.searching import recording, search
from worker.settings import Settings, load_settings
from worker.types import Answer, Hit

HIT = Hit(
    0.5, {"vector": 0.5}, 0.5, UUID(int=1), UUID(int=2), "a.md", "/a.md", 1, 1, 0, 4, (), "text", "text", (),
    {}, {},
)  # fmt: skip
ANSWER = Answer((HIT,), latency_ms={"vector": 1.5})

# A role that row-level security binds, and which every new session of this database becomes.
_BIND = """
    CREATE ROLE bound_recorder;
    GRANT SELECT, INSERT ON evaluation_runs TO bound_recorder;
    ALTER TABLE evaluation_runs ENABLE ROW LEVEL SECURITY;
    CREATE POLICY bound ON evaluation_runs TO bound_recorder
        USING (tenant_id = nullif(current_setting('app.tenant', true), '')::uuid);
    ALTER ROLE "{user}" IN DATABASE {name} SET role bound_recorder"""
_FREE = """
    ALTER ROLE "{user}" IN DATABASE {name} RESET role;
    DROP OWNED BY bound_recorder;
    DROP ROLE bound_recorder"""

Record = Callable[..., UUID]


@pytest.fixture(autouse=True)
def _tenants(settings: Settings) -> None:
    for tenant in ("t", "other"):
        submit([Document.text("x", source_path="a.md")], tenant=tenant)


@pytest.fixture
def tenant_id(connection: Connection) -> UUID:
    return known_scope(connection, "t").tenant_id


@pytest.fixture
def record(resources: Resources, tenant_id: UUID) -> Record:
    def run(words: str = "the ship", **fields: Any) -> UUID:
        return recording.record(resources, tenant_id, read_query(text=words, **fields), ANSWER)

    return run


def test_recorded_search_is_read_as_it_was(record: Record) -> None:
    run_id = record(user="ann", k=3)
    [run] = runs(tenant="t")
    assert run.run_id == run_id
    assert (run.query, run.user, run.token_count) == ("the ship", "ann", 2)
    assert run.request == {"k": 3, "user": "ann", "mode": "hybrid"}
    assert run.response["hits"] == 1
    assert run.sources[0]["source_path"] == "/a.md"
    assert run.latency_ms == {"vector": 1.5}
    assert (run.thumbs, run.quality_score, run.comment) == (None, None, None)


def test_newest_come_first_and_no_more_than_asked_for(record: Record) -> None:
    ids = [record(f"query {number}") for number in range(3)]
    assert [run.run_id for run in runs(tenant="t", most=2)] == ids[:0:-1]


def test_what_is_said_is_kept_and_the_rest_stays(record: Record) -> None:
    run_id = record()
    assert rate(run_id, tenant="t", thumbs=1).thumbs == 1
    assert rate(str(run_id), tenant="t", quality_score=0.8).thumbs == 1
    run = rate(run_id, tenant="t", comment="good\0 one \ud800")
    assert (run.thumbs, run.quality_score, run.comment) == (1, 0.8, "good one \ufffd")
    assert run.request == {"mode": "hybrid"}
    assert runs(tenant="t") == [run]


def test_what_was_said_can_be_changed_and_taken_back(record: Record) -> None:
    run_id = record()
    rate(run_id, tenant="t", thumbs=1, quality_score=1, comment="fine")
    run = rate(run_id, tenant="t", thumbs=-1, quality_score=0, comment="no")
    assert (run.thumbs, run.quality_score, run.comment) == (-1, 0, "no")
    run = rate(run_id, tenant="t", thumbs=0, comment="")
    assert (run.thumbs, run.quality_score, run.comment) == (None, 0, None)


@pytest.mark.parametrize(
    ("said", "answer"),
    [
        ({}, "nothing is said"),
        ({"thumbs": 2}, "thumbs must be 1, -1, or 0"),
        ({"thumbs": True}, "thumbs must be 1, -1, or 0"),
        ({"quality_score": 1.01}, "a number from 0 to 1"),
        ({"quality_score": -0.01}, "a number from 0 to 1"),
        ({"quality_score": float("nan")}, "a number from 0 to 1"),
        ({"quality_score": 10**400}, "a number from 0 to 1"),
        ({"quality_score": True}, "a number from 0 to 1"),
        ({"quality_score": "1"}, "a number from 0 to 1"),
        ({"comment": "x" * (LONGEST_COMMENT + 1)}, "the comment has 10,001 characters"),
    ],
)
def test_what_cannot_be_said_is_refused(record: Record, said: Any, answer: str) -> None:
    run_id = record()
    with pytest.raises(IngestError, match=answer):
        rate(run_id, tenant="t", **said)
    assert (runs(tenant="t")[0].thumbs, runs(tenant="t")[0].quality_score) == (None, None)


@pytest.mark.parametrize("run_id", ["", "nonsense", "x" * 10_000, "\0", "'; DROP TABLE chunks; --", 7, None])
def test_what_is_no_id_is_named(run_id: Any) -> None:
    with pytest.raises(UnknownRunError, match="is not the id of a recorded search"):
        rate(run_id, tenant="t", thumbs=1)


def test_run_of_another_tenant_is_as_unknown_as_none(record: Record) -> None:
    mine, nobodys = record(), uuid4()
    for run_id in (mine, nobodys):
        with pytest.raises(UnknownRunError, match=f"tenant 'other' has no recorded search {run_id}"):
            rate(run_id, tenant="other", thumbs=1)
    assert runs(tenant="t")[0].thumbs is None
    assert runs(tenant="other") == []


def test_role_that_searches_may_look_and_judge(
    record: Record, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id = record()
    make_roles(settings, "rating_")
    url = driver_url(settings.database_url).set(username="rating_search", drivername="postgresql")
    close_resources()
    monkeypatch.setenv("DATABASE_URL", str(url))
    load_settings.cache_clear()
    assert rate(run_id, tenant="t", thumbs=1).thumbs == 1
    assert [run.run_id for run in runs(tenant="t")] == [run_id]
    with pytest.raises(UnknownRunError):
        rate(run_id, tenant="other", thumbs=1)


@pytest.mark.parametrize("most", [0, -1, 1_001, 10**30, True, 1.5, "1"])
def test_how_many_are_shown_is_bounded(most: Any) -> None:
    with pytest.raises(IngestError, match="most must be a whole number from 1 to 1,000"):
        runs(tenant="t", most=most)


@pytest.mark.parametrize(
    "call", [lambda: runs(tenant="nobody"), lambda: rate(uuid4(), tenant="nobody", thumbs=1)]
)
def test_unknown_tenant_is_named(call: Callable[[], object]) -> None:
    with pytest.raises(IngestError, match="there is no tenant 'nobody'"):
        call()


def test_record_is_written_as_the_tenant_and_the_connection_forgets_it(
    connection: Connection, settings: Settings, tenant_id: UUID
) -> None:
    name = connection.engine.url.database
    user = connection.execute(text("SELECT current_user")).scalar_one()
    connection.execute(text(_BIND.format(name=name, user=user)))
    bound = Resources(settings)
    try:
        recording.record(bound, tenant_id, read_query(text="a"), ANSWER)
        with bound.search_engine.connect() as opened:
            found = opened.execute(text("SELECT current_user, count(*) FROM evaluation_runs")).one()
        assert found == ("bound_recorder", 0)
        assert [run.query for run in runs(tenant="t")] == ["a"]
    finally:
        bound.close()
        connection.execute(text(_FREE.format(name=name, user=user)))


@pytest.mark.parametrize(("wanted", "every"), [(True, False), (False, True), (True, True), (False, False)])
def test_search_is_recorded_where_it_or_the_setting_says_so(
    settings: Settings, *, wanted: bool, every: bool
) -> None:
    mine = Resources(settings.model_copy(update={"search_record_all": every}))
    answer = search(mine, read_query(text="ship", mode="keyword", tenant="t", record=wanted))
    mine.close()
    assert [run.run_id for run in runs(tenant="t")] == ([answer.run_id] if wanted or every else [])
    assert (answer.run_id is not None) is (wanted or every)
    assert ("record" in answer.latency_ms) is (wanted or every)
    assert answer.dropped == ()


def test_record_that_cannot_be_written_is_named_in_the_answer(
    connection: Connection, settings: Settings
) -> None:
    name = connection.engine.url.database
    connection.execute(text(f"ALTER DATABASE {name} SET default_transaction_read_only = on"))
    replica = Resources(settings)
    answer = search(replica, read_query(text="ship", mode="keyword", tenant="t", record=True))
    replica.close()
    assert (answer.run_id, answer.dropped) == (None, ("record",))


def test_many_record_and_rate_at_once(record: Record) -> None:
    def both(number: int) -> UUID:
        run_id = record(f"query {number}")
        rate(run_id, tenant="t", thumbs=1)
        return run_id

    with ThreadPoolExecutor(4) as pool:
        ids = set(pool.map(both, range(40)))
    found = runs(tenant="t", most=100)
    assert {run.run_id for run in found} == ids
    assert {run.thumbs for run in found} == {1}


# -- the commands ----------------------------------------------------------------------------------


def test_command_shows_and_rates(record: Record, ingest: Run) -> None:
    assert ingest("runs", "--tenant", "t").stdout == b"no search was recorded\n"
    run_id = str(record("when do\n\x1b[31m you open " + "x" * 100))
    rated = ingest("rate", run_id, "--tenant", "t", "--up", "--score", "0.8", "--comment", "to the point")
    assert rated.stdout.decode() == f"{run_id}: up, score 0.8, to the point\n"
    assert (
        ingest("rate", run_id, "--tenant", "t", "--down")
        .stdout.decode()
        .startswith(f"{run_id}: down, score 0.8")
    )
    shown = ingest("runs", "--tenant", "t").stdout.decode()
    assert run_id in shown
    assert "down" in shown
    assert "\x1b" not in shown
    assert max(map(len, shown.splitlines())) < 160
    [run] = json.loads(ingest("runs", "--tenant", "t", "--json").stdout)
    assert (run["run_id"], run["thumbs"], run["quality_score"]) == (run_id, -1, 0.8)
    assert json.loads(ingest("rate", run_id, "--tenant", "t", "--up", "--json").stdout)["thumbs"] == 1


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["x", "--up"], "error: 'x' is not the id of a recorded search → "),
        ([str(UUID(int=7)), "--up"], f"error: tenant 't' has no recorded search {UUID(int=7)} → "),
        ([str(UUID(int=7))], "error: nothing is said of the search → "),
        ([str(UUID(int=7)), "--score", "1.5"], "error: the quality score must be a number from 0 to 1"),
        ([str(UUID(int=7)), "--score", "nan"], "error: the quality score must be a number from 0 to 1"),
        ([str(UUID(int=7)), "--up", "--tenant", "nobody"], "error: there is no tenant 'nobody' → "),
    ],
)
def test_command_says_in_one_line_what_is_wrong(ingest: Run, arguments: list[str], said: str) -> None:
    done = ingest("rate", "--tenant", "t", *arguments)
    assert done.returncode == Exit.USAGE
    assert done.stderr.decode().startswith(said)
    assert done.stderr.count(b"\n") == 1
