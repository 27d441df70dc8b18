"""Merging segments on a real server: nothing lost, nothing brought back, nobody kept waiting."""

from collections.abc import Callable
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import Connection, text

from tests.integration.test_maintenance import value
from tests.integration.test_sealing import (
    SMALL_SEGMENTS,
    WAITING,
    Drain,
    document,
    found_by,
    in_background,
    indexes,
    ingested,
    seal,
    vectors,
    wait_for,
)
from worker import delete, restore, submit
from worker.db import segments
from worker.maintenance import compact as compaction
from worker.maintenance.run import run_chore
from worker.resources import Resources, close_resources


@pytest.fixture
def environment() -> dict[str, str]:
    return SMALL_SEGMENTS


@pytest.fixture
def four(resources: Resources, drain: Drain) -> dict[str, UUID]:
    """Four sealed segments with a document each."""
    found = {}
    for name in "abcd":
        [found[name]] = ingested(drain, document(name))
        seal(resources)
    return found


def compact(resources: Resources) -> dict[str, Any]:
    return run_chore(resources, "compact")


def states(connection: Connection) -> dict[int, str]:
    found = connection.execute(
        text("SELECT segment, state FROM segments WHERE state NOT IN ('spare', 'trash')")
    )
    return {row.segment: row.state for row in found}


def texts(*names: str, chunks: int = 25) -> list[str]:
    return sorted(f"{name} {n}" for name in names for n in range(chunks))


def everything(resources: Resources) -> list[str]:
    return sorted(found_by(resources, vectors(1)[0], k=200))


def merged_segment(connection: Connection) -> int:
    return int(value(connection, "SELECT segment FROM segments WHERE state = 'sealed'"))


def test_four_segments_become_one(
    resources: Resources, four: dict[str, UUID], connection: Connection
) -> None:
    wanted = vectors(1)[0]
    before = found_by(resources, wanted)
    sources = [f"chunks_s{number:06d}" for number in (1, 2, 3, 4)]
    assert compact(resources) == {"outcome": "done", "merged": sources, "rows_copied": 100, "freed": sources}
    assert states(connection) == {5: "open", 6: "sealed"}
    assert indexes(connection) == {"chunks_s000006_embedding_idx": True}
    assert value(connection, "SELECT sealed_rows FROM segments WHERE segment = 6") == 100
    assert found_by(resources, wanted) == before
    assert everything(resources) == texts(*"abcd")


def test_rows_are_copied_as_they_are(
    resources: Resources, four: dict[str, UUID], connection: Connection
) -> None:
    digest = """
        SELECT md5(string_agg(md5((to_jsonb(c) - 'segment')::text), '' ORDER BY chunk_id)) FROM chunks c
        WHERE segment IN (SELECT segment FROM segments WHERE state IN ('open', 'sealing', 'sealed'))"""
    before = value(connection, digest)
    compact(resources)
    assert value(connection, digest) == before


def test_emptied_leaves_are_used_again(
    resources: Resources, drain: Drain, four: dict[str, UUID], connection: Connection
) -> None:
    compact(resources)
    assert value(connection, "SELECT count(*) FROM chunks_s000001") == 0
    ingested(drain, document("e"))
    seal(resources)
    assert states(connection)[1] == "open"
    ingested(drain, document("f"))
    assert everything(resources) == texts(*"abcdef")


def test_an_emptied_leaf_is_kept_while_an_older_transaction_is_open(
    resources: Resources, four: dict[str, UUID], connection: Connection, other: Connection
) -> None:
    listed = segments.in_list(segments.visible(other))
    assert compact(resources)["freed"] == []
    assert states(connection)[1] == "emptied"
    assert value(other, f"SELECT count(*) FROM chunks WHERE segment IN ({listed})") == 100
    assert compact(resources)["freed"] == []
    other.rollback()
    assert len(compact(resources)["freed"]) == 4


def test_a_deletion_under_way_at_the_copy_is_not_undone(
    resources: Resources, four: dict[str, UUID], connection: Connection, other: Connection
) -> None:
    other.execute(text("UPDATE documents SET deleted_at = now() WHERE document_id = :id"), {"id": four["b"]})
    other.execute(text("DELETE FROM chunks WHERE segment = 2 AND document_id = :id"), {"id": four["b"]})
    with in_background(lambda: compact(resources)) as compacting:
        wait_for(connection, "EXISTS (SELECT 1 FROM chunks_s000006 WHERE text LIKE 'b %')")  # copied
        other.commit()
        assert compacting.result(60)["rows_copied"] == 100
    assert everything(resources) == texts(*"acd")


@pytest.mark.parametrize("change", ["delete", "edit", "delete and restore"])
def test_changes_beside_the_build_reach_the_copy(
    change: str,
    resources: Resources,
    drain: Drain,
    four: dict[str, UUID],
    connection: Connection,
    other: Connection,
) -> None:
    hold(other)
    with in_background(lambda: compact(resources)) as compacting:
        wait_for(connection, WAITING)
        wanted = CHANGES[change](four, drain)
        assert not compacting.done()
        other.rollback()
        compacting.result(60)
    assert everything(resources) == wanted
    counted = (
        "SELECT count(*) FROM chunks WHERE segment IN (SELECT segment FROM segments WHERE state = 'sealed')"
    )
    assert value(connection, counted) == 75


