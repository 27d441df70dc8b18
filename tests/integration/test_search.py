"""Searches of real data: the right hits, in their place, and nobody else's."""

import json
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from uuid import UUID

import pytest
from pydantic import SecretStr
from sqlalchemy import Connection, event, text

from worker import Document, submit
from worker.answers import read_answer
from worker.db import nearest
from worker.db.engine import driver_url
from worker.db.migrate import migrate
from worker.errors import IngestError
from worker.producer import delete, restore
from worker.queries import read_query
from worker.resources import Resources
from worker.searching import search
from worker.settings import Settings, read_settings
from worker.tasks import answer_query
from worker.types import GivenChunk, Hit

Drain = Callable[[], dict[str, int]]
Environment = dict[str, str]

APPLES = "Apples grow on trees in the orchard and taste sweet when they are red. " * 8
SHIPS = "The ship left the harbour under sail and the captain steered her north. " * 8
STARS = "Astronomers measured the light of a distant galaxy through the telescope. " * 8
BREAD = "The baker kneads dough of flour, water and yeast, and bakes bread at dawn. " * 8
PAGE = f"# Fruit\n\n{APPLES}\n\n## Vessels\n\n{SHIPS}\n\n# Sky\n\n{STARS}\n"


@pytest.fixture(autouse=True)
def _use_settings(settings: Settings) -> None:
    """The producer's calls use the process's settings: those of this test."""


Ask = Callable[..., list[Hit]]


@pytest.fixture
def ask(resources: Resources) -> Ask:
    def run(text: str | None = None, *, mode: str = "vector", **options: Any) -> list[Hit]:
        return list(search(resources, read_query(text=text, mode=mode, **options)).hits)

    return run


def put(name: str, content: str, **options: Any) -> None:
    submit([Document.text(content, source_path=name)], **options)


def refusal(ask: Ask, *arguments: Any, **options: Any) -> str:
    with pytest.raises(IngestError) as caught:
        ask(*arguments, **options)
    said = str(caught.value)
    assert "\n" not in said
    assert "SELECT" not in said
    return said


def assert_cover(hits: Sequence[Hit], content: str) -> None:
    """All chunks of a document, found: in their order they are its text, without a gap."""
    ordered = sorted(hits, key=lambda hit: hit.number)
    assert [hit.number for hit in ordered] == list(range(1, len(hits) + 1))
    assert {hit.total for hit in hits} == {len(hits)}
    assert [hit.start for hit in ordered] == [0, *(hit.end for hit in ordered[:-1])]
    assert ordered[-1].end == len(content)
    assert [hit.text for hit in ordered] == [content[hit.start : hit.end] for hit in ordered]


# -- what is found ---------------------------------------------------------------------------------


def test_nearest_chunk_comes_first_with_its_place(ask: Ask, drain: Drain) -> None:
    put("notes/page.md", PAGE)
    put("bread.txt", BREAD)
    drain()
    hit = ask("a boat at sea with its captain", k=1)[0]
    assert (hit.filename, hit.source_path) == ("page.md", "notes/page.md")
    assert "captain" in hit.text
    assert hit.heading_path == ("Fruit", "Vessels")
    assert PAGE[hit.start : hit.end] == hit.text
    assert ask("telescope", k=1)[0].heading_path == ("Sky",)
    assert ask("fresh bread from the oven", k=1)[0].filename == "bread.txt"
    assert 1 < hit.number < hit.total


def test_hits_are_in_order_of_their_exact_distance(ask: Ask, drain: Drain, resources: Resources) -> None:
    put("page.md", PAGE)
    drain()
    hits = ask("ship", k=1000)
    distances = [hit.distance for hit in hits if hit.distance is not None]
    assert len(distances) == len(hits)
    assert distances == sorted(distances)
    assert [hit.score for hit in hits] == [1 - distance for distance in distances]
    with resources.engine.connect() as connection:
        exact = connection.execute(
            text("SELECT chunk_id, embedding <=> CAST(:vector AS vector) AS distance FROM chunks"),
            {"vector": str(resources.embedder.embed(["ship"])[0].tolist())},  # type: ignore[index]
        ).all()
    assert {hit.chunk_id: hit.distance for hit in hits} == {row.chunk_id: row.distance for row in exact}


