"""Chunks the producer made: written, read back, hashed."""

import json
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from worker.errors import DocumentError
from worker.steps.given import content_hash, dump, given_hash, parse, replaced_in, with_vectors
from worker.types import EmbeddingType, GivenChunk

TEXTS = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=20)
CHUNKS = st.builds(
    GivenChunk,
    TEXTS.filter(lambda text: text.strip() != ""),
    st.none() | st.lists(st.floats(allow_nan=False, allow_infinity=False), max_size=4),
    st.lists(TEXTS, max_size=3).map(tuple),
    st.dictionaries(TEXTS, st.none() | st.integers(-9, 9) | TEXTS, max_size=3),
)


def refused(chunk: Any) -> str:
    with pytest.raises(DocumentError) as caught:
        dump([GivenChunk("fine"), chunk])
    assert "\n" not in caught.value.message
    return caught.value.code


def unread(text: str) -> str:
    with pytest.raises(DocumentError) as caught:
        parse(text)
    assert "\n" not in caught.value.message
    return caught.value.code


def written(**changes: Any) -> str:
    return json.dumps(
        {"chunks": [{"text": "a", "vector": None, "heading_path": [], "metadata": {}} | changes]}
    )


@settings(max_examples=100)
@given(st.lists(CHUNKS, max_size=4))
def test_chunks_come_back_as_they_were(chunks: list[GivenChunk]) -> None:
    content = dump(chunks)
    assert parse(content.decode()) == (chunks, 0)
    assert dump(parse(content.decode())[0]) == content


def test_content_is_canonical() -> None:
    chunk = GivenChunk("é", [1, 2.5], ("A",), {"b": 1, "a": 2})
    assert dump([chunk]).decode() == (
        '{"chunks":[{"heading_path":["A"],"metadata":{"a":2,"b":1},"text":"é","vector":[1.0,2.5]}]}'
    )


def test_vectors_may_be_arrays() -> None:
    chunk = GivenChunk("a", np.array([0.1, 0.2], np.float32))  # type: ignore[arg-type] # as producers do
    assert parse(dump([chunk]).decode())[0][0].vector == [float(np.float32(0.1)), float(np.float32(0.2))]


def test_text_headings_and_metadata_are_made_storable() -> None:
    odd = GivenChunk("a\0\ud800", None, ("b\0",), {"c\0": ["\udfff"]})
    assert replaced_in([odd, GivenChunk("fine")]) == 5
    assert parse(dump([odd]).decode()) == ([GivenChunk("a\ufffd", None, ("b",), {"c": ["\ufffd"]})], 0)


@pytest.mark.parametrize("text", ["", " \n\t", "\0", "\0 \0"])
def test_chunk_without_text_is_refused_by_its_number(text: str) -> None:
    with pytest.raises(DocumentError, match="chunk 2 has no text"):
        dump([GivenChunk("fine"), GivenChunk(text)])


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf, 10**400])
def test_vector_that_is_not_finite_is_refused(number: Any) -> None:
    assert refused(GivenChunk("a", [1.0, number])) == "vector_not_finite"


@pytest.mark.parametrize("vector", [["a"], [None], 5, [[1.0]]])
def test_vector_that_is_not_numbers_is_refused(vector: Any) -> None:
    assert refused(GivenChunk("a", vector)) == "bad_chunks"


@pytest.mark.parametrize("metadata", [{"a": math.nan}, {"a": b""}, ["a"]])
def test_bad_metadata_is_refused(metadata: Any) -> None:
    assert refused(GivenChunk("a", None, (), metadata)) == "bad_metadata"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "words",
        "[]",
        "{}",
        '{"chunks": 5}',
        '{"chunks": [5]}',
        '{"chunks": [{}]}',
        '{"chunks": {"a": 1}}',
        "[" * 100_000,
        written(text=5),
        written(text=" "),
        written(text=None),
        written(vector="abc"),
        written(vector=["a"]),
        written(vector=5),
        written(heading_path="abc"),
        written(heading_path=[1]),
        written(heading_path=None),
    ],
)
def test_content_that_dump_did_not_write_is_refused(text: str) -> None:
    assert unread(text) == "bad_chunks"


