"""Chunks' terms turned round: which chunks have a term, as rows of `postings`.

A row is a term in one block of chunk numbers. It may be one of several: their entries, joined, are those of
all. An entry is 5 bytes: where the chunk is in its block, how often it has the term, how many terms it has.
"""

import struct
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple
from uuid import UUID

import numpy as np
from numpy.typing import NDArray

from worker.steps.terms import TermIds, Vocabulary, language_term

COLUMNS = ("tenant_id", "term", "block", "chunks", "occurrences", "entries")

BLOCK_BITS = 16
BLOCK = 1 << BLOCK_BITS
MOST_TIMES, LONGEST = 0xFF, 0xFFFF  # what an entry can hold; more is cut to it
ENTRY = np.dtype([("ordinal", "<u2"), ("times", "u1"), ("length", "<u2")])

Entries = NDArray[np.void]

_HEAD = struct.Struct("!hi16s")
_LENGTH = struct.Struct("!i")
_ROW = struct.Struct("!iqiiiqi")
_NUMBERS = np.dtype([
    ("block_size", ">i4"), ("block", ">i8"),
    ("chunks_size", ">i4"), ("chunks", ">i4"),
    ("occurrences_size", ">i4"), ("occurrences", ">i8"),
    ("entries_size", ">i4"),
])  # fmt: skip


class Words(NamedTuple):
    """A chunk's number and its terms, repeats kept."""

    number: int
    language: str
    ids: TermIds


class Row(NamedTuple):
    """A row of `postings`, without its segment and tenant."""

    term: str
    block: int
    chunks: int
    occurrences: int
    entries: bytes


class Postings(NamedTuple):
    """Rows as columns. `starts`: where each row's entries begin, and at last where they all end."""

    terms: list[str]
    blocks: NDArray[np.int64]
    starts: NDArray[np.int64]
    occurrences: NDArray[np.int64]
    entries: Entries

    def rows(self) -> Iterator[Row]:
        """Yield the rows, by term as the vocabulary numbers them, then by block."""
        data, bounds = self.entries.tobytes(), (self.starts * ENTRY.itemsize).tolist()
        for n, (term, block) in enumerate(zip(self.terms, self.blocks.tolist(), strict=True)):
            start, end = bounds[n], bounds[n + 1]
            chunks = (end - start) // ENTRY.itemsize
            yield Row(term, block, chunks, int(self.occurrences[n]), data[start:end])


def invert(chunks: Sequence[Words], vocabulary: Vocabulary) -> Postings:
    """Turn round the chunks of one tenant, each number once. `vocabulary` is the one their ids are from.

    Every chunk is also an entry of its language's term, 0 times: `occurrences` is the length of them all.
    """
    chunks = sorted(chunks, key=_number)
    numbers = np.array([chunk.number for chunk in chunks], np.int64)
    lengths = np.array([len(chunk.ids) for chunk in chunks], np.int64)
    tongues = {tongue: vocabulary.number(language_term(tongue)) for tongue in {c.language for c in chunks}}
    own = np.array([tongues[chunk.language] for chunk in chunks], np.uint64)
    places = np.arange(len(chunks), dtype=np.uint64)
    terms = np.concatenate([own, *(chunk.ids for chunk in chunks)]).astype(np.uint64)
    keys = np.sort((terms << 32) | np.concatenate([places, np.repeat(places, lengths)]))
    return _grouped(keys, numbers, lengths, np.array(list(tongues.values()), np.int64), vocabulary.terms())


def _number(chunk: Words) -> int:
    return chunk.number


