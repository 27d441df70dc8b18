"""The rows of a batch between their encoding and their COPY."""

import tempfile
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import IO, Any
from uuid import UUID

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from worker.buffer import RowBuffer, Vector, merged
from worker.steps.copyrows import (
    HEADER,
    NO_VECTOR,
    TRAILER,
    CopyStream,
    Row,
    document_fields,
    encode_vectors,
    row_fields,
)
from worker.steps.prepare import Piece
from worker.steps.terms import Vocabulary

ROWS = 150
PREFIX = document_fields(UUID(int=1), UUID(int=2), None, "english")
MEMORY = st.sampled_from([0, 100, 1 << 20])


@pytest.fixture(scope="module")
def rows() -> list[tuple[Row, Vector | None]]:
    return [made(n) for n in range(ROWS)]


def made(n: int) -> tuple[Row, Vector | None]:
    piece = Piece(f"text {n} é", 8 + len(str(n)), bytes([n]) * 32, ("Title",) * (n % 3))
    vector = None if n % 4 == 3 else np.arange(n, n + 5, dtype=">f4")
    return Row(PREFIX, "english", n.to_bytes(16, "big"), n + 1, n << 20, piece), vector


def encoded_vector(vector: Vector | None) -> bytes:
    return NO_VECTOR if vector is None else encode_vectors([vector])


def encoded(rows: Sequence[tuple[Row, Vector | None]]) -> bytes:
    return b"".join(part for row, vector in rows for part in row_fields(row, encoded_vector(vector)))


def append(buffer: RowBuffer, rows: Sequence[tuple[Row, Vector | None]]) -> None:
    buffer.append([row for row, _ in rows], [vector for _, vector in rows])


def drawn(stream: CopyStream, sizes: Iterator[int]) -> bytes:
    parts = []
    while part := stream.read(size := next(sizes)):
        assert size < 0 or len(part) <= size
        parts.append(part)
    assert stream.read(1) == stream.read() == b""
    return b"".join(parts)


def whole(buffer: RowBuffer, *ranges: tuple[int, int]) -> bytes:
    stream = buffer.stream(ranges)
    return b"".join(iter(stream.read, b""))


def copy_of(rows: Sequence[tuple[Row, Vector | None]]) -> bytes:
    return HEADER + encoded(rows) + TRAILER


@settings(max_examples=60)
@given(
    memory=MEMORY,
    cuts=st.lists(st.integers(0, ROWS), max_size=8).map(sorted),
    sizes=st.lists(st.sampled_from([-1, 1, 2, 7, 64, 1000, 1 << 20]), min_size=1, max_size=4),
    data=st.data(),
)
def test_stream_is_header_ranges_trailer_in_whatever_pieces_it_is_read(
    rows: list[tuple[Row, Vector | None]], memory: int, cuts: list[int], sizes: list[int], data: st.DataObject
) -> None:
    bounds = [0, *cuts, ROWS]
    slices = list(pairwise(bounds))
    ranges = [part for part in slices if data.draw(st.booleans())]
    with RowBuffer(memory, Vocabulary()) as buffer:
        for start, stop in slices:
            append(buffer, rows[start:stop])
        assert buffer.size == ROWS
        chosen = [row for start, stop in ranges for row in rows[start:stop]]
        found = drawn(buffer.stream(ranges), (size for _ in iter(int, 1) for size in sizes))
    assert found == copy_of(chosen)


def test_no_ranges_give_an_empty_copy(rows: list[tuple[Row, Vector | None]]) -> None:
    with RowBuffer(100, Vocabulary()) as buffer:
        assert whole(buffer) == whole(buffer, (0, 0)) == HEADER + TRAILER
        append(buffer, rows[:3])
        assert whole(buffer, (2, 2)) == HEADER + TRAILER


def test_ranges_may_come_in_any_order_and_again(rows: list[tuple[Row, Vector | None]]) -> None:
    with RowBuffer(0, Vocabulary()) as buffer:
        append(buffer, rows)
        for _ in range(2):
            assert whole(buffer, (90, 100), (3, 5)) == copy_of([*rows[90:100], *rows[3:5]])


