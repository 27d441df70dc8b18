import struct
from collections import Counter
from collections.abc import Sequence
from uuid import UUID

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.steps.postings import COLUMNS, ENTRY, Row, Words, copy_parts, decode, invert, merged
from worker.steps.terms import Vocabulary, language_term

TENANT = UUID(int=7)
Chunk = tuple[int, str, Sequence[str]]

NAMES = ("a", "b", "c", "ä", "日本")
chunks_of_a_batch = st.lists(
    st.tuples(
        st.integers(1, 400_000),
        st.sampled_from(["english", "none"]),
        st.lists(st.sampled_from(NAMES), max_size=9),
    ),
    max_size=20,
    unique_by=lambda chunk: chunk[0],
)


def rows_of(chunks: Sequence[Chunk]) -> list[Row]:
    vocabulary = Vocabulary()
    words = [
        Words(number, language, np.array([vocabulary.number(term) for term in terms], np.uint32))
        for number, language, terms in chunks
    ]
    return list(invert(words, vocabulary).rows())


def entries_of(rows: Sequence[Row]) -> dict[str, dict[int, tuple[int, int]]]:
    """Give term → number → (times, length), and check what rows say of their entries."""
    found: dict[str, dict[int, tuple[int, int]]] = {}
    for row in rows:
        entries = decode(row.entries)
        assert len(entries) == row.chunks
        assert row.occurrences == entries["length" if row.term.startswith("#") else "times"].sum()
        for ordinal, times, length in entries.tolist():
            assert found.setdefault(row.term, {}).setdefault(row.block << 16 | ordinal, (times, length)) == (
                times,
                length,
            )
    return found


@given(chunks_of_a_batch)
def test_rows_are_the_chunks_turned_round(chunks: list[Chunk]) -> None:
    rows = rows_of(chunks)
    expected: dict[str, dict[int, tuple[int, int]]] = {}
    for number, language, terms in chunks:
        expected.setdefault(language_term(language), {})[number] = (0, len(terms))
        for term, times in Counter(terms).items():
            expected.setdefault(term, {})[number] = (times, len(terms))
    assert entries_of(rows) == expected
    assert len({(row.term, row.block) for row in rows}) == len(rows)


def test_what_an_entry_cannot_hold_is_cut() -> None:
    (language, term) = sorted(rows_of([(1, "none", ["a"] * 70_000)]))
    assert decode(language.entries).tolist() == [(1, 0, 65_535)]
    assert decode(term.entries).tolist() == [(1, 255, 65_535)]


def test_an_entry_is_what_the_table_checks() -> None:
    (_, row) = sorted(rows_of([(0x2_0103, "none", ["a", "b", "a"])]))[:2]
    assert row == Row("a", 2, 1, 2, struct.pack("<HBH", 0x103, 2, 3))
    assert ENTRY.itemsize == 5


def test_a_chunk_without_terms_counts_as_a_chunk() -> None:
    assert rows_of([(1, "none", [])]) == [Row("#none", 0, 1, 0, struct.pack("<HBH", 1, 0, 0))]
    assert rows_of([]) == []


@given(chunks_of_a_batch, st.sets(st.integers(0, 400_000)))
def test_merging_joins_rows_and_leaves_out_the_dead(chunks: list[Chunk], dead: set[int]) -> None:
    dead |= {number for number, _, _ in chunks[::3]}
    rows = [*rows_of(chunks[::2]), *rows_of(chunks[1::2])]
    remaining = rows_of([chunk for chunk in chunks if chunk[0] not in dead])
    joined = [
        merged(
            term,
            block,
            [row.entries for row in rows if (row.term, row.block) == (term, block)],
            sorted(number & 0xFFFF for number in dead if number >> 16 == block),
        )
        for term, block in {(row.term, row.block) for row in rows}
    ]
    assert sorted(row for row in joined if row) == sorted(remaining)


def test_entries_are_read_whole_or_not() -> None:
    with pytest.raises(ValueError, match="multiple"):
        decode(b"123456")


@given(chunks_of_a_batch)
def test_copy_holds_the_columns_in_order(chunks: list[Chunk]) -> None:
    vocabulary = Vocabulary()
    words = [Words(n, lang, vocabulary.ids(" ".join(terms), lang)) for n, lang, terms in chunks]
    postings = invert(words, vocabulary)
    data = b"".join(copy_parts(postings, TENANT))
    for row in postings.rows():
        (count,) = struct.unpack_from("!h", data)
        fields, data = [], data[2:]
        for _ in range(count):
            (size,) = struct.unpack_from("!i", data)
            fields.append(data[4 : 4 + size])
            data = data[4 + size :]
        assert dict(zip(COLUMNS, fields, strict=True)) == {
            "tenant_id": TENANT.bytes,
            "term": row.term.encode(),
            "block": struct.pack("!q", row.block),
            "chunks": struct.pack("!i", row.chunks),
            "occurrences": struct.pack("!q", row.occurrences),
            "entries": row.entries,
        }
    assert data == b""
