"""The search's own way, as the search role: whatever a request says, it finds rows of its own tenant only.

Two tenants have the same projects, paths, words and vectors. What one finds must carry its own mark.
"""

import itertools
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple
from uuid import UUID

import pytest
from pydantic import SecretStr
from sqlalchemy import event, text
from sqlalchemy.exc import DBAPIError

from worker import Document, GivenChunk, submit
from worker.db.engine import driver_url
from worker.db.grants import Role
from worker.db.logins import role_names
from worker.db.roles import make_roles
from worker.errors import IngestError
from worker.maintenance.run import run_chore
from worker.queries import read_query
from worker.resources import Resources
from worker.searching import search
from worker.settings import Settings

Drain = Callable[[], dict[str, int]]

TENANTS = ("ours", "theirs")
CHUNKS = 12
_prefixes = itertools.count(1)


class Place(NamedTuple):
    """Resources whose searches connect as the search role, and the ids each tenant has."""

    resources: Resources
    chunks: dict[str, list[UUID]]
    documents: dict[str, list[UUID]]


@pytest.fixture
def place(settings: Settings, resources: Resources, drain: Drain) -> Iterator[Place]:
    for tenant in TENANTS:
        for project in ("p", "q"):
            _fill(tenant, project)
    drain()
    sealing = resources.settings.model_copy(update={"segment_rows": 1})
    run_chore(Resources(sealing), "seal")
    for tenant in TENANTS:
        _fill(tenant, None)
    drain()
    prefix = f"s{next(_prefixes)}_"
    make_roles(settings, prefix)
    url = driver_url(settings.database_url).set(username=role_names(prefix)[Role.SEARCH])
    as_search = settings.model_copy(
        update={
            "search_database_url": SecretStr(url.render_as_string(hide_password=False)),
            "database_pool_size": 1,
            "database_max_overflow": 0,
        }
    )
    mine = Resources(as_search)
    yield Place(mine, _ids(resources, "chunks", "chunk_id"), _ids(resources, "documents", "document_id"))
    mine.close()


def _fill(tenant: str, project: str | None) -> None:
    chunks = [
        GivenChunk(f"The {tenant} ship number {n} sails north", None, ("Vessels",), {"mark": tenant, "n": n})
        for n in range(CHUNKS)
    ]
    document = Document.chunks(chunks, source_path="fleet", metadata={"mark": tenant, "year": 2020})
    submit([document], tenant=tenant, project=project)


def _ids(resources: Resources, table: str, column: str) -> dict[str, list[UUID]]:
    with resources.engine.connect() as connection:
        found = connection.execute(
            text(f"SELECT t.name, r.{column} AS id FROM {table} r JOIN tenants t USING (tenant_id)")
        ).all()
    return {tenant: [row.id for row in found if row.name == tenant] for tenant in TENANTS}


def ask(place: Place, **query: Any) -> list[str]:
    """Give the marks of what a search finds: of chunks, and of their documents."""
    hits = search(place.resources, read_query(**{"k": 1000, **query})).hits
    return [mark for hit in hits for mark in (hit.chunk_metadata["mark"], hit.metadata["mark"])]


KINDS: list[dict[str, Any]] = [
    {"text": "ship theirs", "mode": "hybrid"},
    {"text": "ship theirs", "mode": "hybrid", "fusion": "rrf", "group_by_document": True},
    {"text": "ship theirs", "mode": "keyword", "neighbours": 2, "explain": True},
    {"text": '"theirs ship"', "mode": "keyword"},
    {"text": "ship theirs", "mode": "vector"},
    {"text": "ship", "mode": "vector", "metric": "l2"},
    {"vector": [1.0] * 256, "explain": True},
]
FILTERS: list[dict[str, Any]] = [
    {},
    {"project": ["p", "q"]},
    {"source_path": "**"},
    {"source_path": "fleet' OR true --"},
    {"file_type": "chunks"},
    {"created": {"after": "1970-01-01"}},
    {"metadata": {"mark": {"any": ["ours", "theirs"]}}},
    {"metadata": {"mark": {"exists": True}, "year": {"gte": 0}}},
    {"chunk_metadata": {"n": {"gte": 0}}},
    {"metadata": {"' OR tenant_id IS NOT NULL --": {"exists": False}}},
]


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_no_kind_of_query_under_any_filter_finds_a_strangers_row(place: Place, kind: dict[str, Any]) -> None:
    found = 0
    for filter_ in FILTERS:
        marks = ask(place, tenant="ours", filter=filter_, **kind)
        assert set(marks) <= {"ours"}, filter_
        found += len(marks)
    assert found or kind["text"] == '"theirs ship"', "the filters let something through"


