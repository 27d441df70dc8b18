"""What a query's text asks for: words, each with its terms in the languages there are, and quoted phrases."""

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from worker.steps.forms import TOKEN, Form, forms, is_spaceless, is_within_word, normal
from worker.steps.terms import NO_LANGUAGE, bounded, term_of

MOST_WORDS = 256  # distinct ones; an abstract pasted as a query has some 120
MOST_PHRASES = 16
_PAIR = 2

_QUOTED = re.compile('"([^"]+)"|\u201c([^\u201c\u201d]+)\u201d')


class Word(NamedTuple):
    """A word that is asked for. `weight`: how often, identifiers' parts less.

    `terms`: those it has in the languages there are. A chunk is in one of them: they count as one. With
    more than one, each counts only in `languages_of` it.
    """

    text: str
    terms: tuple[str, ...]
    weight: float


class Question(NamedTuple):
    """A query taken apart. `dropped`: the words and phrases beyond what is looked for."""

    words: tuple[Form, ...]
    phrases: tuple[str, ...]
    dropped: tuple[str, ...]


def parse(text: str) -> Question:
    """Take a query apart. Words of phrases are words, too; a quote without its other is no quote."""
    weights: dict[tuple[str, bool], float] = {}
    for form, stemmed, weight in _asked(text):
        weights[form, stemmed] = weights.get((form, stemmed), 0) + weight
    words = [Form(form, stemmed, weight) for (form, stemmed), weight in weights.items()]
    phrases = list(dict.fromkeys(filter(None, map(folded, _phrases(text)))))
    dropped = [*(word.text for word in words[MOST_WORDS:]), *phrases[MOST_PHRASES:]]
    return Question(tuple(words[:MOST_WORDS]), tuple(phrases[:MOST_PHRASES]), tuple(dropped))


def _asked(text: str) -> Iterator[Form]:
    return (form for token in TOKEN.findall(text) for form in forms(token) if form.weight)


def _phrases(text: str) -> Iterator[str]:
    return (straight or curly for straight, curly in _QUOTED.findall(text))


def query_terms(question: Question, languages: Iterable[str]) -> list[Word]:
    """Give the terms of each word, words with the same terms as one, in order."""
    tongues = sorted({NO_LANGUAGE} if not (given := set(languages)) else given)
    words: dict[tuple[str, ...], Word] = {}
    for text, stemmed, weight in question.words:
        terms = _terms(text, tongues) if stemmed else (bounded(text),)
        before = words.get(terms)
        words[terms] = (
            Word(before.text, terms, before.weight + weight) if before else Word(text, terms, weight)
        )
    return list(words.values())


def languages_of(word: Word, languages: Iterable[str]) -> dict[str, set[str]]:
    """Give in which of these languages a word has each of its terms: {term: languages}."""
    found: dict[str, set[str]] = {}
    for language in languages:
        found.setdefault(term_of(word.text, language), set()).add(language)
    return found


def phrase_words(phrase: str, languages: Iterable[str]) -> list[Word]:
    """Give the words of a phrase that each chunk with it has.

    What begins or ends it may be a part of something longer: of `worker.db.engine`, `v1.2.3`, `U.S.A.`, a
    Korean word with its ending. So what is left are pieces between separators, and pairs of characters.
    """
    asked = parse(phrase.replace(".", " "))
    return [word for word in query_terms(asked, languages) if _is_piece(word.text)]


def _is_piece(form: str) -> bool:
    if is_spaceless(form[0]):
        return len(form) <= _PAIR
    return len(form) > 1 and all(map(is_within_word, form))


def _terms(form: str, languages: Sequence[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(term_of(form, language) for language in languages))


def folded(text: str) -> str:
    """Give what compares equal of a text: no case, no compatibility forms, single blanks."""
    return " ".join(normal(text).casefold().split())


def contains_phrase(text: str, phrase: str) -> bool:
    """Tell whether a phrase of a question stands in a text, as whole words where words have spaces."""
    where = folded(text)
    at = where.find(phrase)
    while at >= 0:
        if not (_is_inside_word(where, at) or _is_inside_word(where, at + len(phrase))):
            return True
        at = where.find(phrase, at + 1)
    return False


def _is_inside_word(text: str, at: int) -> bool:
    if not 0 < at < len(text):
        return False
    before, behind = text[at - 1], text[at]
    joined = is_within_word(before) and is_within_word(behind)
    return joined and not (is_spaceless(before) or is_spaceless(behind))
