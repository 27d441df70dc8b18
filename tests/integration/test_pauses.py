"""What is paused waits, whatever is under way; everything else goes on; resuming dispatches at once."""

from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import Connection, text

from tests.integration.reads import of_documents
from worker import Document, GivenChunk, GivenDocument, load, pause, paused, resume, submit, wait
from worker.cli.pause import say_paused
from worker.db import backlog, pauses
from worker.errors import IngestError, NoAnswerError
from worker.ingest import ingest_batch
from worker.producer import find
from worker.resources import Resources
from worker.settings import Settings
from worker.types import Lane

Drain = Callable[[], dict[str, int]]


@pytest.fixture(autouse=True)
def _use_settings(settings: Settings) -> None:
    """The producer's calls use the process's settings: those of this test."""


def texts(name: str, count: int = 2) -> list[Document]:
    return [Document.text(f"{name} tells of ship {n}.", source_path=f"{name} {n}") for n in range(count)]


def queued(connection: Connection) -> list[Any]:
    """The batches that are published and not claimed: (tenant, paths)."""
    found = connection.execute(
        text("""
            SELECT t.name, array_agg(d.source_path ORDER BY d.source_path) AS paths
            FROM batches b JOIN tenants t USING (tenant_id) JOIN documents d USING (batch_id)
            WHERE b.state = 'queued' GROUP BY b.batch_id, t.name ORDER BY min(b.created_at)""")
    )
    return [(row.name, row.paths) for row in found]


def claim_all(resources: Resources, connection: Connection) -> list[dict[str, int] | None]:
    ids = connection.execute(text("SELECT batch_id FROM batches WHERE state = 'queued'")).scalars().all()
    return [ingest_batch(resources, batch_id, "test") for batch_id in ids]


def statuses(connection: Connection) -> dict[str, str]:
    return {row.source_path: row.status for row in connection.execute(text("SELECT * FROM documents"))}


def test_a_paused_tenant_waits_and_the_others_go_on(
    resources: Resources, connection: Connection, drain: Drain
) -> None:
    submit(texts("theirs", 1), tenant="theirs")
    drain()
    assert pause(tenant="theirs", reason="their disk is full", by="ann")
    assert submit(texts("ours"), tenant="ours").paused == ()
    receipt = submit(texts("theirs"), tenant="theirs")
    assert [(one.tenant, one.reason, one.paused_by) for one in receipt.paused] == [
        ("theirs", "their disk is full", "ann")
    ]
    assert drain() == {"completed": 2}
    with pytest.raises(NoAnswerError):
        wait(receipt.document_ids, timeout_seconds=0)
    assert resume(tenant="theirs")
    assert queued(connection) == [("theirs", ["theirs 1"])], "it is dispatched when resume returns"
    assert drain() == {"completed": 1}
    assert paused() == []


def test_of_a_paused_project_nothing_goes_and_the_rest_of_its_tenant_in_its_order(
    resources: Resources, connection: Connection
) -> None:
    pause(everything=True)
    for project in ("held", "late", None, "early"):
        submit(texts(project or "none", 1), tenant="a", project=project)
    first = "UPDATE documents SET queued_at = now() - interval '1 h' WHERE source_path = 'early 0'"
    connection.execute(text(first))
    pause(tenant="a", project="held")
    connection.execute(text("DELETE FROM pauses WHERE tenant_id IS NULL"))
    twos = resources.settings.model_copy(update={"batch_documents": 2})
    with resources.engine.begin() as dispatching:
        while backlog.form(dispatching, Lane.BULK, twos):
            pass
    assert sorted(paths for _, paths in queued(connection)) == [["early 0", "late 0"], ["none 0"]]
    claim_all(resources, connection)
    resume(tenant="a", project="held")
    assert queued(connection) == [("a", ["held 0"])]


