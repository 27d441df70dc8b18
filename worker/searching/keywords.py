"""The keyword stage: the chunks that have a query's words, ranked by BM25, its quoted phrases word for word.

    words → how common each is → which to read → postings → scores
          → candidates that live, pass the filter and hold the phrases, best first

Scores are computed here, not by the server: decision 0011 says why.
"""

import time
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import reduce
from itertools import chain
from typing import Any
from uuid import UUID

import numpy as np

from worker.db import keyword, passages
from worker.searching.asking import Asked
from worker.searching.snapshot import Snapshot
from worker.steps import bm25
from worker.steps.bm25 import Fetched, Numbers, Scored
from worker.steps.postings import numbers_of
from worker.steps.question import Word, contains_phrase, languages_of, phrase_words, query_terms
from worker.steps.terms import language_term, term_of
from worker.steps.tongues import Tongues

Entries = tuple[int, bytes | memoryview]  # of a block

_AT_ONCE, _TEXTS_AT_ONCE = 500, 50
# Candidates looked at one by one, where a filter or a phrase lets few of them through.
MOST_LOOKED_AT = 50_000
_MOST_NAMED = 10


@dataclass(frozen=True, slots=True)
class Keywords:
    """What the stage found: {number: score}, best first, and the document of each.

    `all` has the scores of every chunk with one of the words, those that are no more among them. `words`
    tells of each in how many chunks it is, and whether it was read. `notes`: what to say of it.
    """

    scores: Mapping[int, float] = field(default_factory=dict)
    documents: Mapping[int, UUID] = field(default_factory=dict)
    words: Sequence[Mapping[str, Any]] = ()
    notes: tuple[str, ...] = ()
    all: Scored = field(default_factory=lambda: Scored(np.empty(0, np.int64), np.empty(0)))


class Common:
    """The words of a query and how common each is among the tenant's chunks."""

    def __init__(self, snapshot: Snapshot, asked: Asked) -> None:
        self.languages = asked.languages or snapshot.corpus.languages
        self.words = query_terms(asked.question, self.languages)
        terms = {term for word in self.words for term in word.terms}
        found = snapshot.ask(keyword.frequencies, terms) if terms else {}
        self.frequencies = [sum(found.get(term, 0) for term in word.terms) for word in self.words]
        self._chunks = snapshot.corpus.chunks

    def all_occur(self, words: Sequence[Word]) -> bool:
        """Tell whether each of these words of the query is in some chunk."""
        absent = {word.terms for word, count in zip(self.words, self.frequencies, strict=True) if not count}
        return not any(word.terms in absent for word in words)

    def rarest(self, words: Sequence[Word]) -> list[int]:
        """Give which of the query's words is the rarest of these, by index; none where none is looked for."""
        known = {word.terms: n for n, word in enumerate(self.words)}
        among = (known[word.terms] for word in words if word.terms in known)
        return sorted(among, key=self.frequencies.__getitem__)[:1]

    def weights(self, language: str) -> dict[str, float]:
        """Give what each term of the query tells in chunks of a language: {term: weight}."""
        return {
            term_of(word.text, language) if len(word.terms) > 1 else word.terms[0]: (
                word.weight * bm25.idf(frequency, self._chunks)
            )
            for word, frequency in zip(self.words, self.frequencies, strict=True)
        }


def rank(snapshot: Snapshot, asked: Asked, common: Common, depth: int, seconds: float) -> Keywords:
    """Give the `depth` best chunks that live, pass the filter and hold the quoted phrases.

    Candidates are looked at for so many seconds, then those found until then are given, and a note.
    """
    if not common.words:
        return Keywords(notes=("the query has no words to look for",))
    end = time.monotonic() + seconds
    phrases = [phrase_words(phrase, common.languages) for phrase in asked.question.phrases]
    needed = set(chain.from_iterable(map(common.rarest, phrases)))
    choice = bm25.choose(common.frequencies, snapshot.corpus.chunks, needed=needed)
    kept = [common.words[n] for n in choice.kept if common.frequencies[n]]
    fetched = _fetch(snapshot, common.languages, kept)
    allowed = _allowed(
        snapshot,
        common,
        list(chain.from_iterable(phrases)),
        {word.terms: one for word, one in zip(kept, fetched, strict=True)},
    )
    scored = bm25.scored(bm25.Corpus(snapshot.corpus.chunks, snapshot.corpus.length), fetched)
    parts = _in_order(scored, depth, allowed)
    found, looked_at = _living(snapshot, parts, asked.question.phrases, depth, end)
    notes = _notes(asked, common, choice.left_out)
    if len(found) < depth and looked_at < scored.count(allowed):
        notes += (f"only the {looked_at:,} best by words were looked at",)
    return Keywords(
        {number: score for number, score, _ in found},
        {number: document for number, _, document in found},
        _described(common, choice.left_out),
        notes,
        scored,
    )


