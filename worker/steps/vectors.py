"""What a vector must be before it may be stored."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from worker.errors import DocumentError
from worker.types import EmbeddingType

Matrix = NDArray[np.float32]

# chunks_embedding_check, which is what single precision can hold
_SHORTEST_SQUARED, _LONGEST_SQUARED = 1e-38, 1e38

_NUMBER: dict[EmbeddingType, Any] = {EmbeddingType.VECTOR: np.float32, EmbeddingType.HALFVEC: np.float16}


def checked(
    vectors: Sequence[Sequence[float]] | Matrix, *, count: int, dimension: int, column_type: EmbeddingType
) -> NDArray[np.floating]:
    """Give `count` vectors as a (count, dimension) matrix of the column's numbers, big-endian.

    Raises DocumentError: "vector_count", "vector_dimension", "vector_not_finite" (also: too large for
    the column's type), "vector_zero" (a zero vector would be stored and be missing from a cosine index).
    """
    if len(vectors) != count:
        raise DocumentError("vector_count", f"{len(vectors)} vectors came for {count} chunks")
    try:
        with np.errstate(over="ignore"):
            matrix: NDArray[np.floating] = np.asarray(vectors).astype(_NUMBER[column_type])
    except OverflowError:
        raise DocumentError("vector_not_finite", "a vector has a number too large for any float") from None
    except (TypeError, ValueError):
        raise DocumentError(
            "vector_dimension", "the vectors are not lists of numbers of one length"
        ) from None
    stored = matrix.dtype.newbyteorder(">")  # as COPY wants them
    if count == 0:
        return matrix.reshape(0, dimension).astype(stored)
    if matrix.ndim != 2 or matrix.shape[1] != dimension:  # noqa: PLR2004 -- rows and columns
        got = matrix.shape[1] if matrix.ndim > 1 else 1
        raise DocumentError(
            "vector_dimension", f"vectors have {got} dimensions, the database holds {dimension}"
        )
    _check_lengths(matrix, column_type)
    return matrix.astype(stored)


def _check_lengths(matrix: NDArray[np.floating], column_type: EmbeddingType) -> None:
    """Refuse vectors without a direction pgvector can compute: it squares them in single precision."""
    with np.errstate(over="ignore", invalid="ignore", under="ignore"):
        squared = np.einsum("ij,ij->i", matrix, matrix, dtype=np.float32)
    if not squared.max() <= _LONGEST_SQUARED:  # NaN is not, either
        if np.isfinite(matrix).all():
            raise DocumentError(
                "vector_not_finite", "a vector is too long: its square is no single-precision number"
            )
        raise DocumentError(
            "vector_not_finite", f"a vector has NaN, infinity or a number too large for {column_type}"
        )
    if squared.min() < _SHORTEST_SQUARED:
        raise DocumentError("vector_zero", "a vector is zero, or nearly: it has no direction to compare")