def test_projects_of_one_name_are_paused_by_their_tenant(connection: Connection, drain: Drain) -> None:
    for tenant in ("a", "b"):
        submit(texts("first", 1), tenant=tenant, project="docs")
    drain()
    pause(tenant="a", project="docs")
    for tenant in ("a", "b"):
        submit(texts(tenant, 1), tenant=tenant, project="docs")
    assert [tenant for tenant, _ in queued(connection)] == ["b"]


def test_a_paused_lane_leaves_the_other_alone(connection: Connection) -> None:
    pause(lane=Lane.BULK)
    submit(texts("bulk"))
    submit(texts("urgent", 1), lane=Lane.INTERACTIVE)
    assert queued(connection) == [("default", ["urgent 0"])]
    resume(lane=Lane.BULK)
    assert len(queued(connection)) == 2


def test_with_everything_paused_nothing_goes(connection: Connection, drain: Drain) -> None:
    pause(everything=True)
    for lane in Lane:
        assert submit(texts(lane, 1), lane=lane).paused
    assert queued(connection) == []
    assert drain() == {}
    resume(everything=True)
    assert drain() == {"completed": 2}


def test_a_batch_that_is_published_goes_back_uncharged_to_its_place(
    resources: Resources, connection: Connection, drain: Drain
) -> None:
    submit(texts("early"))
    before = connection.execute(text("SELECT document_id, queued_at FROM documents ORDER BY 1")).all()
    pause(tenant="default")
    assert claim_all(resources, connection) == [{}]
    after = connection.execute(
        text(
            "SELECT document_id, queued_at FROM documents WHERE attempts = 0 AND batch_id IS NULL ORDER BY 1"
        )
    ).all()
    assert after == before
    assert connection.execute(text("SELECT state FROM batches")).scalars().all() == ["finished"]
    assert drain() == {}
    resume(tenant="default")
    assert drain() == {"completed": 2}
    assert find(["early 0"])[0].attempts == 0


def test_of_a_batch_of_several_projects_only_what_is_paused_goes_back(
    resources: Resources, connection: Connection
) -> None:
    pause(everything=True)
    for project in ("held", "free"):
        submit(texts(project), project=project)
    resume(everything=True)
    assert len(queued(connection)) == 1
    pause(tenant="default", project="held")
    assert claim_all(resources, connection) == [{"completed": 2}]
    assert statuses(connection) == {
        "free 0": "completed", "free 1": "completed", "held 0": "pending", "held 1": "pending",
    }  # fmt: skip


def test_a_batch_under_way_finishes(resources: Resources, connection: Connection) -> None:
    submit(texts("early"))
    [batch_id] = connection.execute(text("SELECT batch_id FROM batches")).scalars()
    done = ingest_batch(resources, batch_id, "test", report=lambda *_: (pause(everything=True), None)[1])
    assert done == {"completed": 2}


def test_a_pause_committed_while_a_batch_is_formed_is_met_by_its_claim(
    resources: Resources, connection: Connection, other: Connection
) -> None:
    submit(texts("first", 1), tenant="a")
    claim_all(resources, connection)
    [tenant_id] = connection.execute(text("SELECT tenant_id FROM tenants")).scalars()
    pauses.pause(other, pauses.Target(tenant_id, None, None), None, "ann")
    submit(texts("second", 1), tenant="a")  # dispatched: nobody sees the pause yet
    other.commit()
    assert len(queued(connection)) == 1
    assert claim_all(resources, connection) == [{}]
    assert statuses(connection)["second 0"] == "pending"


def test_pausing_twice_is_one_pause_and_resuming_ends_it_once(connection: Connection) -> None:
    submit(texts("first", 1), tenant="a")
    assert pause(tenant="a", reason="the first", by="ann")
    assert not pause(tenant="a", reason="the second", by="ben")
    assert [(one.reason, one.paused_by) for one in paused()] == [("the first", "ann")]
    assert resume(tenant="a")
    assert not resume(tenant="a")