def _fetch(snapshot: Snapshot, languages: Sequence[str], words: Sequence[Word]) -> list[Fetched]:
    """Read the postings of words; of one with several terms, each where its language is.

    Which chunk is of which language is not read where there are more chunks than a query may read entries.
    """
    rows = _rows(snapshot, {term for word in words for term in word.terms})
    several = any(len(word.terms) > 1 for word in words)
    told_apart = several and snapshot.corpus.chunks <= bm25.MOST_ENTRIES
    tongues = _tongues(snapshot, languages) if told_apart else None
    return [
        Fetched(word.weight, len(word.terms), _where_spoken(word, rows, tongues, languages)) for word in words
    ]


def _tongues(snapshot: Snapshot, languages: Sequence[str]) -> Tongues:
    listed = _rows(snapshot, {language_term(language) for language in languages[1:]})
    return Tongues(languages, {one: listed[language_term(one)] for one in languages[1:]})


def _rows(snapshot: Snapshot, terms: Collection[str]) -> dict[str, list[Entries]]:
    rows: dict[str, list[Entries]] = {term: [] for term in terms}
    for row in snapshot.ask(keyword.postings, terms) if terms else ():
        rows[row.term].append((row.block, row.entries))
    return rows


def _where_spoken(
    word: Word, rows: Mapping[str, Sequence[Entries]], tongues: Tongues | None, languages: Sequence[str]
) -> list[Entries]:
    if tongues is None or len(word.terms) == 1:
        return [row for term in word.terms for row in rows[term]]
    return [
        (block, tongues.only(spoken, block, entries))
        for term, spoken in languages_of(word, languages).items()
        for block, entries in rows[term]
    ]


def _allowed(
    snapshot: Snapshot, common: Common, phrased: Sequence[Word], fetched: Mapping[tuple[str, ...], Fetched]
) -> Numbers | None:
    """Give the numbers that can be in the answer, where that is known beforehand; None: any.

    Those that a filter lets through where they are few, and those that have all words of the phrases.
    """
    if not common.all_occur(phrased):
        return np.empty(0, np.int64)
    sets = [_numbers(fetched[word.terms]) for word in phrased if word.terms in fetched]
    if (few := snapshot.numbers_within()) is not None:
        sets.append(np.array(few, np.int64))
    return reduce(np.intersect1d, sets) if sets else None


def _numbers(fetched: Fetched) -> Numbers:
    return np.concatenate([numbers_of(block, entries) for block, entries in fetched.rows])


def _in_order(scored: Scored, depth: int, allowed: Numbers | None) -> Iterator[Sequence[tuple[int, float]]]:
    """Yield candidates, best first: as many as are wanted; as many again, as some are no more; then many."""
    first = 2 * depth
    ranked = scored.best(first, allowed)
    yield from _parts(ranked, min(depth, _AT_ONCE))
    if len(ranked) == first:
        yield from _parts(scored.best(MOST_LOOKED_AT, allowed)[first:], _AT_ONCE)


def _parts(ranked: Sequence[tuple[int, float]], size: int) -> Iterator[Sequence[tuple[int, float]]]:
    return (ranked[start : start + size] for start in range(0, len(ranked), size))


def _living(
    snapshot: Snapshot,
    parts: Iterable[Sequence[tuple[int, float]]],
    phrases: Sequence[str],
    most: int,
    end: float,
) -> tuple[list[tuple[int, float, UUID]], int]:
    """Give (number, score, document) of what is a chunk still, passes the filter and holds the phrases.

    And how many were looked at until there were enough, or it was too late.
    """
    found: list[tuple[int, float, UUID]] = []
    looked_at = 0
    for part in parts:
        alive = snapshot.documents_of([number for number, _ in part])
        if phrases:
            alive = {number: alive[number] for number in _holding(snapshot, list(alive), phrases)}
        found += ((number, score, alive[number]) for number, score in part if number in alive)
        looked_at += len(part)
        if len(found) >= most or time.monotonic() > end:
            break
    return found[:most], looked_at


def _holding(snapshot: Snapshot, numbers: Sequence[int], phrases: Sequence[str]) -> Iterator[int]:
    """Yield which chunks hold the phrases. Few at a time: a chunk that a producer cut may be megabytes."""
    for start in range(0, len(numbers), _TEXTS_AT_ONCE):
        some = numbers[start : start + _TEXTS_AT_ONCE]
        for number, text in passages.texts(snapshot.connection, snapshot.visible, some).items():
            if all(contains_phrase(text, phrase) for phrase in phrases):
                yield number


def _described(common: Common, left_out: Sequence[int]) -> list[dict[str, Any]]:
    return [
        {"word": word.text, "terms": list(word.terms), "chunks": frequency, "read": n not in left_out}
        for n, (word, frequency) in enumerate(zip(common.words, common.frequencies, strict=True))
    ]


def _notes(asked: Asked, common: Common, left_out: Sequence[int]) -> tuple[str, ...]:
    notes = []
    if left_out:
        notes.append(f"too common to tell anything: {_listed([common.words[n].text for n in left_out])}")
    if asked.question.dropped:
        notes.append(f"beyond what one query looks for: {_listed(asked.question.dropped)}")
    if common.words and not any(common.frequencies):
        notes.append("none of the words is in any chunk")
    return tuple(notes)


def _listed(words: Sequence[str]) -> str:
    more = f" and {len(words) - _MOST_NAMED} more" if len(words) > _MOST_NAMED else ""
    return ", ".join(words[:_MOST_NAMED]) + more