def test_ids_of_a_stranger_lead_nowhere(place: Place) -> None:
    documents, chunks = place.documents["theirs"], place.chunks["theirs"]
    for mode in ("hybrid", "keyword", "vector"):
        assert ask(place, tenant="ours", text="ship", mode=mode, filter={"documents": documents}) == []
    mixed = [*documents, place.documents["ours"][0]]
    assert set(ask(place, tenant="ours", text="ship", filter={"documents": mixed})) == {"ours"}
    for stranger in (documents[0], chunks[0]):
        with pytest.raises(IngestError, match="there is no chunk or document"):
            ask(place, tenant="ours", like=[place.chunks["ours"][0], stranger])


def test_vector_of_a_strangers_chunk_finds_ones_own(place: Place, resources: Resources) -> None:
    with resources.engine.connect() as connection:
        written = connection.execute(
            text("SELECT embedding::text FROM chunks WHERE chunk_id = :id"),
            {"id": place.chunks["theirs"][0]},
        ).scalar_one()
    vector = [float(number) for number in written[1:-1].split(",")]
    assert set(ask(place, tenant="ours", vector=vector)) == {"ours"}


def test_words_only_a_stranger_has_are_in_no_chunk(place: Place) -> None:
    answer = search(place.resources, read_query(tenant="ours", text="theirs", mode="keyword", explain=True))
    assert answer.hits == ()
    assert answer.notes == ("none of the words is in any chunk",)
    assert answer.explanation is not None
    assert answer.explanation["keyword"]["words"][0]["chunks"] == 0
    assert answer.explanation["corpus"]["chunks"] == 3 * CHUNKS


@pytest.mark.parametrize("tenant", ["nobody", "OURS", "ours'; --", "ours\0theirs", "%", ""])
def test_name_of_nobody_is_refused(place: Place, tenant: str) -> None:
    with pytest.raises(IngestError, match="there is no tenant"):
        ask(place, tenant=tenant, text="ship")


def test_tenants_take_turns_on_one_connection_with_errors_in_between(place: Place) -> None:
    """One pooled connection: what one search sets, the next must not find, however it ended."""

    def run(n: int) -> set[str]:
        tenant = TENANTS[n % 2]
        if n % 5 == 0:
            with pytest.raises(IngestError):
                ask(place, tenant=tenant, text="ship", filter={"project": "nothing"})
        return {tenant, *ask(place, tenant=tenant, **KINDS[n % len(KINDS)])}

    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(run, range(40)))
    assert all(marks == {TENANTS[n % 2]} for n, marks in enumerate(found))
    assert place.resources.search_engine.pool.checkedout() == 0  # type: ignore[attr-defined] # a QueuePool


def test_error_of_the_server_in_the_middle_leaves_no_tenant_behind(place: Place) -> None:
    ask(place, tenant="theirs", text="ship")

    def fail(_c: Any, _cursor: Any, statement: str, parameters: Any, *_: Any) -> tuple[str, Any]:
        return ("SELECT 1 / 0", ()) if "FROM postings" in statement else (statement, parameters)

    event.listen(place.resources.search_engine, "before_cursor_execute", fail, retval=True)
    with pytest.raises(DBAPIError):
        ask(place, tenant="theirs", text="ship")
    event.remove(place.resources.search_engine, "before_cursor_execute", fail)
    with place.resources.search_engine.connect() as connection:
        assert connection.execute(text("SELECT count(*) FROM chunks")).scalar_one() == 0
        assert connection.execute(text("SELECT count(*) FROM documents")).scalar_one() == 0
    assert set(ask(place, tenant="ours", text="ship")) == {"ours"}


def test_a_search_cannot_write(place: Place) -> None:
    seen: list[str] = []

    def look(opened: Any, _cursor: Any, statement: str, *_: Any) -> None:
        if "FROM postings" in statement and not seen:
            seen.append(opened.exec_driver_sql("SHOW transaction_read_only").scalar())

    event.listen(place.resources.search_engine, "before_cursor_execute", look)
    ask(place, tenant="ours", text="ship")
    event.remove(place.resources.search_engine, "before_cursor_execute", look)
    assert seen == ["on"]
