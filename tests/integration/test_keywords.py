"""Searches by words: BM25 over what is stored, phrases, identifiers, languages; and both parts together."""

import math
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from sqlalchemy import Connection, text

from worker import Document, GivenChunk, delete, restore, set_language, submit
from worker.db import keyword
from worker.maintenance.run import run_chore
from worker.queries import read_query
from worker.resources import Resources
from worker.searching import keywords, ranking, search, stages
from worker.searching.similar import Similar, Similarity
from worker.settings import Settings
from worker.steps import bm25
from worker.steps.terms import Vocabulary
from worker.types import Answer

Drain = Callable[[], dict[str, int]]
Ask = Callable[..., Answer]

TEXTS = {
    "ship": "The ship left the harbour under sail. Ships sail north.",
    "harbour": "A harbour is where a ship is safe from the storm.",
    "storm": "The storm took the sail of the boat.",
    "bread": "The baker bakes bread of flour, water and yeast.",
    "code": "Call worker.db.engine.make_engine, or set MAX_CONNECTIONS; it gives ERR-4021 in HTTPServer2.",
    "code2": "Call the worker and the engine of the db; make connections to the server.",
}


@pytest.fixture(autouse=True)
def _use_settings(settings: Settings) -> None:
    """The producer's calls use the process's settings: those of this test."""


@pytest.fixture
def ask(resources: Resources) -> Ask:
    def run(text: str | None = None, *, mode: str = "keyword", **options: Any) -> Answer:
        return search(resources, read_query(text=text, mode=mode, **options))

    return run


def names(answer: Answer) -> list[str]:
    return [hit.source_path for hit in answer.hits]


def put(texts: dict[str, str], **options: Any) -> None:
    submit([Document.text(content, source_path=name, **options) for name, content in texts.items()])


def reference(query: str, texts: dict[str, str]) -> dict[str, float]:
    """BM25 as Lucene has it, written down again, over the same terms."""
    vocabulary = Vocabulary()
    terms = {
        name: [vocabulary.terms()[n] for n in vocabulary.ids(words, "english").tolist()]
        for name, words in texts.items()
    }
    average = sum(map(len, terms.values())) / len(terms)
    asked = Counter(vocabulary.terms()[n] for n in vocabulary.ids(query, "english").tolist())
    scores: dict[str, float] = {}
    for term, weight in asked.items():
        having = [name for name, mine in terms.items() if term in mine]
        idf = math.log(1 + (len(terms) - len(having) + 0.5) / (len(having) + 0.5))
        for name in having:
            times = terms[name].count(term)
            norm = bm25.K1 * (1 - bm25.B + bm25.B * len(terms[name]) / average)
            scores[name] = scores.get(name, 0) + weight * idf * times / (times + norm)
    return scores


@pytest.mark.parametrize(
    "query", ["ship", "ships in the storm", "the", "sail sail harbour", "bread water ship"]
)
def test_scores_are_those_of_bm25(ask: Ask, drain: Drain, query: str) -> None:
    put(TEXTS)
    drain()
    answer = ask(query)
    expected = reference(query, TEXTS)
    assert {hit.source_path: hit.score for hit in answer.hits} == pytest.approx(expected)
    assert [hit.score for hit in answer.hits] == pytest.approx(sorted(expected.values(), reverse=True))
    assert all(hit.scores == {"keyword": hit.score} and hit.distance is None for hit in answer.hits)


def seal(resources: Resources) -> None:
    run_chore(Resources(resources.settings.model_copy(update={"segment_rows": 1})), "seal")


def test_scores_are_the_same_wherever_the_chunks_are(ask: Ask, drain: Drain, resources: Resources) -> None:
    expected = reference("ship in a storm", TEXTS)
    for name, words in TEXTS.items():
        put({name: words})
        drain()
        seal(resources)
    found = {hit.source_path: hit.score for hit in ask("ship in a storm").hits}
    assert found == pytest.approx(expected)
    run_chore(resources, "compact")
    found = {hit.source_path: hit.score for hit in ask("ship in a storm").hits}
    assert found == pytest.approx(expected)


def test_what_is_deleted_or_replaced_is_not_found(ask: Ask, drain: Drain) -> None:
    put(TEXTS)
    drain()
    delete(["storm"])
    put({"harbour": "Nothing of the kind."})
    drain()
    assert names(ask("storm harbour")) == ["ship"]
    restore(["storm"])
    assert set(names(ask("storm"))) == {"storm"}