def test_content_a_producer_wrote_itself_is_held_to_the_same() -> None:
    assert unread(written(vector=[math.nan])) == "vector_not_finite"
    assert unread(written(vector=[10**400])) == "vector_not_finite"
    assert unread(written(metadata=[])) == "bad_metadata"
    assert unread(written(metadata={"a": math.nan})) == "bad_metadata"
    cleaned = [GivenChunk("a\ufffd", None, ("b",), {})]
    assert parse(written(text="a\0\ud800", heading_path=["\0b"])) == (cleaned, 3)


def test_hash_depends_on_text_model_and_vector() -> None:
    plain, same = GivenChunk("t"), GivenChunk("t", None, ("H",), {"m": 1})
    with_vector, like_it = GivenChunk("t", [1, 2.5]), GivenChunk("t", [1.0, 2.5])
    assert given_hash("m", plain) == given_hash("m", same)
    assert given_hash("m", with_vector) == given_hash("n", like_it), "the model had no part in it"
    different = [
        given_hash("m", plain),
        given_hash("n", plain),
        given_hash("m", GivenChunk("u")),
        given_hash("m", with_vector),
        given_hash("m", GivenChunk("t", [2.5, 1])),
        given_hash("m", GivenChunk("u", [1, 2.5])),
    ]
    assert len(set(different)) == len(different)


def test_hashes_stay_what_they_are() -> None:
    # A change makes every stored given chunk a new one: raise VERSION in worker/steps/fingerprint.py then.
    assert given_hash("m", GivenChunk("t")).hex() == (
        "8481c8582a73b3ba64d6506da480d877324f34bae0fb970c71b5d24bc57c06c7"
    )
    assert given_hash("m", GivenChunk("t", [1, 2.5])).hex() == (
        "5117973d1c8b3a5b6579a4890ce04b159d1b90fe39a6a478a4fbaf9344fc0b76"
    )


def test_vectors_are_checked_for_the_column_they_go_into() -> None:
    large = [GivenChunk("t", [1e5, 0, 0, 1])]
    (stored,) = with_vectors(large, dimension=4, column_type=EmbeddingType.VECTOR)
    assert stored == GivenChunk("t", stored.vector)
    with pytest.raises(DocumentError, match="too large for halfvec"):
        with_vectors(large, dimension=4, column_type=EmbeddingType.HALFVEC)


# So few of each that two are often equal.
FEW = st.builds(
    GivenChunk,
    st.sampled_from(["a", "b", "ab"]),
    st.none() | st.lists(st.sampled_from([1, 1.0, -0.0, 0.0, 2.5]), min_size=1, max_size=2),
    st.lists(st.sampled_from(["", "a", "aa"]), max_size=2).map(tuple),
    st.sampled_from([{}, {"a": 1, "b": 2}, {"b": 2, "a": 1}, {"a": 1}, {"a": "1"}, {"a": [1]}]),
)


@given(FEW, FEW, st.sampled_from(["text", "vector", "heading_path", "metadata"]))
def test_a_content_is_told_by_all_of_its_chunks(one: GivenChunk, two: GivenChunk, field: str) -> None:
    other = replace(one, **{field: getattr(two, field)})
    for others in ([other], [two], [one, other], [other, one], []):
        for mine in ([one], [one, other], [one, two]):
            assert (content_hash(mine) == content_hash(others)) == (dump(mine) == dump(others))
    assert content_hash(parse(dump([one, two]).decode())[0]) == content_hash([one, two])


def test_a_content_is_the_same_by_lists_and_by_arrays() -> None:
    array = GivenChunk("t", np.asarray([1, 2.5], np.float32))  # type: ignore[arg-type] # as producers do
    assert content_hash([array]) == content_hash([GivenChunk("t", [1, 2.5])])
