"""The plans of the ranking query, read by EXPLAIN: over sealed, open and trash leaves, whatever the
planner knows of them.
"""

import json
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import pytest
from pydantic import SecretStr
from sqlalchemy import Connection, event, text

from worker.db import nearest
from worker.db.engine import driver_url, single_connection_engine
from worker.db.migrate import migrate
from worker.maintenance.run import run_chore
from worker.queries import read_query
from worker.resources import Resources
from worker.resources import resources as resources_of_process
from worker.searching import search
from worker.settings import read_settings

DIMENSION = 64
ROWS = 6_000  # a sealed leaf
OPEN_ROWS = 1_500

# Documents of two tenants, the first with a project that has half of its chunks.
SCOPES = """
INSERT INTO tenants (name) VALUES ('acme'), ('other');
INSERT INTO projects (tenant_id, name) SELECT tenant_id, 'half' FROM tenants WHERE name = 'acme';
INSERT INTO documents (tenant_id, project_id, filename, source_path, source_key, file_type, language, status,
                       content_hash, fingerprint, total_chunks, claimed_version, settled_at)
SELECT t.tenant_id, p.project_id, f.name, f.name, sha256(f.name::bytea), 'text', 'english', 'completed',
       sha256(f.name::bytea), sha256(f.name::bytea), 1, 1, now()
FROM (VALUES ('acme', NULL, 'most'), ('acme', 'half', 'half'), ('other', NULL, 'foreign'))
     AS f(tenant, project, name)
JOIN tenants t ON t.name = f.tenant LEFT JOIN projects p ON p.name = f.project"""
# One in eight chunks is the other tenant's, every second of the rest the project's.
FILL = """
INSERT INTO {leaf} (segment, document_id, tenant_id, project_id, chunk_id, chunk_index, char_length, text,
                    language, content_hash, embedding)
SELECT {segment}, d.document_id, d.tenant_id, d.project_id, gen_random_uuid(),
       ({segment} + 2) * 1000000 + n, 1,
       'a chunk of some words', 'english', sha256(('{segment} ' || n)::bytea),
       (SELECT array_agg(sin(n * i * 7.31 + {segment})) FROM generate_series(1, {dimension}) i)::vector
FROM generate_series(1, {rows}) n
JOIN documents d ON d.filename =
    CASE WHEN n % 8 = 1 THEN 'foreign' WHEN n % 2 = 0 THEN 'half' ELSE 'most' END"""

# What a search knows of how many chunks a tenant has.
COUNTED = """
INSERT INTO postings (segment, tenant_id, term, block, chunks, occurrences, entries)
SELECT segment, tenant_id, '#english', 0, count(*), 0, decode(repeat('00', 5 * count(*)::int), 'hex')
FROM chunks WHERE segment > 0 GROUP BY segment, tenant_id"""

QUERY = [1.0] + [0.1] * (DIMENSION - 1)


class Leaf(NamedTuple):
    """How a plan reads one leaf."""

    node: str
    by: str | None
    sorted: bool


@pytest.fixture(scope="module")
def template(new_database: Callable[[str | None], str], valkey: Any) -> str:
    """Two sealed segments and an open one with rows, and a trash with some: all by the program's own way."""
    url = new_database(None)
    usual = {"DATABASE_URL": url, "BROKER_URL": valkey.url, "EMBEDDING_PROVIDER": "none"}
    sized = {"EMBEDDING_DIMENSION": DIMENSION, "SEGMENT_ROWS": ROWS, "BUILD_WORKERS": 0}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {**usual, **sized}.items():
            patch.setenv(name, str(value))
        _fill_all(Resources(read_settings()))
    return driver_url(SecretStr(url)).database or ""


def _fill_all(resources: Resources) -> None:
    migrate(resources.settings)
    with single_connection_engine(resources.settings.database_url).connect() as connection:
        connection.execution_options(isolation_level="AUTOCOMMIT").execute(text(SCOPES))
        for segment, rows in ((1, ROWS), (2, ROWS), (3, OPEN_ROWS)):
            fill(connection, segment, f"chunks_s{segment:06d}", rows)
            run_chore(resources, "seal")
        connection.execute(text(COUNTED))
        connection.execute(
            text("""UPDATE documents d SET total_chunks =
                    (SELECT count(*) FROM chunks c WHERE c.document_id = d.document_id)""")
        )
        fill(connection, -1, "chunks_trash", ROWS)
        states = connection.execute(
            text("SELECT state FROM segments WHERE segment IN (1, 2, 3) ORDER BY segment")
        )
        assert list(states.scalars()) == ["sealed", "sealed", "open"]
    resources.close()