@pytest.mark.parametrize(
    ("query", "first"),
    [
        ("worker.db.engine.make_engine", "code"),
        ("make_engine", "code"),
        ("max_connections", "code"),
        ("err-4021", "code"),
        ("HTTPServer2", "code"),
        ("connection server", "code2"),
        ('"the harbour"', "ship"),
        ('"a harbour" ship', "harbour"),
    ],
)
def test_identifiers_and_phrases_are_found_as_they_are(
    ask: Ask, drain: Drain, query: str, first: str
) -> None:
    put(TEXTS)
    drain()
    assert names(ask(query))[0] == first


def test_quoted_words_must_stand_in_the_text(ask: Ask, drain: Drain) -> None:
    put(TEXTS)
    drain()
    assert names(ask('"ship is safe"')) == ["harbour"]
    assert names(ask('"SHIP  is\nsafe"')) == ["harbour"]
    assert names(ask('"safe ship"')) == []
    assert names(ask('"ship is safe" bread', mode="hybrid")) == ["harbour"]
    assert set(names(ask("ship is safe"))) > {"harbour"}


@pytest.mark.parametrize(
    "quoted",
    [
        "db.schema",
        "v1.2",
        "acme.com",
        "Foo::Bar",
        "ERR-77",
        "2026-01",
        "데이터베이스",
        "검색 시스템",
        "market",
    ],
)
def test_phrase_may_be_a_part_of_something_longer(ask: Ask, drain: Drain, quoted: str) -> None:
    parts = "worker.db.schema v1.2.3 mail.acme.com std::Foo::Bar ERR-77-b 2026-01-05 U.S. market"
    put({**TEXTS, "longer": f"{parts} 데이터베이스를 검색 시스템을"})
    drain()
    for mode in ("keyword", "hybrid"):
        assert names(ask(f'"{quoted}"', mode=mode)) == ["longer"]


def test_phrase_of_common_words_is_found_beside_a_rarer_word(
    ask: Ask, drain: Drain, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bm25, "_SMALL", 3)
    put({f"doc{n}": f"to be, or to sleep; not number {n}" for n in range(8)})
    put({"hamlet": "To be or not to be.", "author": "It is by Shakespeare."})
    drain()
    assert names(ask('"to be or not to be" shakespeare')) == ["hamlet"]


JAPANESE = "コンポーネントは再利用可能な部品です。データベースを検索する。"
THAI = "ฐานข้อมูลเก็บข้อมูล"


@pytest.mark.parametrize("query", ["検索", "データベース", "部品", "再利用", "ข้อมูล"])
def test_word_inside_a_sentence_without_spaces_is_found(ask: Ask, drain: Drain, query: str) -> None:
    put({"ja": JAPANESE, "th": THAI, **TEXTS})
    drain()
    assert names(ask(query)) == ["th" if query == "ข้อมูล" else "ja"]


def test_endings_are_those_of_the_documents_language(ask: Ask, drain: Drain) -> None:
    put({"de": "Die Häuser am Fluss sind alt."}, language="german")
    put({"en": "The houses near the river are old."})
    drain()
    assert names(ask("Haus")) == ["de"]
    assert names(ask("housing houses")) == ["en"]
    assert names(ask("Häuser", language="english")) == []
    assert names(ask("Häuser", language="german")) == ["de"]


def test_word_counts_only_where_its_language_is(ask: Ask, drain: Drain) -> None:
    """`news` is `new` in French, and in English another word."""
    english = {"news": "The news of the day.", "old": "New things and a new day.", "both": "No news is new."}
    french = {"fr": "Les news du jour.", "neuf": "Le pain du jour."}
    put(english, language="english")
    put(french, language="french")
    drain()
    answer = ask("news")
    assert set(names(answer)) == {"news", "both", "fr"}
    [both] = [hit for hit in answer.hits if hit.source_path == "both"]
    assert [both.snippet[start:end] for start, end in both.highlights] == ["news"]
    put({f"more{n}": f"Encore des news, numéro {n}." for n in range(5)}, language="french")
    drain()
    assert {"old", "neuf"}.isdisjoint(names(ask("news"))), "whichever language has more"


def test_language_of_a_project_holds_where_a_document_names_none(
    ask: Ask, drain: Drain, connection: Connection
) -> None:
    set_language("german", project="p")
    submit([Document.text("Die Häuser", source_path="de")], project="p")
    submit([Document.text("the houses", source_path="en", language="english")], project="p")
    drain()
    found = connection.execute(text("SELECT source_path, language FROM documents ORDER BY 1")).all()
    assert [tuple(row) for row in found] == [("de", "german"), ("en", "english")]
    set_language("none", project="p")
    submit([Document.text("Die Häuser", source_path="de")], project="p")
    assert drain() == {"completed": 1}
    assert names(ask("Haus", project="p")) == []
    assert names(ask("Häuser", project="p")) == ["de"]