def test_spans_are_those_of_the_text_also_after_edits_that_leave_gaps(
    ask: Ask, drain: Drain, connection: Connection
) -> None:
    parts = [f"Paragraph {n} is about the number {n}. " * 20 for n in range(12)]
    before = "\n\n".join(parts)
    put("a.txt", before)
    drain()
    assert_cover(ask("number", k=1000), before)
    edited = "\n\n".join(["A new beginning. " * 30, *parts[:4], BREAD, SHIPS, *parts[8:]])
    put("a.txt", edited)
    assert drain() == {"completed": 1}
    indexes = connection.execute(
        text("SELECT chunk_index FROM chunks WHERE segment > 0 ORDER BY 1")
    ).scalars()
    assert {index % (1 << 20) for index in indexes} != {0}, "some chunks stand between the old ones"
    assert_cover(ask("number", k=1000), edited)


def test_edited_document_is_found_by_its_new_words_only(ask: Ask, drain: Drain) -> None:
    put("a.txt", SHIPS)
    drain()
    put("a.txt", BREAD)
    drain()
    assert {hit.text for hit in ask("ship", k=10)} == {hit.text for hit in ask("bread", k=10)}
    assert not [hit for hit in ask("ship", k=10) if "captain" in hit.text]


def test_deleted_documents_and_trash_are_never_found(ask: Ask, drain: Drain, connection: Connection) -> None:
    put("a.txt", SHIPS)
    put("b.txt", BREAD)
    drain()
    delete(["a.txt"])
    assert {hit.filename for hit in ask("ship", k=10)} == {"b.txt"}
    assert connection.execute(text("SELECT count(*) FROM chunks WHERE segment = -1")).scalar_one() > 0
    restore(["a.txt"])
    assert ask("ship", k=1)[0].filename == "a.txt"


def test_content_that_is_there_twice_is_found_once_at_its_owner(ask: Ask, drain: Drain) -> None:
    put("owner.txt", "the only ship there is")
    drain()
    put("twin.txt", "the only ship there is")
    drain()
    assert [hit.filename for hit in ask("ship")] == ["owner.txt"]
    delete(["owner.txt"])
    drain()
    assert [hit.filename for hit in ask("ship")] == ["twin.txt"]


def test_no_chunks_give_no_hits(ask: Ask, drain: Drain) -> None:
    put("empty.txt", " ")
    assert drain() == {"skipped": 1}
    assert ask("anything") == []


# -- whose it is -----------------------------------------------------------------------------------


def test_only_the_tenants_rows_are_found(ask: Ask, drain: Drain) -> None:
    put("a.txt", SHIPS, tenant="one")
    put("b.txt", SHIPS, tenant="two")
    put("c.txt", SHIPS, tenant="two", project="p")
    drain()
    assert {hit.filename for hit in ask("ship", tenant="one")} == {"a.txt"}
    assert {hit.filename for hit in ask("ship", tenant="two")} == {"b.txt", "c.txt"}


def test_project_limits_and_none_means_all_of_them(ask: Ask, drain: Drain) -> None:
    put("a.txt", SHIPS)
    put("b.txt", SHIPS, project="p")
    put("c.txt", SHIPS, project="q")
    put("d.txt", SHIPS, tenant="other", project="p")
    drain()
    assert {hit.filename for hit in ask("ship", project="p")} == {"b.txt"}
    assert {hit.filename for hit in ask("ship", project="q")} == {"c.txt"}
    assert {hit.filename for hit in ask("ship")} == {"a.txt", "b.txt", "c.txt"}


# -- what cannot be answered -----------------------------------------------------------------------


@pytest.mark.parametrize("k", [0, -1, 1001])
def test_k_is_bounded(ask: Ask, k: int) -> None:
    assert "between 1 and 1000" in refusal(ask, "words", k=k)


