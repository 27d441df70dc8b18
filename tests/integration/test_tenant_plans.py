"""The plans of searches as the search role: row-level security costs no index, and is asked once."""

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from sqlalchemy import Connection, Engine, event, text

from tests.integration.tenancy import DIMENSION, OPEN, SEALED, World, build
from worker.db.grants import Role
from worker.db.passages import passages
from worker.db.tenants import set_tenant, tenant_transaction
from worker.embedded import RunningValkey

QUERY = str([1.0] + [0.1] * (DIMENSION - 1))
SEGMENTS = ", ".join(map(str, (*SEALED, OPEN)))
NEAREST = f"""
SELECT chunk_id, tenant_id, embedding <=> CAST('{QUERY}' AS vector) AS distance FROM chunks
WHERE segment IN ({SEGMENTS}) AND tenant_id = '{{tenant}}' AND embedding IS NOT NULL{{more}}
ORDER BY (embedding <=> CAST('{QUERY}' AS vector)) LIMIT 20"""
LOOKUP = f"""
SELECT segment, term, block, chunks, occurrences, entries FROM postings
WHERE segment IN ({SEGMENTS}) AND tenant_id = '{{tenant}}' AND term = ANY(ARRAY['common', '117', '12'])"""


@pytest.fixture(scope="module")
def world(new_database: Callable[[str | None], str], valkey: RunningValkey) -> World:
    return build(new_database, valkey, "plans_")


@pytest.fixture(params=[Role.SEARCH, Role.INGEST, Role.OWNER], scope="module")
def engine(world: World, request: pytest.FixtureRequest) -> Iterator[Engine]:
    made = world.engine(request.param)
    yield made
    made.dispose()


@pytest.fixture(scope="module")
def searching(world: World) -> Iterator[Engine]:
    made = world.engine(Role.SEARCH)
    yield made
    made.dispose()


def planned(connection: Connection, statement: str, *, analyse: bool = False) -> dict[str, Any]:
    connection.execute(text("SET LOCAL hnsw.iterative_scan = strict_order; SET LOCAL hnsw.ef_search = 40"))
    how = "ANALYZE, " if analyse else ""
    [found] = connection.execute(text(f"EXPLAIN ({how}FORMAT JSON) {statement}")).scalar_one()
    plan: dict[str, Any] = found["Plan"]
    return plan


def nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for below in plan.get("Plans", ()):
        yield from nodes(below)


def indexes(plan: dict[str, Any]) -> dict[str, str | None]:
    """How each leaf is read: {leaf: index}, None where it is read through."""
    return {node["Relation Name"]: node.get("Index Name") for node in nodes(plan) if "Relation Name" in node}


@pytest.mark.parametrize("more", ["", " AND project_id IS NOT NULL"])
def test_the_nearest_are_merged_from_the_indexes_of_sealed_leaves(
    more: str, world: World, engine: Engine
) -> None:
    with tenant_transaction(engine, world.ours) as connection:
        plan = planned(connection, NEAREST.format(tenant=world.ours, more=more))
    kinds = [node["Node Type"] for node in nodes(plan)]
    assert kinds[:2] == ["Limit", "Merge Append"]
    read = indexes(plan)
    assert read.keys() == {"chunks_s000001", "chunks_s000002", "chunks_s000003"}
    for leaf in ("chunks_s000001", "chunks_s000002"):
        assert read[leaf] == f"{leaf}_embedding_idx"
    assert kinds.count("Sort") == 1, "of the open leaf"
    assert not [kind for kind in kinds if "Join" in kind or kind == "Nested Loop"]


def test_the_tenant_is_compared_once_a_leaf_and_not_once_a_row(world: World, searching: Engine) -> None:
    with tenant_transaction(searching, world.ours) as connection:
        plan = planned(connection, NEAREST.format(tenant=world.ours, more=""))
    gates = [node["One-Time Filter"] for node in nodes(plan) if "One-Time Filter" in node]
    assert len(gates) == 3
    assert all("current_setting" in gate for gate in gates)
    filters = [node.get("Filter", "") + node.get("Index Cond", "") for node in nodes(plan)]
    assert not [condition for condition in filters if "current_setting" in condition]


def test_as_many_are_found_as_are_asked_for_and_the_same_as_by_the_owner(
    world: World, searching: Engine
) -> None:
    """One row in eight is ours: without the iterative scan the index would come up short."""
    statement = text(NEAREST.format(tenant=world.ours, more=""))

    def answers(connection: Connection) -> list[Any]:
        settings = "SET LOCAL hnsw.iterative_scan = strict_order; SET LOCAL hnsw.ef_search = 10"
        connection.execute(text(settings))
        return [tuple(row) for row in connection.execute(statement)]

    with tenant_transaction(searching, world.ours) as connection:
        ours = answers(connection)
    with world.engine(Role.OWNER).begin() as connection:
        assert answers(connection) == ours
    assert len(ours) == 20
    assert {row[1] for row in ours} == {world.ours}


