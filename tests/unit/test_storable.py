"""What producers hand over, made storable: text without NUL and lone surrogates, metadata as JSON."""

import json
import math
from collections import UserDict
from enum import StrEnum
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from worker.errors import DocumentError
from worker.steps.storable import metadata_json, storable

ANY_TEXT = st.text(st.characters(exclude_categories=()), max_size=30)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | ANY_TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(ANY_TEXT, inner, max_size=4),
    max_leaves=12,
)


class Colour(StrEnum):
    RED = "red"


def refusal(metadata: Any) -> str:
    with pytest.raises(DocumentError) as caught:
        metadata_json(metadata)
    assert caught.value.code == "bad_metadata"
    assert "\n" not in caught.value.message
    return caught.value.message


def nested(levels: int) -> dict[str, Any]:
    inner: dict[str, Any] = {}
    for _ in range(levels):
        inner = {"a": inner}
    return inner


@settings(max_examples=200)
@given(ANY_TEXT)
@example("a\0b\ud800c\udfff")
def test_text_becomes_utf8_without_nul_and_only_what_must_changes(text: str) -> None:
    clean = storable(text)
    assert "\0" not in clean
    assert clean.encode().decode() == clean
    assert storable(clean) == clean
    surrogates = [n for n, char in enumerate(text.replace("\0", "")) if "\ud800" <= char <= "\udfff"]
    assert all(clean[n] == "\ufffd" for n in surrogates)
    if not surrogates and "\0" not in text:
        assert clean == text


def test_nul_goes_and_lone_surrogates_are_replaced() -> None:
    assert storable("a\0b\ud800c\ud83d\ude00😀") == "ab\ufffdc\ufffd\ufffd😀"


@settings(max_examples=200)
@given(st.dictionaries(ANY_TEXT, JSON, max_size=4))
def test_metadata_is_canonical_json_that_jsonb_accepts(metadata: dict[str, Any]) -> None:
    written = metadata_json(metadata)
    assert "\\u0000" not in written.replace("\\\\", "")
    read = json.loads(written.encode().decode())
    assert json.dumps(read, sort_keys=True, ensure_ascii=False, separators=(",", ":")) == written
    assert metadata_json(read) == written


def test_order_of_names_does_not_matter_and_that_of_items_does() -> None:
    assert metadata_json({"b": 1, "a": {"d": 1, "c": 2}}) == '{"a":{"c":2,"d":1},"b":1}'
    assert metadata_json({"a": [1, 2]}) != metadata_json({"a": [2, 1]})
    assert metadata_json({"a": (1, 2)}) == metadata_json({"a": [1, 2]})


def test_names_and_values_are_cleaned_at_every_depth() -> None:
    assert metadata_json({"a\0": [{"b\ud800": "c\0\udfff"}]}) == '{"a":[{"b\ufffd":"c\ufffd"}]}'


def test_other_mappings_names_and_strings_are_written_as_what_they_are() -> None:
    odd: Any = {1: Colour.RED, None: True}
    assert metadata_json(UserDict(odd)) == '{"1":"red","None":true}'


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_numbers_json_does_not_have_are_refused(number: float) -> None:
    assert "JSON" in refusal({"a": [number]})


@pytest.mark.parametrize("value", [{1}, b"bytes", object(), 1j, pytest.param(10**5000, id="huge")])
def test_what_is_not_json_is_refused(value: Any) -> None:
    assert "JSON" in refusal({"a": value})


@pytest.mark.parametrize("metadata", [[1], "text", 5, [("a", 1)]])
def test_metadata_that_is_not_names_with_values_is_refused(metadata: Any) -> None:
    assert type(metadata).__name__ in refusal(metadata)


def test_depth_is_bounded() -> None:
    assert metadata_json(nested(50)).count("{") == 51
    assert "50 deep" in refusal(nested(51))
    assert "50 deep" in refusal(nested(100_000))
    circle: dict[str, Any] = {}
    circle["again"] = circle
    assert "50 deep" in refusal(circle)


def test_size_is_bounded() -> None:
    assert len(metadata_json({"a": "x" * ((1 << 20) - 8)})) == 1 << 20
    assert "1,048,576" in refusal({"a": "x" * ((1 << 20) - 7)})