@pytest.mark.parametrize("query", ["", " \n\t", "\0", "\0 \0"])
def test_query_without_text_is_refused(ask: Ask, query: str) -> None:
    assert "the query is empty" in refusal(ask, query)


def test_query_is_bounded(ask: Ask, drain: Drain) -> None:
    put("a.txt", SHIPS)
    drain()
    assert "20,001 characters" in refusal(ask, "x" * 20_001)
    assert ask(("ship " * 5000)[:20_000])


def test_nul_and_surrogates_in_a_query_do_no_harm(ask: Ask, drain: Drain) -> None:
    put("a.txt", SHIPS)
    put("b.txt", BREAD)
    drain()
    assert ask("the\0 ship \ud800\udfff", k=1)[0].filename == "a.txt"


@pytest.mark.parametrize("name", ["nobody", "", "x" * 5000, "a\0b", "\ud800", "'; DROP TABLE chunks; --"])
def test_unknown_tenant_and_project_are_named(ask: Ask, drain: Drain, name: str) -> None:
    put("a.txt", SHIPS)
    assert refusal(ask, "ship", tenant=name).startswith("there is no tenant ")
    assert refusal(ask, "ship", project=name).startswith("there is no project ")


@pytest.mark.parametrize(
    ("vector", "said"),
    [
        ([1.0] * 255, "255 dimensions, the database holds 256"),
        ([], "vector is a list of 0"),
        ([1.0] * 255 + [math.nan], "NaN"),
        ([math.inf] * 256, "infinity"),
        ([0.0] * 256, "zero"),
        ([1e-30] * 256, "no direction"),
        ([1e30] * 256, "too long"),
        ([1e39] * 256, "too large"),
        (["a"] * 256, "numbers"),
        ([10**400] * 256, "too large"),
    ],
)
def test_vector_that_does_not_fit_is_refused(ask: Ask, vector: Any, said: str) -> None:
    put("a.txt", SHIPS)
    assert said in refusal(ask, vector=vector)


def test_vector_needs_no_text(ask: Ask, drain: Drain, resources: Resources) -> None:
    put("a.txt", SHIPS)
    drain()
    matrix = resources.embedder.embed([SHIPS.strip()])
    assert matrix is not None
    by_vector = ask(vector=matrix[0].tolist())
    assert [(hit.chunk_id, hit.score) for hit in by_vector] == [
        (hit.chunk_id, hit.score) for hit in ask(SHIPS)
    ]
    found = ask("other words", vector=matrix[0].tolist())
    assert [hit.chunk_id for hit in found] == [hit.chunk_id for hit in ask(SHIPS)]


# -- the task --------------------------------------------------------------------------------------


def told(**arguments: Any) -> Any:
    """What the task answers, through the wire."""
    answer = answer_query(**json.loads(json.dumps(arguments)))
    return json.loads(json.dumps(answer, allow_nan=False))


def test_answer_of_the_task_is_json_and_the_same_hits(ask: Ask, drain: Drain) -> None:
    put("page.md", PAGE, tenant="t", project="p")
    drain()
    given = {"text": "ship", "mode": "vector", "tenant": "t", "project": "p", "k": 3}
    answer = read_answer(told(query=given)["answer"])
    assert list(answer.hits) == ask("ship", tenant="t", project="p", k=3)
    assert isinstance(answer.hits[0].chunk_id, UUID)


def test_task_answers_a_mistake_with_a_message_and_what_to_do() -> None:
    assert told(query={"text": ""})["error"] == "the query is empty"
    assert told(query={"text": "x", "tenant": "nobody"}) == {
        "error": "there is no tenant 'nobody'",
        "hint": "`ingest status` lists what there is",
    }


def test_task_answers_trouble_of_the_database_without_its_words(connection: Connection) -> None:
    connection.execute(text("ALTER TABLE segments RENAME TO elsewhere"))
    put("a.txt", SHIPS)
    answer = told(query={"text": "ship"})
    said = "the database did not answer the search"
    assert answer == {"error": said, "hint": "run `ingest doctor`", "outage": True}