def fill(connection: Connection, segment: int, leaf: str, rows: int) -> None:
    connection.execute(text(f"ALTER TABLE {leaf} SET (autovacuum_enabled = off)"))
    statement = FILL.format(segment=segment, leaf=leaf, rows=rows, dimension=DIMENSION)
    connection.execute(text(statement))


@pytest.fixture(autouse=True)
def _few_are_exact(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nearest, "EXACT_CHUNKS", 100)


@pytest.fixture
def environment() -> dict[str, str]:
    return {"EMBEDDING_PROVIDER": "none", "EMBEDDING_DIMENSION": str(DIMENSION)}


def fresh(connection: Connection) -> None:
    connection.execute(text("ANALYZE"))


def stale(connection: Connection) -> None:
    """As if every leaf had been analysed when it had a hundredth of its rows."""
    connection.execute(text("ANALYZE"))
    connection.execute(
        text(
            "UPDATE pg_class SET reltuples = reltuples / 100, relpages = relpages / 100 + 1"
            " WHERE relname LIKE 'chunks_s%' AND relkind = 'r'"
        )
    )


def missing(connection: Connection) -> None:
    connection.execute(text("DELETE FROM pg_statistic"))
    connection.execute(
        text(
            "UPDATE pg_class SET reltuples = -1, relpages = 0 WHERE relname LIKE 'chunks%' AND relkind = 'r'"
        )
    )


def explained(resources: Resources, **scope: Any) -> Iterator[dict[str, Any]]:
    """EXPLAIN the ranking statement of a search, as it is sent, under the settings it is sent with."""
    found: list[dict[str, Any]] = []

    def look(opened: Connection, _cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        if "nearest ORDER BY" in statement and not statement.startswith("EXPLAIN"):
            found.extend(
                opened.exec_driver_sql(f"EXPLAIN (FORMAT JSON) {statement}", parameters).scalar_one()
            )

    event.listen(resources.search_engine, "before_cursor_execute", look)
    assert len(search(resources, read_query(vector=QUERY, k=10, **scope)).hits) == 10
    event.remove(resources.search_engine, "before_cursor_execute", look)
    return iter([plan["Plan"] for plan in found])


def nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for below in plan.get("Plans", ()):
        yield from nodes(below)


def leaves(plan: dict[str, Any], *, below_sort: bool = False) -> Iterator[tuple[str, Leaf]]:
    """Give how each leaf is read: {leaf: (node, by which index, whether its rows are sorted by a LIMIT)}."""
    below_sort = "Sort" in plan["Node Type"] or (below_sort and plan["Node Type"] != "Append")
    if "Relation Name" in plan:
        index = next((node["Index Name"] for node in nodes(plan) if "Index Name" in node), None)
        yield plan["Relation Name"], Leaf(plan["Node Type"], index, below_sort)
        return
    for below in plan.get("Plans", ()):
        yield from leaves(below, below_sort=below_sort)


def mended(connection: Connection) -> None:
    """As the chore `vacuum` leaves it after all was lost."""
    missing(connection)
    run_chore(resources_of_process(), "vacuum")


@pytest.mark.parametrize("statistics", [fresh, stale, missing, mended])
@pytest.mark.parametrize("scope", [{"tenant": "acme"}, {"tenant": "acme", "project": "half"}])
def test_sealed_leaves_are_read_by_their_index_and_the_open_one_is_sorted(
    statistics: Callable[[Connection], None],
    scope: dict[str, str],
    resources: Resources,
    connection: Connection,
) -> None:
    statistics(connection)
    [plan] = explained(resources, **scope)
    read = dict(leaves(plan))
    assert read.keys() == {"chunks_s000001", "chunks_s000002", "chunks_s000003"}, "and no trash"
    for sealed in ("chunks_s000001", "chunks_s000002"):
        assert read[sealed] == Leaf("Index Scan", f"{sealed}_embedding_idx", False)
    assert read["chunks_s000003"].sorted
    kinds = [node["Node Type"] for node in nodes(plan)]
    assert "Merge Append" in kinds
    assert not [kind for kind in kinds if "Join" in kind or kind == "Nested Loop"]


@pytest.mark.parametrize("segment", [1, 2, 3])
def test_a_chunk_is_the_nearest_to_itself_in_whichever_leaf_it_is(
    segment: int, resources: Resources, connection: Connection
) -> None:
    chunk_id, embedding = connection.execute(
        text("""
            SELECT chunk_id, embedding::text FROM chunks JOIN tenants USING (tenant_id)
            WHERE segment = :segment AND name = 'acme' ORDER BY chunk_index LIMIT 1"""),
        {"segment": segment},
    ).one()
    [closest] = search(resources, read_query(tenant="acme", vector=json.loads(embedding), k=1)).hits
    assert closest.chunk_id == chunk_id
