"""The nearest chunks, through filters of every selectivity: none missing, none too many, by the right way."""

import json
import math
import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from typing import Any
from uuid import UUID, uuid4

import pytest
from pydantic import SecretStr
from sqlalchemy import Connection, event, text

from worker.db import filters, nearest, scans, segments
from worker.db.engine import attempt, driver_url, single_connection_engine, transaction
from worker.db.grants import Role
from worker.db.likeness import likeness, named
from worker.db.logins import role_names
from worker.db.migrate import migrate
from worker.db.nearest import Found, candidates, most_counted, score
from worker.db.roles import make_roles
from worker.db.scans import Candidate, ef_search
from worker.db.segments import Seen
from worker.db.tenants import enter
from worker.errors import IngestError
from worker.maintenance.run import run_chore
from worker.queries import read_query
from worker.resources import Resources
from worker.settings import Settings, read_settings
from worker.types import Metric

Copied = Callable[[str], AbstractContextManager[str]]

DIMENSION, CHUNKS = 24, 10
DOCUMENTS = 1_000  # of the large tenant; the small ones have few
SEGMENT_DOCUMENTS = (450, 450, 100)  # the last segment is open
QUERY = [1.0] + [0.1] * (DIMENSION - 1)

# Documents of acme, of a project by halves, of a neighbour with few, and of one far from every query. Every
# fiftieth of acme's has a duplicate in a folder of its own.
DOCUMENTS_SQL = f"""
INSERT INTO tenants (name) VALUES ('acme'), ('few'), ('far');
INSERT INTO projects (tenant_id, name) SELECT tenant_id, 'half' FROM tenants WHERE name = 'acme';
INSERT INTO projects (tenant_id, name) SELECT tenant_id, 'empty' FROM tenants WHERE name = 'acme';
CREATE TABLE plan AS
SELECT n, gen_random_uuid() AS document_id, t.tenant_id, t.name AS tenant,
       CASE WHEN t.name = 'acme' AND n % 2 = 0 THEN p.project_id END AS project_id,
       'docs/' || n % 10 || '/f' || n || '.md' AS path,
       CASE WHEN n < {SEGMENT_DOCUMENTS[0]} THEN 1
            WHEN n < {sum(SEGMENT_DOCUMENTS[:2])} THEN 2 ELSE 3 END AS segment
FROM tenants t JOIN projects p ON p.name = 'half'
CROSS JOIN LATERAL generate_series(0, CASE t.name WHEN 'acme' THEN {DOCUMENTS} ELSE 20 END - 1) n;
INSERT INTO documents (document_id, tenant_id, project_id, filename, source_path, source_key, file_type,
                       language, status, content_hash, fingerprint, total_chunks, claimed_version, settled_at,
                       metadata, created_at, source_modified_at)
SELECT document_id, tenant_id, project_id, path, path, sha256(path::bytea),
       CASE WHEN n % 10 = 0 THEN 'code' ELSE 'markdown' END, 'english', 'completed',
       sha256((tenant || path)::bytea), sha256('f'), {CHUNKS}, 1, now(),
       jsonb_build_object('n', n, 'word', 'w' || lpad(n::text, 4, '0'),
                          'tags', jsonb_build_array('t' || n % 10)),
       '2026-01-01'::timestamptz + n * interval '1 hour', '2025-01-01'::timestamptz + n * interval '1 hour'
FROM plan;
INSERT INTO documents (tenant_id, project_id, filename, source_path, source_key, file_type, language, status,
                       content_hash, duplicate_of, claimed_version, settled_at, metadata)
SELECT tenant_id, project_id, 'twin', 'twins/' || n, sha256(('twins/' || n)::bytea), 'text', 'english',
       'duplicate', sha256((tenant || path)::bytea), document_id, 1, now(), jsonb_build_object('twin', n)
FROM plan WHERE tenant = 'acme' AND n % 50 = 0;
"""
CHUNKS_SQL = f"""
INSERT INTO {{leaf}} (document_id, tenant_id, project_id, chunk_index, char_length, text, language,
                      content_hash, metadata, embedding)
SELECT document_id, tenant_id, project_id, i, 1, 'words', 'english', sha256((document_id || '-' || i)::bytea),
       jsonb_build_object('c', (n * {CHUNKS} + i) * 7919 % {DOCUMENTS * CHUNKS}),
       (SELECT array_agg(CASE WHEN tenant = 'far' AND d = 1 THEN -9
                              ELSE sin((n * {CHUNKS} + i) * d * 7.31 + length(tenant)) END)
        FROM generate_series(1, {DIMENSION}) d)::vector
FROM plan CROSS JOIN generate_series(0, {CHUNKS} - 1) i WHERE segment = {{segment}}"""


@pytest.fixture(scope="module")
def template(new_database: Callable[[str | None], str], valkey: Any) -> str:
    """Two sealed segments and an open one, made by the program's own way."""
    return _filled(new_database, valkey, Metric.COSINE)