# -- one snapshot ----------------------------------------------------------------------------------


@contextmanager
def meanwhile(resources: Resources, after: str, change: Callable[[], object]) -> Iterator[list[str]]:
    """Run `change` once, right after the first statement of a search that has `after` in it."""
    seen: list[str] = []

    def look(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        if after in statement and not seen:
            seen.append(statement)
            change()

    event.listen(resources.search_engine, "after_cursor_execute", look)
    yield seen
    event.remove(resources.search_engine, "after_cursor_execute", look)


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE chunks SET segment = -1 WHERE segment > 0",
        "DELETE FROM chunks",
        "UPDATE segments SET state = 'emptied' WHERE state = 'open'",
    ],
)
@pytest.mark.parametrize("after", ["FROM segments", "AS distance"])
def test_search_sees_one_moment(
    ask: Ask, drain: Drain, resources: Resources, connection: Connection, change: str, after: str
) -> None:
    put("page.md", PAGE)
    drain()
    before = ask("ship", k=5)
    with meanwhile(resources, after, lambda: connection.execute(text(change))) as seen:
        assert ask("ship", k=5) == before
    assert len(seen) == 1
    assert ask("ship", k=5) == []


def test_pooled_connection_keeps_nothing_of_a_search(ask: Ask, drain: Drain, resources: Resources) -> None:
    put("a.txt", SHIPS)
    drain()
    names = ("transaction_isolation", "hnsw.iterative_scan", "hnsw.ef_search", "enable_indexscan")

    def shown() -> list[str]:
        with resources.engine.connect() as connection:
            return [connection.execute(text(f"SHOW {name}")).scalar_one() for name in names]

    before = shown()
    ask("ship", k=100)
    assert shown() == before
    assert before[0] == "read committed"


# -- other spaces ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def template_of(new_database: Callable[[str | None], str]) -> Callable[..., str]:
    """Migrate a database of another embedding space, once."""
    made: dict[tuple[Any, ...], str] = {}

    def give(**space: Any) -> str:
        key = tuple(sorted(space.items()))
        if key not in made:
            url = new_database(None)
            migrate(read_settings(database_url=url, broker_url="redis://unused", **space))
            made[key] = driver_url(SecretStr(url)).database or ""
        return made[key]

    return give


class TestHalfvec:
    @pytest.fixture
    def environment(
        self, new_database: Callable[[str | None], str], template_of: Callable[..., str]
    ) -> Environment:
        template = template_of(embedding_type="halfvec")
        return {"EMBEDDING_TYPE": "halfvec", "DATABASE_URL": new_database(template)}

    def test_search_is_the_same_in_half_the_bytes(
        self, ask: Ask, drain: Drain, connection: Connection
    ) -> None:
        put("page.md", PAGE)
        drain()
        assert connection.execute(
            text("SELECT pg_typeof(embedding)::text FROM chunks LIMIT 1")
        ).scalar_one() == ("halfvec")
        assert "captain" in ask("a boat at sea with its captain", k=1)[0].text
        assert_cover(ask("ship", k=1000), PAGE)
        assert "too large" in refusal(ask, vector=[70_000.0] * 256)


class TestWithoutModel:
    @pytest.fixture
    def environment(self) -> Environment:
        return {"EMBEDDING_PROVIDER": "none"}

    def test_texts_cannot_be_searched_for_and_vectors_can(self, ask: Ask, drain: Drain) -> None:
        unit = [1.0] + [0.0] * 255
        chunks = [GivenChunk("with", unit), GivenChunk("without")]
        submit([Document.chunks(chunks, source_path="mine")])
        assert drain() == {"completed": 1}
        assert "EMBEDDING_PROVIDER is none" in refusal(ask, "ship")
        hits = ask(vector=unit, k=10)
        assert [(hit.text, hit.score, hit.number, hit.total) for hit in hits] == [("with", 1.0, 1, 2)]


# metadata of an edit that is under way, or has failed