def _grouped(
    keys: NDArray[np.uint64],
    numbers: NDArray[np.int64],
    lengths: NDArray[np.int64],
    tongues: NDArray[np.int64],
    names: list[str],
) -> Postings:
    """Make an entry of equal keys (a term, a place in `numbers`), a row of equal terms and blocks."""
    firsts = _changes(keys)
    times = np.diff(firsts, append=len(keys))
    terms, places = (keys[firsts] >> 32).astype(np.int64), (keys[firsts] & 0xFFFFFFFF).astype(np.int64)
    blocks = numbers[places] >> BLOCK_BITS
    starts = _changes(terms, blocks)
    whole = np.isin(terms, tongues)
    entries = np.empty(len(firsts), ENTRY)
    entries["ordinal"] = numbers[places] & (BLOCK - 1)
    entries["times"] = np.where(whole, 0, np.minimum(times, MOST_TIMES))
    entries["length"] = np.minimum(lengths, LONGEST)[places]
    return Postings(
        terms=[names[term] for term in terms[starts].tolist()],
        blocks=blocks[starts],
        starts=np.append(starts, len(entries)),
        occurrences=_sums(np.where(whole, entries["length"], entries["times"]), starts),
        entries=entries,
    )


def _changes(*columns: NDArray[np.generic]) -> NDArray[np.int64]:
    """Give where a value differs from the one before, and the beginning."""
    if not len(columns[0]):
        return np.empty(0, np.int64)
    differs = [column[1:] != column[:-1] for column in columns]
    return np.flatnonzero(np.concatenate([[True], np.logical_or.reduce(differs)]))


def _sums(values: NDArray[np.generic], starts: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.add.reduceat(values, starts, dtype=np.int64) if len(starts) else np.empty(0, np.int64)


def decode(entries: bytes | memoryview) -> Entries:
    """Read entries, without copying them. Raises ValueError where they are not whole."""
    return np.frombuffer(entries, ENTRY)


def numbers_of(block: int, entries: bytes | memoryview) -> NDArray[np.int64]:
    """Give the numbers of the chunks that a row lists."""
    return (block << BLOCK_BITS) + decode(entries)["ordinal"].astype(np.int64)


def merged(
    term: str, block: int, parts: Iterable[bytes | memoryview], dead: Sequence[int] = ()
) -> Row | None:
    """Make one row of several of one term and block, in order of numbers; None where nothing remains.

    `dead`: the ordinals in the block of chunks that are no more.
    """
    entries = decode(b"".join(parts))
    if len(dead):
        gone = np.zeros(BLOCK, np.bool_)
        gone[np.asarray(dead, np.int64)] = True
        entries = entries[~gone[entries["ordinal"]]]
    if not len(entries):
        return None
    entries = entries[np.argsort(entries["ordinal"], kind="stable")]
    counted = entries["length" if term.startswith("#") else "times"]
    return Row(term, block, len(entries), int(counted.sum(dtype=np.int64)), entries.tobytes())


def copy_parts(postings: Postings, tenant_id: UUID) -> Iterator[bytes | memoryview]:
    """Yield rows in the binary COPY format, of COLUMNS, to be joined with what `copyrows` begins and ends."""
    data, bounds = memoryview(postings.entries.tobytes()), (postings.starts * ENTRY.itemsize).tolist()
    numbers = memoryview(_numbers(postings).tobytes())
    head = _HEAD.pack(len(COLUMNS), 16, tenant_id.bytes)
    for n, term in enumerate(postings.terms):
        encoded = term.encode()
        yield head + _LENGTH.pack(len(encoded)) + encoded
        yield numbers[n * _NUMBERS.itemsize : (n + 1) * _NUMBERS.itemsize]
        yield data[bounds[n] : bounds[n + 1]]


def copy_row(row: Row, tenant_id: UUID) -> bytes:
    """Give one row as `copy_parts` gives many."""
    term = row.term.encode()
    numbers = _ROW.pack(8, row.block, 4, row.chunks, 8, row.occurrences, len(row.entries))
    return b"".join(
        [_HEAD.pack(len(COLUMNS), 16, tenant_id.bytes), _LENGTH.pack(len(term)), term, numbers, row.entries]
    )


def _numbers(postings: Postings) -> NDArray[np.void]:
    numbers = np.empty(len(postings.terms), _NUMBERS)
    counts = np.diff(postings.starts)
    numbers["block_size"], numbers["block"] = 8, postings.blocks
    numbers["chunks_size"], numbers["chunks"] = 4, counts
    numbers["occurrences_size"], numbers["occurrences"] = 8, postings.occurrences
    numbers["entries_size"] = counts * ENTRY.itemsize
    return numbers