@settings(max_examples=40)
@given(memory=MEMORY, kept=st.integers(0, 60), more=st.integers(60, ROWS))
def test_what_is_taken_back_is_gone_and_writing_goes_on(
    rows: list[tuple[Row, Vector | None]], memory: int, kept: int, more: int
) -> None:
    with RowBuffer(memory, Vocabulary()) as buffer:
        append(buffer, rows[:60])
        buffer.take_back(kept)
        assert buffer.size == kept
        assert whole(buffer, (0, kept)) == copy_of(rows[:kept])
        append(buffer, rows[60:more])
        assert whole(buffer, (0, buffer.size)) == copy_of([*rows[:kept], *rows[60:more]])


@pytest.mark.parametrize("memory", [0, 1 << 20])
def test_writing_goes_on_after_and_during_streaming(
    rows: list[tuple[Row, Vector | None]], memory: int
) -> None:
    with RowBuffer(memory, Vocabulary()) as buffer:
        append(buffer, rows[:10])
        assert whole(buffer, (0, 10)) == copy_of(rows[:10])
        append(buffer, rows[10:20])
        stream = buffer.stream([(0, 20)])
        begun = stream.read()
        append(buffer, rows[20:30])
        assert begun + b"".join(iter(stream.read, b"")) == copy_of(rows[:20])
        assert whole(buffer, (0, 30)) == copy_of(rows[:30])


def test_rows_without_any_vector_need_none() -> None:
    without = [(row, None) for row, _ in map(made, range(5))]
    with RowBuffer(0, Vocabulary()) as buffer:
        append(buffer, without)
        assert whole(buffer, (0, 5)) == copy_of(without)
        append(buffer, [made(5)])
        assert whole(buffer, (0, 6)) == copy_of([*without, made(5)])


def test_halfvec_numbers_keep_their_width() -> None:
    rows = [(row, np.arange(1, 4, dtype=">f2")) for row, _ in map(made, range(5))]
    with RowBuffer(0, Vocabulary()) as buffer:
        append(buffer, rows)
        assert whole(buffer, (1, 4)) == copy_of(rows[1:4])


def test_vectors_and_rows_must_be_as_many() -> None:
    with RowBuffer(0, Vocabulary()) as buffer, pytest.raises(ValueError, match="vectors came for"):
        buffer.append([made(0)[0]], [])


def vectors_file(buffer: RowBuffer) -> Any:
    return next(value for value in vars(buffer).values() if isinstance(value, tempfile.SpooledTemporaryFile))


def test_vectors_beyond_the_limit_are_in_a_file_and_it_goes_with_the_buffer(
    rows: list[tuple[Row, Vector | None]],
) -> None:
    with RowBuffer(1000, Vocabulary()) as buffer:
        append(buffer, rows[:20])
        vectors: IO[bytes] = vectors_file(buffer)
        assert not vectors._rolled  # type: ignore[attr-defined] # the library's word for "in a file"
        append(buffer, rows[20:])
        assert vectors._rolled  # type: ignore[attr-defined]
        assert whole(buffer, (0, ROWS)) == copy_of(rows)
    assert vectors.closed


def test_no_memory_is_none_and_not_all_there_is(rows: list[tuple[Row, Vector | None]]) -> None:
    with RowBuffer(0, Vocabulary()) as buffer:
        append(buffer, rows[:1])
        assert vectors_file(buffer)._rolled


@given(st.lists(st.integers(0, 9), max_size=9).map(sorted))
def test_merged_ranges_cover_the_same_rows_in_order(bounds: list[int]) -> None:
    ranges = list(zip(bounds[::2], bounds[1::2], strict=False))
    joined = merged(ranges)
    assert [n for part in joined for n in range(*part)] == [n for part in ranges for n in range(*part)]
    assert all(one[1] != other[0] for one, other in pairwise(joined))