def test_old_chunks_are_found_by_the_metadata_they_came_with(ask: Ask, drain: Drain) -> None:
    """Else who may see only what is public would read what is not public yet."""

    def tell(content: str, acl: str, **options: Any) -> None:
        submit([Document.text(content, source_path="a.txt", metadata={"acl": acl})], **options)

    def found(acl: str) -> list[tuple[str, Any]]:
        hits = ask("ship", filter={"metadata": {"acl": acl}})
        return [(hit.text, hit.metadata["acl"]) for hit in hits]

    tell("the secret ship", "private")
    drain()
    tell("the open ship", "public")
    assert (found("public"), found("private")) == ([], [("the secret ship", "private")])
    tell("the wide open ship", "everybody")
    assert (found("everybody"), found("private")) == ([], [("the secret ship", "private")])
    drain()
    assert (found("everybody"), found("private")) == ([("the wide open ship", "everybody")], [])
    tell("the wide open ship", "private")
    drain()
    assert (found("everybody"), found("private")) == ([], [("the wide open ship", "private")])


def test_an_edit_that_fails_leaves_the_metadata_of_the_old_chunks(
    ask: Ask, drain: Drain, connection: Connection
) -> None:
    zero = GivenChunk("the open ship", vector=[0.0] * 256)
    submit([Document.chunks([GivenChunk("the secret ship")], source_path="a", metadata={"acl": "private"})])
    drain()
    submit([Document.chunks([zero], source_path="a", metadata={"acl": "public"})])
    assert drain() == {"failed": 1}
    assert ask("ship", filter={"metadata": {"acl": "public"}}) == []
    [hit] = ask("ship", filter={"metadata": {"acl": "private"}})
    assert (hit.text, hit.metadata) == ("the secret ship", {"acl": "private"})
    submit([Document.chunks([GivenChunk("the open ship")], source_path="a", metadata={"acl": "public"})])
    assert drain() == {"completed": 1}
    [hit] = ask("ship", filter={"metadata": {"acl": "public"}})
    assert (hit.text, hit.metadata) == ("the open ship", {"acl": "public"})
    assert connection.execute(text("SELECT searched_metadata FROM documents")).scalar_one() is None


def test_a_capital_i_with_a_dot_is_an_i(ask: Ask, drain: Drain) -> None:
    put("a.txt", "\u0130stanbul'da hava g\u00fczel")
    drain()
    for asked in ("istanbul", "\u0130stanbul", "\u0130STANBUL", "Istanbul"):
        [hit] = ask(asked, mode="keyword")
        start, end = hit.highlights[0]
        assert hit.snippet[start:end] == "\u0130stanbul'da", asked


def test_a_phrase_that_is_nowhere_is_said_beside_words_left_out(resources: Resources, drain: Drain) -> None:
    put("a.txt", "the ship and the sea")
    drain()
    answer = search(resources, read_query(text='"the of the zzz the"', mode="keyword"))
    assert answer.hits == ()
    assert any("quoted words" in note for note in answer.notes), answer.notes


def test_names_with_what_is_not_stored_are_nobody(ask: Ask, drain: Drain) -> None:
    put("a.txt", SHIPS, tenant="acme", project="p")
    drain()
    for name in ("acme\0", "ac\0me", "acme\ud800"):
        assert "there is no tenant" in refusal(ask, "ship", tenant=name)
        with pytest.raises(IngestError, match="no NUL"):
            put("b.txt", SHIPS, tenant=name)
        with pytest.raises(IngestError, match="no NUL"):
            put("b.txt", SHIPS, tenant="acme", project=name)


def test_what_lies_far_off_is_said(
    resources: Resources, drain: Drain, monkeypatch: pytest.MonkeyPatch
) -> None:
    """How it is noticed: tests/integration/test_nearest.py."""
    put("a.txt", SHIPS)
    drain()
    found = nearest.candidates
    monkeypatch.setattr(
        nearest, "candidates", lambda *given, **named: found(*given, **named)._replace(far=True)
    )
    answer = search(resources, read_query(text="ship", mode="vector"))
    assert answer.notes == (
        "what the filter lets through lies far from what is asked for: some of the nearest may be missing",
    )
