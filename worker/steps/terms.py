"""Text to terms: what is kept in `postings` and looked up there.

A term is a form (`worker/steps/forms.py`), stemmed in the language of its document, of at most TERM_BYTES.
None begins with `#`: such rows hold what is known of a language as a whole (`language_term`).
"""

from collections.abc import Iterable, Sequence
from functools import cache, lru_cache
from hashlib import sha256
from itertools import chain, count

import numpy as np
import Stemmer
from numpy.typing import NDArray

from worker.steps.forms import TOKEN, Script, forms, grams, runs

VERSION = 1  # of what terms a text has: whoever raises it has to write all postings again

NO_LANGUAGE = "none"
TERM_BYTES = 60

_PREFIX_BYTES = 40
_SURELY_SHORT = TERM_BYTES // 4  # characters
_LONGEST_TOKEN = 64  # longer ones are met once
_FULL = 100_000  # terms, or tokens: `aB` and `ab` are two
_MANY_HEADINGS = 20_000
_KNOWN_TOKENS = 32_768  # of a process, all languages together: some 10 MB

TermIds = NDArray[np.uint32]


def language_term(language: str) -> str:
    """Name the term whose postings are all chunks of a language."""
    return f"#{language}"


def term_of(form: str, language: str) -> str:
    """Give the term of a word in a language. Raises KeyError for one that Snowball does not have."""
    return bounded(_stemmer(language).stemWord(form) or form) if language != NO_LANGUAGE else bounded(form)


def bounded(term: str) -> str:
    """Give a term of at most TERM_BYTES: of a longer one its beginning and a hash."""
    encoded = term.encode("utf-8", "surrogatepass")
    if len(encoded) <= TERM_BYTES:
        return term
    beginning = encoded[:_PREFIX_BYTES].decode("utf-8", "ignore")
    return f"{beginning}~{sha256(encoded).hexdigest()[:16]}"


class Vocabulary:
    """Terms by number, and which ones a token has.

    It grows until it is renewed, and so does its memory: `is_full` says when that would be better. `terms`:
    those that it has, at their numbers.
    """

    def __init__(self, terms: Iterable[str] = ()) -> None:
        self._numbers = _Numbers(zip(terms, count()))
        self._tokens: dict[str, _Tokens] = {}
        self._headings: dict[tuple[str, ...], tuple[int, ...]] = {}

    def __len__(self) -> int:
        return len(self._numbers)

    @property
    def is_full(self) -> bool:
        """Tell that a new one would be better: this one takes some 30 MB."""
        tokens = sum(map(len, self._tokens.values()))
        return max(len(self._numbers), tokens) > _FULL or len(self._headings) > _MANY_HEADINGS

    def renew(self) -> None:
        """Begin anew: numbers given until now stand for what `terms` gave until now."""
        self._numbers, self._tokens, self._headings = _Numbers(), {}, {}

    def number(self, term: str) -> int:
        """Give a term's number: they are counted from 0."""
        return self._numbers[term]

    def terms(self) -> list[str]:
        """Give all terms, each at its number."""
        return list(self._numbers)

    def ids(self, text: str, language: str) -> TermIds:
        """Give the terms of a text by number, in order, each as often as it occurs."""
        return np.fromiter(self._of(text, language), np.uint32)

    def chunk_ids(self, text: str, heading_path: Sequence[str], language: str) -> TermIds:
        """Give the terms of a chunk: those of its text, and once each those only its headings have."""
        ids = list(self._of(text, language))
        if heading_path:
            above = self._headings_ids(tuple(heading_path), language)
            ids += set(above).difference(ids)
        return np.array(ids, np.uint32)

    def _of(self, text: str, language: str) -> Iterable[int]:
        return chain.from_iterable(map(self._known(language).__getitem__, TOKEN.findall(text)))

    def _known(self, language: str) -> "_Tokens":
        if language not in self._tokens:
            self._tokens[language] = _Tokens(language, self._numbers)
        return self._tokens[language]

    def _headings_ids(self, heading_path: tuple[str, ...], language: str) -> tuple[int, ...]:
        key = (language, *heading_path)
        if key not in self._headings:
            self._headings[key] = tuple(self._of("\n".join(heading_path), language))
        return self._headings[key]


class _Numbers(dict[str, int]):
    """Terms, numbered as they come."""

    def __missing__(self, term: str) -> int:
        return self.setdefault(term, len(self))


class _Tokens(dict[str, tuple[int, ...]]):
    """Tokens of one language and their terms' numbers, found out once each."""

    def __init__(self, language: str, numbers: _Numbers) -> None:
        super().__init__()
        self._language, self._numbers = language, numbers

    def __missing__(self, token: str) -> tuple[int, ...]:
        ids = tuple(map(self._numbers.__getitem__, token_terms(token, self._language)))
        if len(token) <= _LONGEST_TOKEN:
            self[token] = ids
        return ids


def token_terms(token: str, language: str) -> Sequence[str]:
    """Give the terms of one token as it is indexed, some of them more than once."""
    known = _word_terms if len(token) <= _LONGEST_TOKEN else _terms
    if token.isascii():
        return known(token, language)
    terms: list[str] = []
    for script, run in runs(token):
        terms += _gram_terms(run) if script is Script.SPACELESS else known(run, language)
    return terms


def _gram_terms(run: str) -> list[str]:
    """Give a run's characters and pairs. They are short, but for a character with a tower of marks on it."""
    found = list(chain(*grams(run)))
    return found if max(map(len, found)) <= _SURELY_SHORT else list(map(bounded, found))


def _terms(token: str, language: str) -> tuple[str, ...]:
    return tuple(term_of(text, language) if stem else bounded(text) for text, stem, _ in forms(token))


_word_terms = lru_cache(maxsize=_KNOWN_TOKENS)(_terms)


@cache
def _stemmer(language: str) -> Stemmer.Stemmer:
    return Stemmer.Stemmer(language, 0)  # without a cache of its own
