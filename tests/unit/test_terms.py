import os
from pathlib import Path

import numpy as np
import pytest

from worker.steps.terms import (
    NO_LANGUAGE,
    TERM_BYTES,
    VERSION,
    Vocabulary,
    bounded,
    language_term,
    term_of,
)
from worker.types import LANGUAGES


def terms(text: str, language: str = "english", headings: tuple[str, ...] = ()) -> list[str]:
    vocabulary = Vocabulary()
    ids = vocabulary.chunk_ids(text, headings, language)
    assert ids.dtype == np.uint32
    names = vocabulary.terms()
    return [names[n] for n in ids]


def test_words_are_stemmed_and_repeats_kept_in_order() -> None:
    assert terms("Running runs, and the RUN.") == ["run", "run", "and", "the", "run"]


@pytest.mark.parametrize(
    ("language", "text", "found"),
    [
        ("none", "Running runs", "running runs"),
        ("german", "Häuser Straßen", "haus strass"),
        ("french", "L'évaluation des requêtes", "l évalu de requêt"),
        ("russian", "книги", "книг"),
        ("arabic", "كِتَاب", "كتاب"),
        ("finnish", "talossa", "talo"),
    ],
)
def test_languages_differ(language: str, text: str, found: str) -> None:
    assert terms(text, language) == found.split()


def test_an_identifier_is_found_in_small_letters_and_by_its_parts() -> None:
    assert terms("parseResponses") == ["parserespons", "pars", "respons"]
    assert term_of("parseresponses", "english") == "parserespons"
    assert terms("parse_args") == ["parse_args", "pars", "arg"]


def test_languages_are_those_of_the_library_and_none() -> None:
    assert {"english", "german", "japanese", NO_LANGUAGE} - LANGUAGES == {"japanese"}
    with pytest.raises(KeyError):
        Vocabulary().ids("text", "japanese")


def test_headings_add_what_the_text_lacks_once() -> None:
    assert terms("Install the package.", headings=("Guide", "Installing, guided")) == [
        "instal", "the", "packag", "guid",
    ]  # fmt: skip
    assert terms("", headings=("Guide", "Guides")) == ["guid"]


def test_numbers_stand_while_the_vocabulary_grows() -> None:
    vocabulary = Vocabulary()
    first = vocabulary.ids("one two", "none")
    vocabulary.ids(" ".join(f"w{n}" for n in range(1000)), "none")
    assert [vocabulary.terms()[n] for n in first] == ["one", "two"]
    assert np.array_equal(vocabulary.ids("one two", "none"), first)
    assert len(vocabulary) == 1002
    assert not vocabulary.is_full
    assert vocabulary.number(language_term("none")) == 1002


def test_two_languages_share_numbers_of_equal_terms() -> None:
    vocabulary = Vocabulary()
    assert vocabulary.ids("run", "english").tolist() == vocabulary.ids("run", "none").tolist() == [0]


@pytest.mark.parametrize("form", ["x" * 61, "ä" * 31, "漢" * 1_000_000, "\ud800" * 30])
def test_terms_are_bounded(form: str) -> None:
    assert len(bounded(form).encode()) <= TERM_BYTES
    assert bounded(form) == bounded(form) != bounded(form + "x")


def test_a_long_term_keeps_its_beginning() -> None:
    assert bounded("x" * 60) == "x" * 60
    assert bounded("x" * 61).startswith("x" * 40 + "~")


@pytest.mark.parametrize("text", ["", " \n", "--- … ♥ 👩‍👩‍👧", "\0", "\ud800"])
def test_some_texts_have_no_terms(text: str) -> None:
    assert terms(text) == []


def test_nul_and_surrogates_do_no_harm() -> None:
    assert terms("one\0two\ud800three") == ["one", "two", "three"]


@pytest.mark.skipif("CORPORA" not in os.environ, reason="set CORPORA to the folder of real data")
def test_a_word_inside_a_japanese_sentence_is_found() -> None:
    """Each of these is in sentences without a space beside it."""
    pages = sorted(Path(os.environ["CORPORA"], "vue-ja").rglob("*.md"))
    texts = [page.read_text() for page in pages]
    found = [set(terms(text)) for text in texts]
    for word, pairs in {
        "算出": ["算出"],
        "再レンダリング": ["再レ", "ダリ"],
        "親": ["親"],
        "リアクティブ": ["リア", "クテ"],
    }.items():
        holding = [n for n, text in enumerate(texts) if word in text]
        assert holding
        assert all(found[n].issuperset(pairs) for n in holding)


def test_version_is_what_the_terms_are() -> None:
    text = "Re-indexing parse_args and HTTPServer2 in v3.14: see ERR-4021, the O'Reilly book; 検索と한국어"
    assert (VERSION, " ".join(terms(text))) == (
        1,
        (
            "re index parse_args pars arg and httpserver2 httpserver http server2 server in v3.14 v3 14 see"
            " err-4021 err 4021 the o reilli book 検 索 と 検索 索と 한국어 한국 국어 한 국 어"
        ),
    )