def hold(other: Connection) -> None:
    """Keep an old snapshot, which a build waits for."""
    other.execution_options(isolation_level="REPEATABLE READ")
    assert value(other, "SELECT count(*) FROM segments") > 0


def _delete(four: dict[str, UUID], _: Drain) -> list[str]:
    assert delete([four["c"]]) == 1
    return texts(*"abd")


def _edit(four: dict[str, UUID], drain: Drain) -> list[str]:
    assert list(submit([document("c", chunks=10)]).changed) == [four["c"]]
    assert drain() == {"completed": 1}
    return sorted(texts(*"abd") + texts("c", chunks=10))


def _delete_and_restore(four: dict[str, UUID], _: Drain) -> list[str]:
    delete([four["c"]])
    assert restore([four["c"]]) == 1
    return texts(*"abcd")


CHANGES: dict[str, Callable[[dict[str, UUID], Drain], list[str]]] = {
    "delete": _delete,
    "edit": _edit,
    "delete and restore": _delete_and_restore,
}


@pytest.mark.parametrize(("change", "looks"), [("delete", "visible"), ("edit", "holding")])
def test_who_read_the_list_before_a_merge_deletes_the_copies_too(
    change: str,
    looks: str,
    resources: Resources,
    drain: Drain,
    four: dict[str, UUID],
    connection: Connection,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    look = getattr(segments, looks)
    merged: list[dict[str, Any]] = []

    def look_and_be_late(asking: Connection) -> list[int]:
        found: list[int] = look(asking)
        if not merged:  # the moment between the look at the list and the statement
            merged.append({})
            merged[0] |= compact(resources)
        return found

    monkeypatch.setattr(segments, looks, look_and_be_late)
    wanted = CHANGES[change](four, drain)
    assert (merged[0]["rows_copied"], merged[0]["freed"]) == (100, [])
    assert everything(resources) == wanted


def test_a_worn_segment_is_built_anew(resources: Resources, drain: Drain, connection: Connection) -> None:
    first, _ = (ingested(drain, document(name, chunks=15))[0] for name in "ab")
    seal(resources)
    delete([first])
    close_resources()  # the server hears of what a session did when it ends
    assert compact(resources)["merged"] == ["chunks_s000001"]
    assert value(connection, "SELECT sealed_rows FROM segments WHERE state = 'sealed'") == 15
    assert everything(resources) == texts("b", chunks=15)
    assert compact(resources)["merged"] == []


def test_lost_statistics_wear_nothing_out(resources: Resources, drain: Drain, connection: Connection) -> None:
    ingested(drain, document("a"))
    seal(resources)
    value(connection, "SELECT pg_stat_reset()::text")
    assert compact(resources)["merged"] == []


def test_a_merge_cut_short_is_begun_again(
    resources: Resources, four: dict[str, UUID], connection: Connection, other: Connection
) -> None:
    asked: list[bool] = []
    hold(other)
    with in_background(lambda: run_chore(resources, "compact", stopping=lambda: bool(asked))) as compacting:
        wait_for(connection, WAITING)
        asked.append(True)
        assert compacting.exception(60) is not None
    other.rollback()
    assert list(states(connection).values()).count("merging") == 1
    assert everything(resources) == texts(*"abcd")
    assert compact(resources)["rows_copied"] == 100
    assert everything(resources) == texts(*"abcd")
    assert "merging" not in states(connection).values()


def test_nothing_is_merged_while_a_segment_waits_for_its_first_index(
    resources: Resources, four: dict[str, UUID], connection: Connection
) -> None:
    connection.execute(text("UPDATE segments SET state = 'sealing' WHERE state = 'open'"))
    assert compact(resources)["merged"] == []


def test_where_there_are_many_segments_merging_waits_for_no_index(
    resources: Resources,
    four: dict[str, UUID],
    connection: Connection,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(compaction, "_MANY", len(four))
    connection.execute(text("UPDATE segments SET state = 'sealing' WHERE state = 'open'"))
    assert compact(resources)["rows_copied"] == 100
    connection.execute(text("UPDATE segments SET state = 'open' WHERE state = 'sealing'"))
    assert everything(resources) == texts(*"abcd")


def test_merging_makes_the_leaves_it_needs(
    resources: Resources, drain: Drain, four: dict[str, UUID], connection: Connection
) -> None:
    for name in "efghijkl":
        ingested(drain, document(name))
        seal(resources)
    for leaf in connection.execute(text("SELECT leaf FROM segments WHERE state = 'spare'")).scalars().all():
        connection.execute(text(f"DROP TABLE {leaf}"))
    assert len(compact(resources)["merged"]) >= 12
    assert list(states(connection).values()).count("sealed") < 4
    assert sorted(found_by(resources, vectors(1)[0], k=400)) == texts(*"abcdefghijkl")