def _filled(new_database: Callable[[str | None], str], valkey: Any, metric: Metric) -> str:
    url = new_database(None)
    usual = {"DATABASE_URL": url, "BROKER_URL": valkey.url, "EMBEDDING_PROVIDER": "none"}
    sized = {"EMBEDDING_DIMENSION": DIMENSION, "SEGMENT_ROWS": 10 * 400, "BUILD_WORKERS": 0}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {**usual, **sized, "EMBEDDING_METRIC": metric}.items():
            patch.setenv(name, str(value))
        _fill(Resources(read_settings()))
    return driver_url(SecretStr(url)).database or ""


def _fill(resources: Resources) -> None:
    migrate(resources.settings)
    with single_connection_engine(resources.settings.database_url).connect() as opened:
        connection = opened.execution_options(isolation_level="AUTOCOMMIT")
        connection.execute(text(DOCUMENTS_SQL))
        for segment in (1, 2, 3):
            leaf = f"chunks_s{segment:06d}"
            connection.execute(text(CHUNKS_SQL.format(leaf=leaf, segment=segment)))
            run_chore(resources, "seal")
        connection.execute(text("DROP TABLE plan"))
        connection.execute(text("ANALYZE"))
        assert sorted(segments.seen(connection).sealed) == [1, 2]
    resources.close()


@pytest.fixture
def environment() -> dict[str, str]:
    return {"EMBEDDING_PROVIDER": "none", "EMBEDDING_DIMENSION": str(DIMENSION)}


@pytest.fixture(scope="module")
def shared(copied: Copied, administrate: Callable[[str], None], template: str) -> Iterator[str]:
    """The database of the tests that only read, in which nothing can be written."""
    with copied(template) as url:
        name = driver_url(SecretStr(url)).database
        administrate(f"ALTER DATABASE {name} SET default_transaction_read_only = on")
        yield url


@pytest.fixture
def own_copy(copied: Copied, template: str) -> Iterator[str]:
    """The database of a test that writes."""
    with copied(template) as url:
        yield url


@pytest.fixture
def database(request: pytest.FixtureRequest) -> str:
    url: str = request.getfixturevalue("own_copy" if "own_copy" in request.fixturenames else "shared")
    return url