def test_headings_count_for_the_chunks_below_them(ask: Ask, drain: Drain) -> None:
    chunk = GivenChunk("Run the command.", None, ("Installation", "Redis"))
    submit([Document.chunks([chunk, GivenChunk("Run the other.")], source_path="guide")])
    drain()
    [hit] = ask("installation").hits
    assert hit.heading_path == ("Installation", "Redis")


# -- both parts -----------------------------------------------------------------------------------


def test_hybrid_has_the_scores_of_both_parts(ask: Ask, drain: Drain) -> None:
    put(TEXTS)
    drain()
    for fusion in ("minmax", "rrf"):
        answer = ask("a ship in the storm", mode="hybrid", fusion=fusion)
        assert answer.mode == "hybrid"
        scores = [hit.score for hit in answer.hits]
        assert scores == sorted(scores, reverse=True)
        both = [hit for hit in answer.hits if len(hit.scores) == 2]
        assert both
        assert all(hit.scores["vector"] == pytest.approx(1 - (hit.distance or 0)) for hit in both)
        assert set(names(answer)) == set(TEXTS), "what only one part found is there, too"


def test_what_is_like_something_is_not_that_itself(ask: Ask, drain: Drain) -> None:
    put(TEXTS)
    drain()
    [ship] = [hit for hit in ask("ship", k=10).hits if hit.source_path == "ship"]
    for like in (ship.chunk_id, ship.document_id):
        found = names(ask("a ship in the storm", mode="hybrid", like=[like]))
        assert found
        assert "ship" not in found
    assert "ship" not in names(ask("ship", like=[ship.chunk_id])), "by words alone, too"


def test_weights_turn_a_hybrid_into_either_part(ask: Ask, drain: Drain) -> None:
    put(TEXTS)
    drain()
    by_words = ask("ship storm", mode="hybrid", weights={"vector": 0, "keyword": 1})
    assert names(by_words)[:2] == names(ask("ship storm"))[:2]
    by_vector = ask("ship storm", mode="hybrid", weights={"vector": 1, "keyword": 0})
    assert names(by_vector)[0] == names(ask("ship storm", mode="vector"))[0]


def test_document_comes_once_where_asked_however_many_of_its_chunks_are_better(
    ask: Ask, drain: Drain, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ranking, "DEPTH", 10)
    ships = [GivenChunk(f"The ship number {n} sails. ship ship") for n in range(30)]
    submit([Document.chunks(ships, source_path="fleet")])
    put({"far": "A word on a ship, among many other words that say nothing of the sea at all."})
    drain()
    for mode in ("keyword", "vector", "hybrid"):
        found = ask("ship", mode=mode, k=2, group_by_document=True)
        assert names(found) == ["fleet", "far"], mode
        assert set(names(ask("ship", mode=mode, k=2))) == {"fleet"}


def test_snippets_show_the_words_and_neighbours_stand_around(ask: Ask, drain: Drain) -> None:
    chunks = [GivenChunk(f"part {n}") for n in ("one", "two", "three", "four", "five")]
    submit([Document.chunks(chunks, source_path="parts")])
    drain()
    [hit] = ask("three", neighbours=2).hits
    assert (hit.before, hit.after) == (("part one", "part two"), ("part four", "part five"))
    assert [hit.snippet[start:end] for start, end in hit.highlights] == ["three"]
    assert (hit.number, hit.total, hit.start, hit.end) == (3, 5, 16, 26)


def test_order_is_the_same_each_time(ask: Ask, drain: Drain) -> None:
    put({f"doc{n}": f"the same ship, number {n}" for n in range(20)})
    drain()
    for mode in ("keyword", "vector", "hybrid"):
        first = ask("ship", mode=mode, k=20)
        assert len(first.hits) == 20
        assert [ask("ship", mode=mode, k=20).hits == first.hits for _ in range(3)] == [True] * 3
        assert ask("ship", mode=mode, k=7).hits == first.hits[:7]


def test_filter_on_a_project_finds_what_others_have_more_of(
    ask: Ask, drain: Drain, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keywords, "MOST_LOOKED_AT", 20)
    submit([Document.chunks([GivenChunk("ship ship ship")] * 40, source_path="fleet")], project="large")
    submit([Document.text("One ship among very many other words.", source_path="one")], project="small")
    drain()
    answer = ask("ship", project="small")
    assert (names(answer), answer.notes) == (["one"], ())


def test_candidates_that_were_not_looked_at_are_said(
    ask: Ask, drain: Drain, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keywords, "MOST_LOOKED_AT", 20)
    chunks = [GivenChunk("ship " * (1 + (n > 0)), metadata={"last": n == 0}) for n in range(40)]
    submit([Document.chunks(chunks, source_path="fleet")])
    drain()
    answer = ask("ship", filter={"chunk_metadata": {"last": True}}, k=5)
    assert (names(answer), answer.notes) == ([], ("only the 20 best by words were looked at",))
    late = ask("ship", filter={"chunk_metadata": {"last": False}}, k=5)
    assert (len(late.hits), late.notes) == (5, ())


