"""BM25 of chunks, from the postings of a query's words; exact, in the order of score, then number.

    score = sum of weight * idf * times / (times + K1 * (1 - B + B * length / average length))
    idf = ln(1 + (N - df + 0.5) / (df + 0.5))

As Lucene has it since version 8; `df`: how many chunks have the word, `N`: how many there are.
"""

from collections.abc import Collection, Mapping, Sequence
from math import log
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from worker.steps.postings import BLOCK, BLOCK_BITS, ENTRY, decode

K1, B = 0.9, 0.4  # docs/decisions/0011

# What a query may read, over all its words.
MOST_ENTRIES = 1_000_000
# Below, no word costs enough to be left out.
_SMALL = 10_000

# A place for each chunk of a block is worth it while at least one in so many is used.
_SPARSE = 64

Numbers = NDArray[np.int64]
Scores = NDArray[np.float64]


class Corpus(NamedTuple):
    """How many chunks a search is over, and how many terms they have."""

    chunks: int
    length: int


class Fetched(NamedTuple):
    """A word's postings: (block, entries), several of a block where the word has several terms."""

    weight: float
    terms: int
    rows: Sequence[tuple[int, bytes | memoryview]]


class Choice(NamedTuple):
    """Which words to read, as indexes in order, and which are left out."""

    kept: list[int]
    left_out: list[int]


def choose(
    frequencies: Sequence[int], chunks: int, most: int = MOST_ENTRIES, needed: Collection[int] = ()
) -> Choice:
    """Choose words by how many chunks have each: the rarest first, until `most` entries are to be read.

    The rarest that is anywhere is always read. One that is in more than half of the chunks tells little: it
    is left out where there is a rarer one, unless it is `needed`: what is quoted is not found by other words.
    """
    order = sorted(range(len(frequencies)), key=lambda n: (frequencies[n], n))
    kept: list[int] = []
    entries = 0
    for n in order:
        common = n not in needed and chunks > _SMALL and 2 * frequencies[n] > chunks
        if entries and (common or entries + frequencies[n] > most):
            continue
        kept.append(n)
        entries += frequencies[n]
    return Choice(sorted(kept), sorted(set(order).difference(kept)))


class Scored(NamedTuple):
    """All chunks that have one of the words, by number, and their scores."""

    numbers: Numbers
    scores: Scores

    def best(self, count: int, allowed: Numbers | None = None) -> list[tuple[int, float]]:
        """Give the `count` best as (number, score), of those in `allowed` where it is given."""
        numbers, scores = self
        if allowed is not None:
            wanted = np.isin(numbers, allowed)
            numbers, scores = numbers[wanted], scores[wanted]
        if len(scores) > count:
            high = scores >= np.partition(scores, len(scores) - count)[len(scores) - count]
            numbers, scores = numbers[high], scores[high]
        order = np.lexsort((numbers, -scores))[:count]
        return list(zip(numbers[order].tolist(), scores[order].tolist(), strict=True))

    def count(self, allowed: Numbers | None = None) -> int:
        """Give how many there are, of those in `allowed` where it is given."""
        return len(self.numbers) if allowed is None else int(np.isin(self.numbers, allowed).sum())

    def of(self, numbers: Sequence[int]) -> list[float]:
        """Give the scores of chunks, 0 for those that have none of the words."""
        asked = np.asarray(numbers, np.int64)
        at = np.searchsorted(self.numbers, asked)
        has = np.append(self.numbers, -1)[at] == asked
        return [float(score) for score in np.where(has, np.append(self.scores, 0.0)[at], 0.0)]


def scored(corpus: Corpus, words: Sequence[Fetched]) -> Scored:
    """Score all chunks that are among the postings of a query's words."""
    blocks = sorted({block for word in words for block, _ in word.rows})
    if not blocks:
        return Scored(np.empty(0, np.int64), np.empty(0))
    slots = {block: slot for slot, block in enumerate(blocks)}
    found = [_impacts(word, slots, corpus) for word in words if word.rows]
    places, scores = _added(found, len(blocks) * BLOCK)
    firsts = np.array(blocks, np.int64) << BLOCK_BITS
    return Scored(firsts[places >> BLOCK_BITS] + (places & (BLOCK - 1)), scores)


def _impacts(word: Fetched, slots: Mapping[int, int], corpus: Corpus) -> tuple[Numbers, Scores]:
    """Give which places a word adds what to. The place of a chunk is its block's slot and its ordinal."""
    entries = decode(b"".join([part for _, part in word.rows]))
    sizes = [len(part) // ENTRY.itemsize for _, part in word.rows]
    bases = np.array([slots[block] << BLOCK_BITS for block, _ in word.rows], np.int64)
    places = np.repeat(bases, sizes) + entries["ordinal"]
    times, lengths = entries["times"].astype(np.float64), entries["length"].astype(np.float64)
    if word.terms > 1:
        places, firsts, which = np.unique(places, return_index=True, return_inverse=True)
        times, lengths = _summed(which, times), lengths[firsts]
    weight = word.weight * idf(len(places), corpus.chunks)
    average = max(corpus.length, 1) / max(corpus.chunks, 1)
    return places, weight * times / (times + K1 * (1 - B) + (K1 * B / average) * lengths)


def idf(frequency: int, chunks: int) -> float:
    """Give how much a word tells that so many of the chunks have."""
    return log(1 + (max(chunks - frequency, 0) + 0.5) / (frequency + 0.5))


def _added(found: Sequence[tuple[Numbers, Scores]], room: int) -> tuple[Numbers, Scores]:
    """Add up what is found of each place."""
    places, impacts = (np.concatenate(columns) for columns in zip(*found, strict=True))
    if room > max(_SPARSE * len(places), BLOCK):
        used, which = np.unique(places, return_inverse=True)
        return used, _summed(which, impacts)
    scores = _summed(places, impacts)
    used = np.flatnonzero(scores).astype(np.int64, copy=False)
    return used, scores[used]


def _summed(places: Numbers, values: Scores) -> Scores:
    sums: Scores = np.bincount(places, values).astype(np.float64, copy=False)
    return sums
