import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from worker.steps.forms import PART
from worker.steps.question import (
    MOST_PHRASES,
    MOST_WORDS,
    Word,
    contains_phrase,
    languages_of,
    parse,
    phrase_words,
    query_terms,
)
from worker.steps.terms import Vocabulary


def words(text: str, *languages: str) -> list[Word]:
    return query_terms(parse(text), languages or ["english"])


def test_words_are_stemmed_counted_and_in_order() -> None:
    assert words("Ranking the ranked documents") == [
        Word("ranking", ("rank",), 2),
        Word("the", ("the",), 1),
        Word("documents", ("document",), 1),
    ]


def test_a_word_has_a_term_in_each_language() -> None:
    assert words("Häuser ranking", "none", "german", "english") == [
        Word("häuser", ("häuser", "haus"), 1),
        Word("ranking", ("rank", "ranking"), 1),
    ]
    assert words("ranking parse_args")[0].terms == ("rank",)


def test_a_term_is_of_the_languages_that_have_it() -> None:
    [word] = words("news", "english", "french", "none")
    assert languages_of(word, ["french", "english", "none"]) == {
        "new": {"french"},
        "news": {"english", "none"},
    }


def test_without_languages_words_are_left_as_they_are() -> None:
    assert query_terms(parse("ranking"), []) == [Word("ranking", ("ranking",), 1)]


def test_identifiers_are_whole_and_in_parts() -> None:
    assert [(word.text, word.weight) for word in words("parse_args C++ ERR-4021")] == [
        ("parse_args", 1), ("parse", PART), ("args", PART), ("c++", 1), ("c", PART),
        ("err-4021", 1), ("err", PART), ("4021", PART),
    ]  # fmt: skip


def test_runs_without_spaces_are_looked_for_in_pairs() -> None:
    assert [word.text for word in words("検索する 本")] == ["検索", "索す", "する", "本"]


@pytest.mark.parametrize(
    ("text", "phrases"),
    [
        ('say "Hello  World" now', ["hello world"]),
        ("“Curly ones” here", ["curly ones"]),
        ('"one" "two" "one"', ["one", "two"]),
        ('"unbalanced', []),
        ('one" two', []),
        ('"" "  "', []),
        ('"日本"を', ["日本"]),
        ('"->"', ["->"]),
        ("“outer “inner” rest", ["inner"]),
        ('"a\nb"', ["a b"]),
    ],
)
def test_quotes_hold_phrases(text: str, phrases: list[str]) -> None:
    assert list(parse(text).phrases) == phrases


def test_words_of_phrases_are_words_too() -> None:
    assert parse('"Hello World').words == parse('"Hello World"').words == parse("hello world").words


@pytest.mark.parametrize("text", ["", " \n", "&|!:*'\"\\", "--- ... ♥", "\0\ud800", '""'])
def test_some_queries_have_no_words(text: str) -> None:
    assert parse(text) == ((), (), ())


def test_what_is_beyond_the_bound_is_named() -> None:
    text = " ".join(f"w{n}" for n in range(MOST_WORDS + 2)) + " w1"
    text += " ".join(f'"p{n}"' for n in range(MOST_PHRASES + 1))
    question = parse(text)
    assert len(question.words) == MOST_WORDS
    assert len(question.phrases) == MOST_PHRASES
    assert question.dropped[:2] == (f"w{MOST_WORDS}", f"w{MOST_WORDS + 1}")
    assert question.dropped[-1] == f"p{MOST_PHRASES}"


@pytest.mark.parametrize("piece", ["word ", '"', '"a"', "“", "a_b.c_d", "漢", "'"])
def test_a_megabyte_is_taken_apart(piece: str) -> None:
    assert len(parse(piece * (1_000_000 // len(piece))).words) <= MOST_WORDS


@pytest.mark.parametrize(
    ("text", "phrase", "found"),
    [
        ("Some Hello\n  World.", "hello world", True),
        ("hello worlds", "hello world", False),
        ("othello world", "hello world", False),
        ("othello world, hello world", "hello world", True),
        ("ﬁnd “it”", "find", True),
        ("it\u2019s here", "it's", True),
        ("call foo::bar() now", "foo::bar()", True),
        ("foo_bar", "bar", False),
        ("x->y", "->", True),
        ("e\u0301te\u0301", "ét", False),
        ("हिन्दी", "हिन", False),
        ("これは検索です", "検索", True),
        ("한국어를", "한국어", True),
        ("Vue3の", "vue3", True),
        ("", "a", False),
    ],
)
def test_phrases_are_whole_words(text: str, phrase: str, *, found: bool) -> None:
    assert contains_phrase(text, phrase) is found


@given(st.text())
def test_a_text_holds_itself(text: str) -> None:
    for phrase in parse(f'"{text}"').phrases:
        assert contains_phrase(f"before {text} after", phrase) or '"' in text or "\u201c" in text


PIECES = ["a", "B", "S", "engine", "Case", "v1", "2", ".", "-", "::", "_", "'", "'s", " ", "+", "#", "\n"]
PIECES += ["検", "索す", "데", "이터", "를", "é", "e\u0301", "हिन्दी", "ﬁ", "\u2019"]
PATCHES = st.lists(st.sampled_from(PIECES), max_size=6).map("".join)


@settings(max_examples=1000)
@given(PATCHES, PATCHES.filter(str.strip), PATCHES)
@example("worker.", "db.engine", ".make")
@example("", "v1.2", ".3")
@example("", "데이터베이스", "를")
@example("mail.", "acme.com", "")
@example("U.", "S. market", "")
@example("", "U.S.", "A.")
@example("a", "\u2019a.a", "")
def test_what_holds_a_phrase_has_its_words(before: str, phrase: str, after: str) -> None:
    text = before + phrase + after
    has = set(terms_of(text))
    for one in parse(f'"{phrase}"').phrases:
        if contains_phrase(text, one):
            for word in phrase_words(one, ["none"]):
                assert has.intersection(word.terms), (text, one, word)


def terms_of(text: str) -> list[str]:
    vocabulary = Vocabulary()
    vocabulary.ids(text, "none")
    return vocabulary.terms()