def test_the_leaves_are_not_read_for_another_tenant(world: World, searching: Engine) -> None:
    with tenant_transaction(searching, world.ours) as connection:
        for statement in (NEAREST.format(tenant=world.theirs, more=""), LOOKUP.format(tenant=world.theirs)):
            plan = planned(connection, statement, analyse=True)
            assert plan["Actual Rows"] == 0
            scans = [node for node in nodes(plan) if "Relation Name" in node]
            assert scans
            assert all(scan["Actual Loops"] == 0 for scan in scans), "never executed"


def test_postings_are_found_by_their_index(world: World, engine: Engine) -> None:
    with tenant_transaction(engine, world.ours) as connection:
        plan = planned(connection, LOOKUP.format(tenant=world.ours))
        found = connection.execute(text(LOOKUP.format(tenant=world.ours))).all()
    read = indexes(plan)
    assert {leaf: str(index).endswith("_term_idx") for leaf, index in read.items()} == {
        f"postings_s{segment:06d}": True for segment in (*SEALED, OPEN)
    }
    conditions = [node["Index Cond"] for node in nodes(plan) if "Index Cond" in node]
    assert all("tenant_id" in condition and "term" in condition for condition in conditions)
    assert len(found) == 9


def test_so_are_chunks_by_number_and_documents_by_path(world: World, searching: Engine) -> None:
    with tenant_transaction(searching, world.ours) as connection:
        chunks = planned(
            connection,
            f"SELECT chunk_id FROM chunks WHERE segment IN ({SEGMENTS}) AND tenant_id = '{world.ours}'"
            " AND number = ANY(ARRAY[17, 25, 4001]::bigint[])",
        )
        assert all("number_idx" in str(index) for index in indexes(chunks).values())
        places = planned(
            connection,
            f"SELECT count(*) FROM chunks WHERE segment IN ({SEGMENTS}) AND tenant_id = '{world.ours}'"
            f" AND document_id = '{world.ours}' AND chunk_index < 7",
        )
        assert all("document_id_chunk_index" in str(index) for index in indexes(places).values())


def test_a_generic_plan_asks_for_the_tenant_of_its_transaction(world: World, searching: Engine) -> None:
    prepare = "PREPARE nearest(uuid) AS " + NEAREST.format(tenant="$1", more="").replace("'$1'", "$1")
    with searching.begin() as connection:
        connection.execute(text("SET LOCAL plan_cache_mode = force_generic_plan"))
        connection.execute(text(prepare))
        for tenant in (world.ours, world.theirs, world.ours):
            set_tenant(connection, tenant)
            for asked in (world.ours, world.theirs):
                found = connection.execute(text(f"EXECUTE nearest('{asked}')")).all()
                assert {row.tenant_id for row in found} == ({tenant} if asked == tenant else set())
        shown = connection.execute(text(f"EXPLAIN (FORMAT JSON) EXECUTE nearest('{world.ours}')"))
        assert "_embedding_idx" in json.dumps(shown.scalar_one())
        connection.execute(text("DEALLOCATE nearest"))


def test_where_a_chunk_begins_is_read_from_an_index_alone(world: World, searching: Engine) -> None:
    """Its rows may be a page each, and a document may have thousands before it."""
    asked: list[tuple[str, Any]] = []

    def look(_c: Any, _cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        asked.append((statement, parameters))

    with tenant_transaction(searching, world.ours) as connection:
        some = text("SELECT number FROM chunks WHERE segment = 1 LIMIT 3")
        numbers = connection.execute(some).scalars().all()
        event.listen(searching, "before_cursor_execute", look)
        assert passages(connection, (*SEALED, OPEN), numbers).keys() == set(numbers)
        event.remove(searching, "before_cursor_execute", look)
        [(statement, parameters)] = asked
        [found] = connection.exec_driver_sql(f"EXPLAIN (FORMAT JSON) {statement}", parameters).scalar_one()
    scans = [node for node in nodes(found["Plan"]) if node.get("Alias", "").startswith("b_")]
    assert {scan["Node Type"] for scan in scans} == {"Index Only Scan"}
    assert all("place_key" in scan["Index Name"] or "chunk_index" in scan["Index Name"] for scan in scans)