def test_what_two_pauses_hold_goes_on_when_both_have_ended(connection: Connection, drain: Drain) -> None:
    submit(texts("first", 1), tenant="a", project="p")
    drain()
    pause(tenant="a")
    pause(tenant="a", project="p", lane=Lane.BULK)
    submit(texts("second", 1), tenant="a", project="p")
    resume(tenant="a")
    assert queued(connection) == []
    assert [one.what for one in paused("a")] == ["tenant a, project p, queue bulk"]
    resume(tenant="a", project="p", lane=Lane.BULK)
    assert len(queued(connection)) == 1


def test_a_project_that_is_deleted_takes_its_pause_along(connection: Connection) -> None:
    connection.execute(text("INSERT INTO tenants (name) VALUES ('a')"))
    connection.execute(text("INSERT INTO projects (tenant_id, name) SELECT tenant_id, 'p' FROM tenants"))
    pause(tenant="a", project="p")
    connection.execute(text("DELETE FROM projects"))
    assert paused() == []
    with pytest.raises(IngestError, match="there is no tenant 'a' with a project 'p'"):
        resume(tenant="a", project="p")


@pytest.mark.parametrize(
    ("scope", "said"),
    [
        ({"tenant": "nobody"}, "there is no tenant 'nobody'"),
        ({"project": "p"}, "whose project 'p' is meant"),
        ({}, "name a tenant, a project or a queue"),
        ({"everything": True, "lane": Lane.BULK}, "name a tenant, a project or a queue"),
        ({"everything": True, "reason": ""}, "a reason has 1 to 500 characters"),
        ({"everything": True, "reason": "r" * 501}, "a reason has 1 to 500 characters"),
    ],
)
def test_what_is_not_meant_is_refused(scope: dict[str, Any], said: str) -> None:
    with pytest.raises(IngestError, match=said):
        pause(**scope)
    assert paused() == []


def test_tenants_that_have_nothing_but_paused_projects_do_not_keep_the_others_from_their_turn(
    resources: Resources, connection: Connection
) -> None:
    pause(everything=True)
    for number in range(7):
        submit(texts("held", 1), tenant=f"a{number}", project="p")
        pause(tenant=f"a{number}", project="p")
    submit(texts("free", 1), tenant="b")
    resume(everything=True)
    assert queued(connection) == [("b", ["free 0"])]


def test_what_is_paused_is_not_read_to_find_the_rest(resources: Resources, connection: Connection) -> None:
    pause(everything=True)
    submit([Document.text("x", source_path=f"held {n}") for n in range(3_000)], project="held")
    submit(texts("free", 3), project="free")
    connection.execute(text("VACUUM (ANALYZE) documents"))
    pause(tenant="default", project="held")
    resume(everything=True)
    connection.execute(text("UPDATE documents SET batch_id = NULL"))
    connection.execute(text("DELETE FROM batches"))
    read = of_documents(connection, lambda watched: backlog.form(watched, Lane.BULK, resources.settings))
    assert len(read) == 3, "the tenants, their documents, and these to lock"
    assert max(sum(scan.rows for scan in scans) for scans in read) <= 20


def test_a_load_waits_while_it_is_paused(connection: Connection, settings: Settings) -> None:
    submit(texts("first", 1), tenant="a")
    pause(tenant="a", reason="the disk is full", by="ann")
    heard: list[str] = []

    def held_up(why: str) -> None:
        heard.append(why)
        assert "loaded" not in statuses(connection)
        resume(tenant="a")

    vector = [0.1] * settings.embedding_dimension
    done = load([GivenDocument("loaded", [GivenChunk("a ship", vector)])], tenant="a", held_up=held_up)
    assert done.completed == 1
    assert len(heard) == 1
    assert heard[0].startswith("tenant a is paused since ")
    assert heard[0].endswith("by ann: the disk is full; `ingest resume --tenant a` ends it")


def test_hostile_names_stay_in_their_line(capsys: pytest.CaptureFixture[str]) -> None:
    submit(texts("first", 1), tenant="a\x1b[31m\nb")
    pause(tenant="a\x1b[31m\nb", reason="x\ny", by="ann\x07")
    say_paused(paused())
    assert len(capsys.readouterr().out.splitlines()) == 3
