import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from worker.steps.forms import PART, TOKEN, forms
from worker.steps.terms import bounded, term_of, token_terms
from worker.types import LANGUAGES

TEXTS = {
    "parse_args": "parse_args parse args",
    "__init__": "__init__ init",
    "_emphasised_": "_emphasised_ emphasised",
    "std::vec::Vec": "std::vec::vec std vec vec",
    "worker.db.engine": "worker.db.engine worker db engine",
    "foo.bar_baz": "foo.bar_baz foo bar_baz bar baz",
    "camelCase": "camelcase camel case",
    "HTTPServer2": "httpserver2 httpserver http server2 server",
    "ÖffnungsZeiten": "öffnungszeiten öffnungs zeiten",
    "URLs": "urls",
    "Rust's": "rust",
    "ERR-4021": "err-4021 err 4021",
    "CVE-2026-3172": "cve-2026-3172 cve 2026 3172",
    "E0308": "e0308",
    "0x80070057": "0x80070057",
    "python3": "python3 python",
    "3.14.1": "3.14.1 3 14 1",
    "C++": "c++ c",
    "C#": "c# c",
    "well-known": "well known",
    "don't": "don t",
    "O\u2019Reilly\u2019s": "o reilly",
    "U.S": "us",
    "___": "",
    "ﬁnd": "find",
    "\uff26\uff55\uff4c\uff4c": "full",
    "Straße": "strasse",
    "soft\xadhyphen": "softhyphen",
    "e\u0301te\u0301": "été",
    "हिन्दी": "हिन्दी",
    "検索する": "検索 索す する 検 索 す る",
    "本": "本",
    "Vue3のref": "vue3 vue の ref",
    "สวัสดี": "สวั วัส สดี ส วั ส ดี",
    "한국어를": "한국어를 한국 국어 어를 한 국 어 를",
    "漢\u0300": "漢",
}


@pytest.mark.parametrize(("token", "found"), TEXTS.items())
def test_forms_of_one_token(token: str, found: str) -> None:
    assert TOKEN.findall(token) == [token]
    assert [form.text for form in forms(token)] == found.split()


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("One, two; three.", "One two three"),
        ("in C#, C++, and C.", "in C# C++ and C"),
        ("issue #12 and a#b", "issue 12 and a b"),
        ("end.\nNext -- and—then...", "end Next and then"),
        ("'quoted' \"text\" it's", "quoted text it's"),
        ("https://example.com/a_b/c.html?x=1&y", "https example.com a_b c.html x 1 y"),
        ("f(x)->y; A::B::<T>::new()", "f x y A::B T new"),
        ("-- && || ! ' \" \\ : * #", ""),
        ("日本語、テキスト。", "日本語 テキスト"),
    ],
)
def test_tokens_of_a_text(text: str, tokens: str) -> None:
    assert TOKEN.findall(text) == tokens.split()


@pytest.mark.parametrize("tower", ["\u0300\u0316", "\uff9e\u0316", "\u0e49\u0e38", "\U0001e944\u0300"])
def test_marks_that_have_to_be_put_in_order_are_few(tower: str) -> None:
    """Putting 1,000,000 in order would take an hour."""
    assert all(len(form.text) < 100 for form in forms("e" + tower * 500_000))


def test_parts_count_for_less_than_what_they_are_of() -> None:
    assert {form.text: form.weight for form in forms("db.get_user")} == {
        "db.get_user": 1, "db": PART, "get_user": PART, "get": PART, "user": PART,
    }  # fmt: skip
    assert {form.weight for form in forms("well-known")} == {1}
    assert {form.text: form.weight for form in forms("検索")} == {"検索": 1, "検": 0, "索": 0}


TOWER = "ด" + "\u0e49" * 40
# Runs of what tokens are made of, and anything.
texts = st.lists(
    st.one_of(
        st.sampled_from([*TEXTS, TOWER, ".", "_", "-", "'", "\u2019", "::", "++", "#", " ", "A", "a", "1"]),
        st.text(),
    ),
    max_size=12,
).map("".join)


@settings(max_examples=500, deadline=None)
@given(texts, st.sampled_from(sorted(LANGUAGES)))
def test_what_is_looked_for_is_what_is_indexed(text: str, language: str) -> None:
    for token in TOKEN.findall(text):
        asked = {term_of(form, language) if stem else bounded(form) for form, stem, _ in forms(token)}
        indexed = token_terms(token, language)
        assert asked <= set(indexed)
        assert all(term and not term.startswith("#") and len(term.encode()) <= 60 for term in indexed)


def all_terms(text: str) -> None:
    for token in TOKEN.findall(text):
        token_terms(token, "none")


def lines_run(function: Callable[[], Any]) -> int:
    """Count the lines of Python and the calls into C that a function takes."""
    count = 0

    def trace(*_: object) -> Any:
        nonlocal count
        count += 1
        return trace

    sys.setprofile(lambda *_: trace())
    sys.settrace(trace)
    try:
        function()
    finally:
        sys.settrace(None)
        sys.setprofile(None)
    return count


@pytest.mark.parametrize(
    "piece",
    [
        "a_b.c_d.",
        "a",
        "A",
        "aA",
        "Aaa0",
        "a._",
        "a'",
        "a-1-",
        "a::",
        "漢",
        "e\u0301",
        "e\u0300\u0316",
        "_",
        "é9",
        "한",
    ],
)
def test_work_grows_with_the_text_alone(piece: str) -> None:
    """Twice the text is twice the work, in lines run; each of these was one token, or nearly."""
    once, twice = (lines_run(partial(all_terms, piece * times)) for times in (500, 1000))
    assert twice <= 2.2 * once + 100


@pytest.mark.parametrize(
    "text", ["a_b.c_d" * 150_000, "a" * 1_000_000, "A" * 1_000_000, "_" * 1_000_000, "'" * 1_000_000]
)
def test_a_megabyte_is_one_token_or_none(text: str) -> None:
    assert len(TOKEN.findall(text)) == (text[0] != "'")
