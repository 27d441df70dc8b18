"""The part of a chunk's text that shows why it was found, and where the words of the query are in it."""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from itertools import islice
from typing import NamedTuple

from worker.steps.forms import RUN, TOKEN, grams, normal
from worker.steps.terms import bounded, token_terms

LONGEST = 240  # characters, of the text; a word that is longer is cut

_MOST_MATCHES = 2000  # looked at: a chunk a producer cut may be long
_EQUAL = 1e-9  # what adding weights and taking them away may leave
_BEFORE = 40  # characters shown before the first word, where there is room
_ELLIPSIS = "\u2026"
_WHITESPACE = re.compile(r"\s+")
_BLANK = re.compile(r"\s")


class Snippet(NamedTuple):
    """Some text in one line. `highlights`: (start, end) of the query's words in it, in order, apart."""

    text: str
    highlights: tuple[tuple[int, int], ...]


class _Match(NamedTuple):
    start: int
    end: int
    terms: AbstractSet[str]


def snippet(text: str, wanted: Mapping[str, float], language: str, longest: int = LONGEST) -> Snippet:
    """Give the part of a text that has most of the wanted terms, by weight, each once; the first of equals.

    Without any, it is the beginning.
    """
    found = _matches(text, wanted, language) if wanted else ()
    matches = _cut(islice(found, _MOST_MATCHES), longest)
    first, last = _best(matches, wanted, longest) if matches else (0, 0)
    shown = matches[first:last]
    start, end = _bounds(text, shown[0].start if shown else 0, shown[-1].end if shown else 0, longest)
    inside = [match for match in matches if start <= match.start and match.end <= end]
    return _in_one_line(text, start, end, _joined(inside))


def _matches(text: str, wanted: Mapping[str, float], language: str) -> Iterator[_Match]:
    for found in TOKEN.finditer(text):
        token, at = found.group(), found.start()
        if wanted.keys().isdisjoint(found_terms := token_terms(token, language)):
            continue
        terms = wanted.keys() & found_terms
        plain = normal(token)
        if plain.isascii() or len(plain) != len(token):
            yield _Match(at, at + len(token), terms)
        else:
            yield from _within(plain, at, terms, language)


def _within(token: str, at: int, terms: AbstractSet[str], language: str) -> Iterator[_Match]:
    """Find which characters of a token are meant: of scripts without spaces, it is a part of a sentence."""
    for run in RUN.finditer(token):
        start = at + run.start()
        if not (run.group(1) or run.group(2)):
            if own := terms & set(token_terms(run.group(), language)):
                yield _Match(start, start + len(run.group()), own)
            continue
        characters, pairs = grams(run.group())
        for n, character in enumerate(characters):
            gram = pairs[n] if n < len(pairs) and bounded(pairs[n]) in terms else character
            if bounded(gram) in terms:
                yield _Match(start, start + len(gram), {bounded(gram)})
            start += len(character)


def _cut(matches: Iterable[_Match], longest: int) -> list[_Match]:
    return [match._replace(end=min(match.end, match.start + longest)) for match in matches]


def _best(matches: Sequence[_Match], wanted: Mapping[str, float], longest: int) -> tuple[int, int]:
    """Give the slice of matches that fits and weighs most."""
    best, weight, first = (0.0, (0, 1)), 0.0, 0
    held: Counter[str] = Counter()
    for last, match in enumerate(matches):
        weight += sum(wanted[term] for term in match.terms if not held[term])
        held.update(match.terms)
        while match.end - matches[first].start > longest:
            held.subtract(matches[first].terms)
            weight -= sum(wanted[term] for term in matches[first].terms if not held[term])
            first += 1
        if weight > best[0] + _EQUAL:
            best = weight, (first, last + 1)
    return best[1]


def _bounds(text: str, first: int, last: int, longest: int) -> tuple[int, int]:
    """Widen [first, last) to `longest`, at words."""
    start = max(0, min(first - min(_BEFORE, longest - (last - first)), len(text) - longest))
    end = min(len(text), start + longest)
    if start > 0 and (blank := _BLANK.search(text, start - 1, first)):
        start = blank.end()
    if end < len(text) and not text[end].isspace():
        cut = max((found.start() for found in _BLANK.finditer(text, last, end)), default=end)
        end = cut
    return start, end


def _joined(matches: Sequence[_Match]) -> list[tuple[int, int]]:
    """Join what overlaps or touches, as pairs of characters do."""
    spans: list[tuple[int, int]] = []
    for start, end, _ in matches:
        if spans and start <= spans[-1][1]:
            spans[-1] = (spans[-1][0], max(end, spans[-1][1]))
        else:
            spans.append((start, end))
    return spans


def _in_one_line(text: str, start: int, end: int, spans: Sequence[tuple[int, int]]) -> Snippet:
    out = _ELLIPSIS if text[:start].strip() else ""
    highlights = []
    at = start + len(text[start:end]) - len(text[start:end].lstrip())
    for first, last in spans:
        out += _WHITESPACE.sub(" ", text[at:first])
        highlights.append((len(out), len(out) + last - first))
        out += text[first:last]
        at = last
    out += _WHITESPACE.sub(" ", text[at:end].rstrip()) + (_ELLIPSIS if text[end:].strip() else "")
    return Snippet(out, tuple(highlights))
