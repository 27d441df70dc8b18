"""What may be stored as a vector, and what it looks like then."""

import math
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from worker.errors import DocumentError
from worker.steps.vectors import checked
from worker.types import EmbeddingType

TYPES = {EmbeddingType.VECTOR: ">f4", EmbeddingType.HALFVEC: ">f2"}
NUMBERS = st.floats(-60_000, 60_000, width=16).filter(lambda number: abs(number) >= 0.01)


def code_of(vectors: Any, *, count: int = 1, dimension: int = 3, kind: str = "vector") -> str:
    with pytest.raises(DocumentError) as caught:
        checked(vectors, count=count, dimension=dimension, column_type=EmbeddingType(kind))
    assert "\n" not in caught.value.message
    return caught.value.code


@settings(max_examples=50)
@given(
    st.sampled_from(list(TYPES)),
    st.lists(st.lists(NUMBERS, min_size=4, max_size=4), max_size=5),
    st.booleans(),
)
def test_good_vectors_become_a_big_endian_matrix(
    kind: EmbeddingType, vectors: list[list[float]], as_array: bool
) -> None:
    given_in: Any = np.array(vectors, np.float32).reshape(len(vectors), 4) if as_array else vectors
    matrix = checked(given_in, count=len(vectors), dimension=4, column_type=kind)
    assert (matrix.shape, matrix.dtype) == ((len(vectors), 4), np.dtype(TYPES[kind]))
    assert matrix.tolist() == vectors
    assert matrix.tobytes() == np.array(vectors, TYPES[kind]).tobytes()


def test_what_is_checked_is_not_changed() -> None:
    mine = np.array([[1.0, 2.0, 3.0]], np.float32)
    before = mine.tobytes()
    checked(mine, count=1, dimension=3, column_type=EmbeddingType.HALFVEC)
    assert mine.tobytes() == before


def test_no_vectors_keep_the_dimension() -> None:
    assert checked([], count=0, dimension=3, column_type=EmbeddingType.VECTOR).shape == (0, 3)


@pytest.mark.parametrize(("vectors", "count"), [([], 1), ([[1, 2, 3]], 2), ([[1, 2, 3]] * 3, 2)])
def test_count_must_be_that_of_the_chunks(vectors: Sequence[Sequence[float]], count: int) -> None:
    assert code_of(vectors, count=count) == "vector_count"


@pytest.mark.parametrize(
    "vectors",
    [
        [[1, 2]],
        [[1, 2, 3, 4]],
        [[]],
        [[1, 2, 3], [1, 2]],
        [1.0],
        [[[1, 2, 3]]],
        [["a", "b", "c"]],
        ["abc"],
        [{"a": 1}],
    ],
)
def test_other_than_rows_of_numbers_of_the_dimension_is_refused(vectors: Any) -> None:
    assert code_of(vectors, count=len(vectors)) == "vector_dimension"


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf, 1e39, None])
def test_what_is_not_finite_is_refused(number: Any) -> None:
    assert code_of([[1.0, number, 3.0]]) == "vector_not_finite"


def test_number_too_large_for_any_float_is_refused() -> None:
    assert code_of([[1.0, 10**400, 3.0]]) == "vector_not_finite"


def test_number_too_large_for_halfvec_is_refused_without_a_warning() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert code_of([[1.0, 70_000.0, 3.0]], kind="halfvec") == "vector_not_finite"
        checked([[1.0, 70_000.0, 3.0]], count=1, dimension=3, column_type=EmbeddingType.VECTOR)


@pytest.mark.parametrize(
    ("vector", "kind"),
    [
        ([0, 0, 0], "vector"),
        ([0.0, -0.0, 0.0], "vector"),
        ([1e-50, 0, 0], "vector"),
        ([1e-9, 0, 0], "halfvec"),
    ],
)
def test_zero_vector_and_one_that_rounds_to_it_are_refused(vector: list[float], kind: str) -> None:
    assert code_of([vector], kind=kind) == "vector_zero"


@pytest.mark.parametrize("number", [1e-25, 1e25])
def test_length_whose_square_no_float_holds_is_refused(number: float) -> None:
    # pgvector sums squares in 4 bytes: the cosine distance of such a row is NaN, and `chunks` refuses it
    assert code_of([[number, number, number]]).startswith("vector_")


def test_one_bad_vector_among_good_ones_is_found() -> None:
    assert code_of([[1, 2, 3], [0, 0, 0], [1, 2, 3]], count=3) == "vector_zero"