@pytest.fixture
def few_are_exact(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a database a hundred times as large: the indexes are used for more than a hundred chunks."""
    monkeypatch.setattr(nearest, "EXACT_CHUNKS", 100)


class Searcher:
    """Searches in transactions of their own, as a tenant."""

    def __init__(self, resources: Resources) -> None:
        self.resources = resources
        self.settings: Settings = resources.settings
        self.engine = resources.search_engine
        self.plans: list[str] = []

    @contextmanager
    def opened(self, tenant: str = "acme") -> Iterator[tuple[Connection, UUID, Seen]]:
        with transaction(self.engine, 60, reading=True) as connection:
            tenant_id = enter(connection, tenant)
            assert tenant_id
            yield connection, tenant_id, segments.seen(connection)

    def __call__(
        self,
        wanted: dict[str, Any] | None = None,
        *,
        tenant: str = "acme",
        k: int = 10,
        metric: Metric | None = None,
        vector: list[float] = QUERY,
        like: list[UUID] | None = None,
        tenant_chunks: int | None = None,
    ) -> Found:
        query = read_query(vector=vector, filter=wanted or {}, k=k)
        with self.opened(tenant) as (connection, tenant_id, seen):
            projects = query.projects and filters.projects_named(connection, tenant_id, query.projects)
            reach = filters.resolve(
                connection,
                tenant_id,
                query.filter,
                projects=projects or None,
                tenant_chunks=tenant_chunks,
                most=most_counted(seen, metric, self.settings),
            )
            if like is not None:
                vector = self.like(connection, tenant_id, like, seen, metric)
                reach = reach.without(*named(connection, tenant_id, like, seen=seen))
            return candidates(
                connection, vector, reach=reach, seen=seen, k=k, metric=metric, settings=self.settings
            )

    def like(
        self, connection: Connection, tenant_id: UUID, ids: list[UUID], seen: Seen, metric: Metric | None
    ) -> list[float]:
        return likeness(
            connection, tenant_id, ids, seen=seen, metric=metric or self.settings.embedding_metric
        )


@pytest.fixture
def search(resources: Resources) -> Searcher:
    return Searcher(resources)


@contextmanager
def explaining(resources: Resources) -> Iterator[list[dict[str, Any]]]:
    """EXPLAIN every ranking statement, as it is sent, under the settings it is sent with."""
    found: list[dict[str, Any]] = []

    def look(opened: Connection, _cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        if "nearest ORDER BY" in statement and not statement.startswith("EXPLAIN"):
            asked = opened.exec_driver_sql(f"EXPLAIN (FORMAT JSON) {statement}", parameters)
            found.append(asked.scalar_one()[0]["Plan"])

    event.listen(resources.search_engine, "before_cursor_execute", look)
    yield found
    event.remove(resources.search_engine, "before_cursor_execute", look)


def nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for below in plan.get("Plans", ()):
        yield from nodes(below)


def by_index(plan: dict[str, Any]) -> set[str]:
    names = {node.get("Index Name", "") for node in nodes(plan)}
    return {name for name in names if "embedding" in name}


def exact(
    connection: Connection, condition: str = "true", *, tenant: str = "acme", sign: str = "<=>", k: int = 10
) -> list[Candidate]:
    """The nearest by one plain statement, whose condition is written by hand."""
    found = connection.execute(
        text(f"""
            SELECT c.chunk_id, c.number, c.document_id,
                   (embedding {sign} CAST(:query AS vector)) + 0 AS distance
            FROM chunks c JOIN documents d USING (document_id) JOIN tenants t ON t.tenant_id = c.tenant_id
            WHERE t.name = :tenant AND embedding IS NOT NULL AND segment > 0 AND {condition}
            ORDER BY distance, c.chunk_id LIMIT :k"""),
        {"tenant": tenant, "query": json.dumps(QUERY), "k": k},
    )
    return [Candidate(*row) for row in found]


def passing(connection: Connection, condition: str, tenant: str = "acme") -> set[UUID]:
    return {found.chunk_id for found in exact(connection, condition, tenant=tenant, k=100_000)}


def n_below(n: int) -> str:
    return f"(d.metadata ->> 'n')::int < {n}"


TWINS = "EXISTS (SELECT 1 FROM documents w WHERE w.duplicate_of = d.document_id AND {})"
# Each filter with the same condition written by hand, from half of all chunks to one in ten thousand.
FILTERS: list[tuple[dict[str, Any], str]] = [
    ({}, "true"),
    ({"project": "half"}, "d.project_id IS NOT NULL"),
    ({"metadata": {"n": {"lt": 500}}}, n_below(500)),
    ({"metadata": {"n": {"lt": 100}}}, n_below(100)),
    ({"metadata": {"n": {"lt": 10}}}, n_below(10)),
    ({"metadata": {"n": {"lt": 1}}}, n_below(1)),
    ({"metadata": {"n": 7}, "chunk_metadata": {"c": {"gte": 0}}}, "d.metadata ->> 'n' = '7'"),
    ({"project": "half", "metadata": {"n": {"lt": 300}}}, n_below(300) + " AND d.project_id IS NOT NULL"),
    (
        {"metadata": {"word": {"gte": "w0100", "lt": "w0300"}}},
        "(d.metadata ->> 'n')::int BETWEEN 100 AND 299",
    ),
    ({"metadata": {"tags": {"any": ["t1", "t2"]}}}, "(d.metadata ->> 'n')::int % 10 IN (1, 2)"),
    ({"chunk_metadata": {"c": {"lt": 5000}}}, "(c.metadata ->> 'c')::int < 5000"),
    ({"chunk_metadata": {"c": {"lt": 1000}}}, "(c.metadata ->> 'c')::int < 1000"),
    ({"chunk_metadata": {"c": {"lt": 100}}}, "(c.metadata ->> 'c')::int < 100"),
    ({"chunk_metadata": {"c": {"lt": 10}}}, "(c.metadata ->> 'c')::int < 10"),
    ({"chunk_metadata": {"c": 5}}, "(c.metadata ->> 'c')::int = 5"),
    ({"source_path": "docs/*/f?.md"}, n_below(10)),
    ({"source_path": "docs/3/**"}, "(d.metadata ->> 'n')::int % 10 = 3"),
    ({"source_path": "docs/3/f13.md"}, "d.metadata ->> 'n' = '13'"),
    ({"source_path": ["docs/3/f13.md", "docs/4/f?.md"]}, "d.metadata ->> 'n' IN ('13', '4')"),
    ({"source_path": "twins/*"}, TWINS.format("true")),
    ({"source_path": "twins/50"}, TWINS.format("w.source_path = 'twins/50'")),
    (
        {"metadata": {"twin": {"lte": 100}}},
        TWINS.format("w.source_path IN ('twins/0', 'twins/50', 'twins/100')"),
    ),
    ({"file_type": "text"}, TWINS.format("true")),
    ({"file_type": ["code"]}, "d.file_type = 'code'"),
    ({"created": {"after": "2026-01-01", "before": "2026-01-01T10:00"}}, n_below(10)),
    ({"modified": {"before": "2025-01-03"}}, n_below(48)),
    ({"updated": {"after": "2020-01-01"}}, "true"),
    ({"updated": {"before": "2020-01-01"}}, "false"),
    ({"project": "empty"}, "false"),
    ({"documents": [str(UUID("2cf6e428-cc7e-4974-a795-56556cd2025a"))]}, "false"),
]


@pytest.mark.parametrize("k", [1, 10, 100])
@pytest.mark.parametrize(("wanted", "condition"), FILTERS, ids=lambda value: str(value)[:60])
def test_few_chunks_are_compared_one_by_one(
    wanted: dict[str, Any], condition: str, k: int, search: Searcher, connection: Connection
) -> None:
    found = search(wanted, k=k)
    assert found.candidates == exact(connection, condition, k=k)
    assert found.exact


@pytest.mark.usefixtures("few_are_exact")
@pytest.mark.parametrize("k", [10, 100])
@pytest.mark.parametrize(("wanted", "condition"), FILTERS, ids=lambda value: str(value)[:60])
def test_many_go_through_the_indexes_and_none_is_short(
    wanted: dict[str, Any], condition: str, k: int, search: Searcher, connection: Connection
) -> None:
    allowed = passing(connection, condition)
    found = search(wanted, k=k)
    assert len(found.candidates) == min(k, len(allowed))
    assert {candidate.chunk_id for candidate in found.candidates} <= allowed
    order = [(candidate.distance, candidate.chunk_id) for candidate in found.candidates]
    assert order == sorted(order)
    best = {candidate.chunk_id: candidate for candidate in exact(connection, k=100_000)}
    assert all(best[candidate.chunk_id] == candidate for candidate in found.candidates)
    if len(allowed) <= 100 and "chunk_metadata" not in wanted:  # what share that lets through is estimated
        assert found.exact


@pytest.mark.parametrize("of_document", [False, True])
def test_documents_are_named_by_their_id_or_by_that_of_a_duplicate(
    of_document: bool, search: Searcher, connection: Connection
) -> None:
    column = "document_id" if of_document else "duplicate_of"
    named = connection.execute(
        text(f"SELECT {column} FROM documents WHERE duplicate_of IS NOT NULL LIMIT 3")
    ).scalars()
    ids = [str(document_id) for document_id in named]
    listed = ", ".join(f"'{document_id}'" for document_id in ids)
    condition = TWINS.format(f"w.{column} IN ({listed})")
    assert search({"documents": ids}, k=100).candidates == exact(connection, condition, k=100)


@pytest.mark.usefixtures("own_copy")
def test_deleted_documents_match_nothing(search: Searcher, connection: Connection) -> None:
    assert search({"source_path": "twins/50"}).candidates
    connection.execute(text("UPDATE documents SET deleted_at = now() WHERE source_path = 'twins/50'"))
    assert search({"source_path": "twins/50"}).candidates == []
    ids = connection.execute(
        text("SELECT document_id FROM documents WHERE source_path = 'twins/50'")
    ).scalars()
    assert search({"documents": list(ids)}).candidates == []


def test_a_tenant_sees_its_own(search: Searcher, connection: Connection) -> None:
    for tenant in ("few", "far"):
        found = search(tenant=tenant, k=1000)
        assert found.candidates == exact(connection, tenant=tenant, k=1000)
        assert len(found.candidates) == 20 * CHUNKS
        assert search({"project": "half"}).candidates
        with pytest.raises(IngestError, match="there is no project 'half'"):
            search({"project": "half"}, tenant=tenant)
    foreign = connection.execute(
        text("SELECT document_id FROM documents JOIN tenants USING (tenant_id) WHERE name = 'acme' LIMIT 5")
    ).scalars()
    assert search({"documents": list(foreign)}, tenant="few").candidates == []


# -- which way -------------------------------------------------------------------------------------


def test_a_small_tenant_is_compared_by_its_own_index(
    search: Searcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nearest, "EXACT_CHUNKS", 300)
    for chunks in (None, 20 * CHUNKS):
        with explaining(search.resources) as plans:
            assert search(tenant="few", tenant_chunks=chunks).exact
        [plan] = plans
        assert not by_index(plan)
        read = {node["Relation Name"]: node for node in nodes(plan) if "Relation Name" in node}
        assert read.keys() == {"chunks_s000001", "chunks_s000002", "chunks_s000003"}
        assert {node["Node Type"] for node in read.values()} <= {"Index Scan", "Bitmap Heap Scan", "Seq Scan"}


@pytest.mark.usefixtures("few_are_exact")
@pytest.mark.parametrize(
    "wanted",
    [{}, {"project": "half"}, {"metadata": {"n": {"lt": 500}}}, {"chunk_metadata": {"c": {"lt": 5000}}}],
)
def test_sealed_segments_are_read_by_their_index_and_the_open_one_is_compared(
    wanted: dict[str, Any], search: Searcher
) -> None:
    with explaining(search.resources) as plans:
        assert search(wanted).note == "by the vector indexes"
    [plan] = plans
    assert by_index(plan) == {"chunks_s000001_embedding_idx", "chunks_s000002_embedding_idx"}
    [merged] = [node for node in nodes(plan) if node["Node Type"] == "Merge Append" and by_index(node)]
    assert [below["Node Type"] for below in merged["Plans"]] == ["Index Scan", "Index Scan"]
    joins = [node["Node Type"] for node in nodes(plan) if "Join" in node["Node Type"]]
    assert not joins, "documents are asked one by one"
    if "metadata" in wanted:
        [above] = [node for node in nodes(plan) if node["Node Type"] == "Nested Loop" and by_index(node)]
        assert not [node for node in nodes(above) if "Sort" in node["Node Type"]], (
            "nothing is read to its end"
        )


@pytest.mark.usefixtures("few_are_exact")
def test_what_follows_in_the_transaction_may_sort(search: Searcher) -> None:
    with search.opened() as (opened, tenant_id, seen):
        reach = filters.resolve(opened, tenant_id, read_query(text="x").filter, most=100)
        with attempt(opened, 60):
            found = candidates(opened, QUERY, reach=reach, seen=seen, k=10, settings=search.settings)
        assert found.note == "by the vector indexes"
        assert opened.execute(text("SHOW enable_sort")).scalar_one() == "on"


@pytest.mark.usefixtures("few_are_exact")
def test_what_the_indexes_give_up_on_is_compared(
    search: Searcher, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scans, "_MOST_VISITED", 10)
    monkeypatch.setattr(scans, "_VISITED_EACH", 0)
    condition = "d.source_path LIKE 'docs/3/%'"
    with explaining(search.resources) as plans:
        found = search({"source_path": "docs/3/*"}, k=500)
    assert [bool(by_index(plan)) for plan in plans] == [True, False]
    assert (found.exact, "the indexes gave" in found.note) == (True, True)
    assert found.candidates == exact(connection, condition, k=500)


@pytest.mark.usefixtures("few_are_exact", "own_copy")
def test_enough_without_an_index_do_not_hide_that_the_indexes_gave_up(
    search: Searcher, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scans, "_MOST_VISITED", 1)
    monkeypatch.setattr(scans, "_VISITED_EACH", 0)
    condition = "(c.segment = 3 OR (c.metadata ->> 'c')::int < 200)"
    connection.execute(
        text(f"UPDATE chunks c SET metadata = c.metadata || '{{\"picked\": true}}' WHERE {condition}")
    )
    found = search({"chunk_metadata": {"picked": True}}, k=100)
    assert found.exact
    assert found.candidates == exact(connection, condition, k=100)


@pytest.mark.usefixtures("few_are_exact")
def test_documents_that_were_not_counted_count_as_neither_few_nor_all(
    search: Searcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nearest, "_MOST_TIMES", 1)
    passing = []

    def look(configured: int, k: int, seen: Seen, share: float) -> int:
        passing.append(share)
        return ef_search(configured, k, seen, share)

    monkeypatch.setattr(scans, "ef_search", look)
    found = search({"metadata": {"n": {"gte": 0}}, "chunk_metadata": {"c": {"lt": 5000}}})
    assert found.note == "by the vector indexes"
    assert 0 < passing[0] < 0.2


@pytest.mark.usefixtures("few_are_exact")
def test_more_of_small_vectors_are_few_where_a_filter_leaves_half_or_less(
    search: Searcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = {"metadata": {"n": {"lt": 30}}}
    found = search(wanted)
    assert (found.exact, found.note[:20]) == (True, "compared one by one:")
    monkeypatch.setattr(nearest, "_MOST_TIMES", 1)
    assert search(wanted).note == "by the vector indexes"


@pytest.mark.usefixtures("few_are_exact")
@pytest.mark.parametrize(("wanted", "most"), [({}, []), ({"chunk_metadata": {"c": {"lt": 5000}}}, ["30"])])
def test_the_indexes_give_more_than_asked_for_where_a_filter_may_lie_far_off(
    wanted: dict[str, Any], most: list[str], search: Searcher
) -> None:
    asked: list[str] = []

    def look(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        asked.extend(re.findall(r"FETCH FIRST (\d+) ROWS", statement))

    event.listen(search.engine, "before_cursor_execute", look)
    found = search(wanted, tenant_chunks=DOCUMENTS * CHUNKS)
    assert (len(found.candidates), asked) == (10, most)


def farthest(connection: Connection, documents: int) -> list[str]:
    """The documents whose nearest chunk is farthest from the question."""
    found = connection.execute(
        text("""
            SELECT c.document_id FROM chunks c JOIN tenants t USING (tenant_id)
            WHERE t.name = 'acme' AND c.segment > 0 GROUP BY c.document_id
            ORDER BY min(c.embedding <=> CAST(:vector AS vector)) DESC LIMIT :documents"""),
        {"vector": str(QUERY), "documents": documents},
    )
    return [str(document_id) for document_id in found.scalars()]


@pytest.mark.usefixtures("few_are_exact")
def test_what_lies_far_off_is_compared(search: Searcher, connection: Connection) -> None:
    """The first chunks of it that a graph comes to are not the nearest of it."""
    named = farthest(connection, 200)
    found = search({"documents": named})
    assert (found.exact, found.note) == (
        True, "compared one by one: 2,000 chunks, far from what is asked for"
    )  # fmt: skip
    listed = ", ".join(f"'{document_id}'" for document_id in named)
    assert found.candidates == exact(connection, f"c.document_id IN ({listed})")


@pytest.mark.usefixtures("few_are_exact")
def test_what_lies_far_off_and_is_too_much_to_be_compared_is_said(
    search: Searcher, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nearest, "MOST_COMPARED", 1_000)
    found = search({"documents": farthest(connection, 200)})
    assert (found.exact, found.far, len(found.candidates)) == (False, True, 10)
    assert found.note == "by the vector indexes, far from what is asked for"


@pytest.mark.usefixtures("few_are_exact")
def test_a_filter_that_has_nothing_to_do_with_the_question_is_not_far_off(search: Searcher) -> None:
    for n in (2, 3, 5, 10):
        found = search({"chunk_metadata": {"c": {"lt": DOCUMENTS * CHUNKS // n}}}, tenant_chunks=10_000)
        assert found.note == "by the vector indexes", n


@pytest.mark.usefixtures("few_are_exact")
def test_tenant_with_little_in_the_indexes_is_compared_at_once(search: Searcher) -> None:
    """As one that has just begun to load, beside others."""
    with search.opened() as (opened, tenant_id, seen), explaining(search.resources) as plans:
        reach = filters.resolve(opened, tenant_id, read_query(text="x").filter, tenant_chunks=5_000, most=100)
        found = candidates(
            opened, QUERY, reach=replace(reach, sealed=100), seen=seen, k=10, settings=search.settings
        )
    assert (found.exact, len(plans)) == (True, 1)


@pytest.mark.usefixtures("few_are_exact")
def test_plan_does_not_show_the_vector(search: Searcher) -> None:
    with search.opened() as (opened, tenant_id, seen), attempt(opened, 60):
        reach = filters.resolve(opened, tenant_id, read_query(text="x").filter, most=100)
        vector = [0.1234567] * len(QUERY)
        plan = candidates(
            opened, vector, reach=reach, seen=seen, k=10, settings=search.settings, explain=True
        ).plan
    assert any("<=> '…'" in line for line in plan)
    assert not any("0.1234" in line for line in plan)


@pytest.mark.usefixtures("few_are_exact")
@pytest.mark.parametrize("wanted", [{}, {"chunk_metadata": {"c": {"lt": 5000}}}])
def test_without_an_index_all_are_compared(
    wanted: dict[str, Any], search: Searcher, connection: Connection
) -> None:
    """As in the first minutes, and where nothing is visible at all."""
    with search.opened() as (opened, tenant_id, seen):
        reach = filters.resolve(opened, tenant_id, read_query(text="x", filter=wanted).filter, most=100)
        for among in (dict.fromkeys(seen.all, 1), {}):
            found = candidates(
                opened, QUERY, reach=reach, seen=Seen({}, among), k=10, settings=search.settings
            )
            condition = "(c.metadata ->> 'c')::int < 5000" if wanted else "true"
            assert found.candidates == (exact(connection, condition) if among else [])
            assert found.exact


@pytest.mark.usefixtures("few_are_exact", "own_copy")
def test_rows_without_a_vector_are_left_out(search: Searcher, connection: Connection) -> None:
    connection.execute(text("UPDATE chunks SET embedding = NULL WHERE (metadata ->> 'c')::int >= 5"))
    found = search()
    assert len(found.candidates) == 5
    assert found.exact


@pytest.mark.usefixtures("own_copy")
def test_same_distances_are_in_order_of_ids(
    search: Searcher, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    vector = json.dumps(QUERY)
    connection.execute(
        text("UPDATE chunks SET embedding = CAST(:vector AS vector) WHERE chunk_index < 2"),
        {"vector": vector},
    )
    best = exact(connection, k=50)
    assert search(k=50).candidates == best
    monkeypatch.setattr(nearest, "EXACT_CHUNKS", 100)
    for limit in (1, 10, 50):
        assert {found.distance for found in search(k=limit).candidates} == {best[0].distance}


def test_graphs_of_few_rows_and_broad_filters_need_fewer_candidates() -> None:
    one, twelve = Seen({1: 100_000}, {}), Seen(dict.fromkeys(range(12), 10_000), {2: 100_000})
    assert ef_search(100, 10, one, 1.0) == 100
    assert ef_search(100, 1, one, 1.0) == 100
    assert 30 < ef_search(100, 10, twelve, 1.0) < 45
    assert 65 < ef_search(100, 10, Seen({1: 80_000} | dict.fromkeys(range(2, 10), 5_000), {}), 1.0) < 80
    assert ef_search(100, 10, one, 0.5) < ef_search(100, 10, one, 0.01) < 1000
    assert ef_search(100, 1000, one, 0.001) == 1000
    assert ef_search(10, 10, twelve, 1.0) == 10
    assert 240 < ef_search(100, 10, Seen({1: 1_000_000}, {}), 1.0) < 260
    assert ef_search(100, 10, Seen(dict.fromkeys(range(10), 100_000), {}), 1.0) == 100
    assert ef_search(100, 10, Seen({1: 0}, {}), 1.0) == 100


# -- metrics ---------------------------------------------------------------------------------------

SIGNS = {Metric.COSINE: "<=>", Metric.L2: "<->", Metric.INNER_PRODUCT: "<#>"}


@pytest.mark.parametrize("metric", list(Metric))
def test_another_metric_is_answered_exactly_and_says_so(
    metric: Metric, search: Searcher, connection: Connection
) -> None:
    found = search(metric=metric, k=20)
    assert found.candidates == exact(connection, sign=SIGNS[metric], k=20)
    assert ("the index is for cosine" in found.note) == (metric is not Metric.COSINE)


def test_another_metric_reads_no_more_than_is_stated(
    search: Searcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nearest, "MOST_COMPARED", 1000)
    assert search({"metadata": {"n": {"lt": 100}}}, metric=Metric.L2).exact
    for wanted in ({}, {"metadata": {"n": {"lt": 101}}}, {"metadata": {"n": {"gte": 0}}}):
        with pytest.raises(IngestError, match="by l2 at most 1,000 chunks are compared"):
            search(wanted, metric=Metric.L2)
    assert search(metric=Metric.COSINE).candidates


def test_scores_are_the_higher_the_nearer() -> None:
    assert score(Metric.COSINE, 0.25) == 0.75
    assert score(Metric.L2, 2.0) == -2.0
    assert score(Metric.INNER_PRODUCT, -3.0) == 3.0


@pytest.mark.parametrize("metric", [Metric.L2, Metric.INNER_PRODUCT])
class TestOtherIndex:
    @pytest.fixture
    def template(self, new_database: Callable[[str | None], str], valkey: Any, metric: Metric) -> str:
        return _filled(new_database, valkey, metric)

    @pytest.fixture
    def database(self, own_copy: str) -> str:
        return own_copy

    @pytest.fixture
    def environment(self, environment: dict[str, str], metric: Metric) -> dict[str, str]:
        return {**environment, "EMBEDDING_METRIC": metric.value}

    def test_the_configured_metric_has_the_index(
        self, metric: Metric, search: Searcher, connection: Connection, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        assert search(k=20).candidates == exact(connection, sign=SIGNS[metric], k=20)
        monkeypatch.setattr(nearest, "EXACT_CHUNKS", 100)
        with explaining(search.resources) as plans:
            found = search(k=20)
        assert len(by_index(plans[0])) == 2
        assert len(found.candidates) == 20
        best = {
            candidate.chunk_id: candidate for candidate in exact(connection, sign=SIGNS[metric], k=100_000)
        }
        assert all(best[candidate.chunk_id] == candidate for candidate in found.candidates)


# -- more like these -------------------------------------------------------------------------------


def unit(vector: list[float]) -> list[float]:
    return [number / math.sqrt(sum(other * other for other in vector)) for number in vector]


def stored(connection: Connection, document_id: UUID) -> dict[UUID, list[float]]:
    found = connection.execute(
        text("SELECT chunk_id, embedding::text AS vector FROM chunks WHERE document_id = :id"),
        {"id": document_id},
    )
    return {row.chunk_id: json.loads(row.vector) for row in found}


def a_document(connection: Connection, n: int = 50) -> UUID:
    asked = text("""SELECT document_id FROM documents JOIN tenants USING (tenant_id)
                    WHERE name = 'acme' AND source_path = :path""")
    return UUID(str(connection.execute(asked, {"path": f"docs/{n % 10}/f{n}.md"}).scalar_one()))


@pytest.mark.parametrize("metric", [Metric.COSINE, Metric.L2])
def test_the_mean_of_chunks_and_documents_counts_each_once(
    metric: Metric, search: Searcher, connection: Connection
) -> None:
    document, other = a_document(connection, 50), a_document(connection, 51)
    chunk_id, vector = next(iter(stored(connection, other).items()))
    turned = unit if metric is Metric.COSINE else list[float]
    columns = [turned(numbers) for numbers in stored(connection, document).values()]
    of_document = turned([sum(column) / CHUNKS for column in zip(*columns, strict=True)])
    wanted = [(a + b) / 2 for a, b in zip(of_document, turned(vector), strict=True)]
    with search.opened() as (opened, tenant_id, seen):
        ids = [document, chunk_id, document]
        assert search.like(opened, tenant_id, ids, seen, metric) == pytest.approx(wanted, abs=1e-5)
        assert named(opened, tenant_id, ids, seen=seen) == ([chunk_id], [document])


def test_what_is_named_is_not_found(search: Searcher, connection: Connection) -> None:
    document = a_document(connection, 50)
    [twin] = connection.execute(
        text("SELECT document_id FROM documents WHERE duplicate_of = :id"), {"id": document}
    ).scalars()
    chunk_id = next(iter(stored(connection, a_document(connection, 51))))
    neighbours = {"documents": [document, a_document(connection, 51)]}
    for ids in ([document], [twin], [chunk_id], [chunk_id, document]):
        found = search(neighbours, like=ids, k=1000).candidates
        left_out = (CHUNKS if ids != [chunk_id] else 0) + (1 if chunk_id in ids else 0)
        assert len(found) == 2 * CHUNKS - left_out
        assert (chunk_id in {candidate.chunk_id for candidate in found}) == (chunk_id not in ids)
        assert (document in {candidate.document_id for candidate in found}) == (ids == [chunk_id])


@pytest.mark.usefixtures("few_are_exact")
def test_what_is_named_is_not_found_by_the_indexes(search: Searcher, connection: Connection) -> None:
    document = a_document(connection, 50)
    found = search(like=[document], k=100)
    assert found.note == "by the vector indexes"
    assert len(found.candidates) == 100
    assert document not in {candidate.document_id for candidate in found.candidates}


@pytest.mark.usefixtures("own_copy")
def test_unknown_ids_are_named(search: Searcher, connection: Connection) -> None:
    unknown, document = uuid4(), a_document(connection)
    with pytest.raises(IngestError, match=f"there is no chunk or document {unknown}"):
        search(like=[document, unknown, uuid4()])
    for foreign in (document, next(iter(stored(connection, document)))):
        with pytest.raises(IngestError, match=f"there is no chunk or document {foreign}"):
            search(like=[foreign], tenant="few")
    connection.execute(
        text("UPDATE documents SET deleted_at = now() WHERE document_id = :id"), {"id": document}
    )
    with pytest.raises(IngestError, match="there is no chunk or document"):
        search(like=[document])


@pytest.mark.usefixtures("own_copy")
def test_what_has_no_vector_is_named(search: Searcher, connection: Connection) -> None:
    document = a_document(connection)
    chunk_id = next(iter(stored(connection, document)))
    connection.execute(text("UPDATE chunks SET embedding = NULL WHERE document_id = :id"), {"id": document})
    for without, kind in ((chunk_id, "chunk"), (document, "document")):
        with pytest.raises(IngestError, match=f"{kind} {without} has no embedding"):
            search(like=[without])


@pytest.mark.usefixtures("own_copy")
def test_what_cancels_out_is_no_direction(search: Searcher, connection: Connection) -> None:
    one, two = list(stored(connection, a_document(connection)))[:2]
    for chunk_id, sign in ((one, 1.0), (two, -1.0)):
        connection.execute(
            text("UPDATE chunks SET embedding = CAST(:vector AS vector) WHERE chunk_id = :id"),
            {"vector": json.dumps([sign] * DIMENSION), "id": chunk_id},
        )
    with pytest.raises(IngestError, match="cancels out"):
        search(like=[one, two])


# -- as a role under row-level security ------------------------------------------------------------

PREFIX = "nearest_"


@pytest.fixture
def as_role(own_copy: str, settings: Settings) -> Iterator[Searcher]:
    make_roles(settings, PREFIX)
    url = driver_url(settings.database_url).set(username=role_names(PREFIX)[Role.SEARCH])
    secret = SecretStr(url.render_as_string(hide_password=False))
    secured = Resources(settings.model_copy(update={"search_database_url": secret}))
    yield Searcher(secured)
    secured.close()


def shape(plan: dict[str, Any]) -> list[tuple[str, str]]:
    """What is read and how; a policy adds a Result that asks nothing of a row."""
    found = [(node["Node Type"], node.get("Index Name", "")) for node in nodes(plan)]
    return [node for node in found if node[0] not in {"Result", "Memoize"}]


def test_under_row_level_security_answers_and_plans_are_the_same(
    as_role: Searcher, search: Searcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    for most in (100, 10_000):
        monkeypatch.setattr(nearest, "EXACT_CHUNKS", most)
        for wanted, _ in FILTERS:
            with explaining(as_role.resources) as secured:
                answer = as_role(wanted)
            with explaining(search.resources) as plain:
                assert search(wanted) == answer
            assert list(map(shape, secured)) == list(map(shape, plain)), wanted


def test_row_level_security_holds_whatever_is_asked(as_role: Searcher) -> None:
    assert as_role(k=1).candidates
    with as_role.opened("few") as (connection, _, seen):
        tenants = connection.execute(text("SELECT DISTINCT tenant_id FROM chunks")).scalars().all()
        assert len(tenants) == 1
        foreign = uuid4()
        reach = filters.resolve(connection, foreign, read_query(text="x").filter, most=100)
        assert (reach.chunks, reach.counted) == (0, True)
        given = candidates(connection, QUERY, reach=reach, seen=seen, k=10, settings=as_role.settings)
        assert given.candidates == []
