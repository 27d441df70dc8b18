import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from worker.steps.question import parse, query_terms
from worker.steps.snippets import LONGEST, snippet

FILLER = "Filler words go on and on. "


def shown(text: str, query: str, language: str = "english", **weights: float) -> str:
    """Give the snippet with its highlights in brackets."""
    terms = {term: 1.0 for word in query_terms(parse(query), [language]) for term in word.terms}
    found = snippet(text, terms | weights, language)
    out = found.text
    for start, end in reversed(found.highlights):
        out = f"{out[:start]}[{out[start:end]}]{out[end:]}"
    return out


@pytest.mark.parametrize(
    ("text", "query", "expected"),
    [
        ("Ranks are ranked.", "ranking", "[Ranks] are [ranked]."),
        ("Call parse_args here", "args", "Call [parse_args] here"),
        ("ﬁnd it", "find", "[ﬁnd] it"),
        ("これは検索する文書", "検索する", "これは[検索する]文書"),
        ("これは検索文書", "本 文", "これは検索[文]書"),
        ("Vue3のrefを使う", "ref", "Vue3の[ref]を使う"),
        ("한국어를 공부", "한국", "[한국]어를 공부"),
        ("nothing here", "other", "nothing here"),
        ("two\n\n   lines\there", "lines", "two [lines] here"),
        ("  \n around  ", "around", "[around]"),
        ("", "word", ""),
        (" \n", "word", ""),
    ],
)
def test_words_are_found_as_they_are_indexed(text: str, query: str, expected: str) -> None:
    assert shown(text, query) == expected


def test_the_best_window_is_shown_between_words() -> None:
    text = f"One fox. {FILLER * 20}The fox meets a hen here. {FILLER * 20}"
    found = shown(text, "fox hen")
    assert "The [fox] meets a [hen] here." in found
    assert found.startswith("…")
    assert found.endswith("…")
    assert all(word in FILLER + "The [fox] meets a [hen] here." for word in found.strip("…").split())


def test_rare_words_weigh_more() -> None:
    text = f"common also {FILLER * 20} rare {FILLER * 20}"
    assert "[rare]" in shown(text, "", rare=5.0, common=1.0, also=1.0)
    assert "[common]" in shown(text, "", rare=1.0, common=1.0, also=1.0)


def test_without_a_match_the_beginning_is_shown() -> None:
    assert shown(FILLER * 50, "absent").startswith("Filler words")


def test_a_word_longer_than_a_snippet_is_cut() -> None:
    found = snippet(f"see {'x' * 1000}", {"x" * 40 + "~": 1.0}, "none")
    assert len(found.text) <= LONGEST + 2
    assert shown(f"see {'x' * 1000} end", "x" * 1000) == f"…[{'x' * LONGEST}]…"


@settings(max_examples=300)
@given(
    st.lists(
        st.sampled_from(["fox ", "hens\n", "検索", "é ", "parse_args", "  ", "x" * 300, ". "]), max_size=80
    ),
    st.sampled_from(["fox", "検索", "hen args", "x", ""]),
    st.integers(5, 60),
)
def test_highlights_are_in_order_apart_and_inside(pieces: list[str], query: str, longest: int) -> None:
    text = "".join(pieces)
    terms = {term: 1.0 for word in query_terms(parse(query), ["english"]) for term in word.terms}
    found = snippet(text, terms, "english", longest)
    assert len(found.text) <= longest + 2
    edges = [edge for span in found.highlights for edge in span]
    assert edges == sorted(edges)
    assert all(0 <= start < end <= len(found.text) for start, end in found.highlights)
    assert all(not found.text[start:end].isspace() for start, end in found.highlights)
    if snippet(text, terms, "english", len(text) + 1).highlights:
        assert found.highlights


@pytest.mark.parametrize(
    "text", ["fox " * 250_000, "漢" * 1_000_000, "\n" * 1_000_000 + "fox", "x" * 1_000_000]
)
def test_a_megabyte_has_a_snippet(text: str) -> None:
    assert len(snippet(text, {"fox": 1.0, "漢漢": 1.0}, "english").text) <= LONGEST + 2