def test_what_was_found_stands_where_a_deeper_look_is_late(
    ask: Ask, drain: Drain, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ranking, "DEPTH", 10)
    ships = [GivenChunk(f"The ship number {n} sails.") for n in range(30)]
    submit([Document.chunks(ships, source_path="fleet")])
    put({"far": "A word on a ship, among many other words that say nothing of the sea at all."})
    drain()
    rank = Similarity.rank

    def late(similarity: Similarity, depth: int) -> Similar:
        if depth > 10:
            similarity._snapshot.connection.execute(text("SELECT pg_sleep(60)"))
        return rank(similarity, depth)

    monkeypatch.setattr(Similarity, "rank", late)
    monkeypatch.setattr(stages, "_SHARE", 0.1)
    for mode in ("vector", "hybrid"):
        answer = ask("ship", mode=mode, k=2, group_by_document=True)
        assert (names(answer), answer.dropped) == (["fleet"], ())
        assert answer.notes == ("a deeper look was late: there may be more documents",)


# -- what is said of it ---------------------------------------------------------------------------


def test_empty_answers_say_why(ask: Ask, drain: Drain) -> None:
    put({"empty": " "})
    drain()
    assert ask("ship").notes == ("no chunk of this tenant is searchable",)
    put(TEXTS)
    drain()
    assert ask("zeppelin").notes == ("none of the words is in any chunk",)
    assert ask("&|!:*'\\").notes == ("the query has no words to look for",)
    assert ask("ship").notes == ()


def test_words_of_half_the_corpus_are_left_out_and_named(
    ask: Ask, drain: Drain, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bm25, "_SMALL", 3)
    put(TEXTS)
    drain()
    answer = ask("the yeast")
    assert names(answer) == ["bread"]
    assert answer.notes == ("too common to tell anything: the",)
    assert names(ask("the")), "where nothing rarer is asked for, they are looked for"


def test_explanation_tells_words_candidates_and_times(ask: Ask, drain: Drain) -> None:
    put(TEXTS)
    drain()
    answer = ask("ships zeppelin", mode="hybrid", explain=True)
    assert answer.explanation is not None
    assert answer.explanation["keyword"]["words"] == [
        {"word": "ships", "terms": ["ship"], "chunks": 2, "read": True},
        {"word": "zeppelin", "terms": ["zeppelin"], "chunks": 0, "read": True},
    ]
    assert answer.explanation["corpus"]["chunks"] == len(TEXTS)
    assert answer.latency_ms.keys() >= {"embed", "select", "keyword", "vector", "fuse", "present"}
    assert ask("ships").explanation is None


class TestLateStages:
    @pytest.fixture
    def environment(self) -> dict[str, str]:
        return {"SEARCH_TIMEOUT_SECONDS": "2"}

    def test_late_keywords_are_dropped_and_the_rest_answers(
        self, ask: Ask, drain: Drain, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        put(TEXTS)
        drain()
        late = keyword.POSTINGS.replace("SELECT", "SELECT pg_sleep(60)::text,", 1)
        with monkeypatch.context() as patched:
            patched.setattr(keyword, "POSTINGS", late)
            answer = ask("a ship", mode="hybrid")
        assert answer.dropped == ("keyword",)
        assert {hit.scores.keys() == {"vector"} for hit in answer.hits} == {True}
        assert ask("a ship", mode="hybrid").dropped == ()


def test_model_that_fails_leaves_the_words(ask: Ask, drain: Drain, resources: Resources) -> None:
    put(TEXTS)
    drain()

    class Broken:
        model = "broken"

        def embed(self, _texts: Sequence[str]) -> Any:
            raise RuntimeError("out of order")

    resources.__dict__["embedder"] = Broken()
    answer = ask("ship", mode="hybrid")
    assert answer.dropped == ("embed",)
    assert names(answer) == names(ask("ship"))


def test_query_is_embedded_once(ask: Ask, drain: Drain, resources: Resources) -> None:
    put(TEXTS)
    drain()
    inner = resources.embedder
    asked: list[str] = []

    class Counting:
        model = inner.model

        def embed(self, texts: Sequence[str]) -> Any:
            asked.extend(texts)
            return inner.embed(texts)

    resources.__dict__["embedder"] = Counting()
    first = ask("ship", mode="vector")
    assert ask("ship", mode="hybrid").hits
    assert ask("ship", mode="vector").hits == first.hits
    assert asked == ["ship"]
