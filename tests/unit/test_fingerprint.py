"""Hashes that decide what work there is: stable to the bit, until VERSION is raised."""

import hashlib
import json
import math
import random
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.jsons import STORED, STORED_TEXTS
from worker.steps import chunk, fingerprint
from worker.steps.fingerprint import canonical_json, chunk_hash, content_hash, recipe, source_key
from worker.types import FileType

PLAIN: dict[str, Any] = {"model": "m", "dimension": 256, "chunk_size": 1000, "chunk_overlap": 0}
CHANGES: list[dict[str, Any]] = [
    {"model": "n"},
    {"dimension": 257},
    {"chunk_size": 1001},
    {"chunk_overlap": 1},
]

# Databases hold these. A change here makes every stored document changed: raise VERSION, then renew them.
GOLDEN = {
    "content": "32c7a56ef96e6fbc26f606d3d5e2e4c9f1daa3525b93c614b60468c906694362",
    "source": "e1ac9fcd102e4b9b4cd59f1910bef9105bb8f985950c9eac2d25ef57b6cc897d",
    "chunk": "d3e5359c7cd8e60bc1efd0274bd2e387adfc3d48a2b59ed81935f02edc1f5e4b",
    "recipe": "c80b1e78ebdb42d7baf249f81bdc992fed30e576cced5e095adabe9b471af5bd",
    "fingerprint": "8b0292780e7e860454fefe0917b43cab4135a31ca086ebed19ff121fa5c6a2a8",
}


def test_versions_are_those_of_the_golden_hashes() -> None:
    assert (fingerprint.VERSION, chunk.VERSION) == (1, 2)


def test_hashes_stay_what_they_are() -> None:
    found = {
        "content": content_hash("naïve ☕"),
        "source": source_key("/a/b.md"),
        "chunk": chunk_hash("m", "text"),
        "recipe": recipe(**PLAIN),
        "fingerprint": fingerprint.fingerprint(bytes(32), bytes(range(32)), FileType.MARKDOWN, "english"),
    }
    assert {name: value.hex() for name, value in found.items()} == GOLDEN


def test_content_and_source_are_plain_sha256_of_utf8() -> None:
    assert content_hash("é") == hashlib.sha256("é".encode()).digest()
    assert source_key("é") == hashlib.sha256("é".encode()).digest(), "a CHECK of `documents` computes it too"


@pytest.mark.parametrize("change", CHANGES)
def test_recipe_depends_on_each_of_its_parts(change: dict[str, Any]) -> None:
    assert recipe(**PLAIN | change) != recipe(**PLAIN)


@pytest.mark.parametrize(("module", "name"), [(fingerprint, "VERSION"), (fingerprint, "CHUNKER_VERSION")])
def test_raised_version_makes_another_recipe(monkeypatch: pytest.MonkeyPatch, module: Any, name: str) -> None:
    before = recipe(**PLAIN)
    monkeypatch.setattr(module, name, getattr(module, name) + 1)
    assert recipe(**PLAIN) != before


def test_fingerprint_depends_on_content_recipe_type_and_language() -> None:
    made = {
        fingerprint.fingerprint(content, by, kind, language)
        for content in (content_hash("a"), content_hash("b"))
        for by in (recipe(**PLAIN), recipe(**PLAIN | {"model": "n"}))
        for kind in FileType
        for language in ("english", "german")
    }
    assert len(made) == 2 * 2 * len(FileType) * 2
    assert {len(value) for value in made} == {32}


@given(STORED_TEXTS, st.integers(0, 12), st.integers(0, 12))
def test_model_and_text_do_not_run_into_each_other(whole: str, one: int, other: int) -> None:
    same = whole[:one] == whole[:other]
    assert (chunk_hash(whole[:one], whole[one:]) == chunk_hash(whole[:other], whole[other:])) == same


RECIPES = st.fixed_dictionaries(
    {
        "model": st.sampled_from(["m", "m1", "1"]) | STORED_TEXTS,
        "dimension": st.integers(1, 12),
        "chunk_size": st.integers(1, 12),
        "chunk_overlap": st.integers(0, 12),
    }
)


@given(RECIPES, RECIPES)
def test_recipes_are_told_apart(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert (recipe(**one) == recipe(**other)) == (one == other)


def in_order(value: Any, order: Callable[[list[str]], list[str]]) -> Any:
    """The same value, its keys in another order at every depth."""
    if isinstance(value, dict):
        return {key: in_order(value[key], order) for key in order(list(value))}
    return [in_order(item, order) for item in value] if isinstance(value, list) else value


@given(st.dictionaries(STORED_TEXTS, STORED, max_size=4), st.randoms())
def test_equal_values_are_written_equally_and_nothing_of_them_is_lost(
    value: dict[str, Any], rng: random.Random
) -> None:
    written = canonical_json(value)
    assert canonical_json(in_order(value, lambda keys: rng.sample(keys, len(keys)))) == written
    # as text, in which 1, 1.0 and true are three values
    assert repr(in_order(json.loads(written), sorted)) == repr(in_order(value, sorted))


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_canonical_json_refuses_what_json_does_not_have(number: float) -> None:
    with pytest.raises(ValueError, match="JSON"):
        canonical_json({"a": number})
