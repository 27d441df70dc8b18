"""A text's tokens, and the forms each is indexed and looked for under, before any language is known.

    parse_args     → parse_args, parse, args          std::vec::Vec → std::vec::vec, std, vec, vec
    HTTPServer2    → httpserver2, http, server2, server            ERR-4021      → err-4021, err, 4021
    well-known     → well, known                      U.S.          → us
    検索する       → 検, 索, す, る, 検索, 索す, する                  Vue3の        → vue3, vue, の

Time is linear in a token's length, whatever it holds.
"""

import re
import unicodedata
from collections.abc import Iterator
from enum import Enum, auto
from itertools import chain, pairwise
from operator import add
from typing import NamedTuple

PART = 0.5  # what a part of an identifier counts for in a query, beside the identifier itself

_BLOCKS = (
    (0x300, 0x2000), (0x20D0, 0x2100), (0x2CEF, 0x2E00), (0x302A, 0x3030), (0x3099, 0x309B),
    (0xA66F, 0xAC00), (0xFB1E, 0xFB1F), (0xFE20, 0xFE30), (0x101FD, 0x10400), (0x10A00, 0x12000),
    (0x16AF0, 0x17000), (0x1BC9D, 0x1BC9F), (0x1D165, 0x1D245), (0x1E000, 0x1E950),
)  # fmt: skip
_ALL_MARKS = "".join(
    character
    for character in map(chr, chain.from_iterable(range(*block) for block in _BLOCKS))
    if unicodedata.category(character) in {"Mn", "Mc"}
)
# Python's \w has no combining marks, without which words of Hindi, Tamil or Thai fall to pieces. Those beyond
# U+FFFF, of scripts few write, would make the pattern take twice as long.
MARKS = "".join(mark for mark in _ALL_MARKS if mark <= "\uffff")

# Of one token: worker.db.engine, std::vec::Vec, CVE-2026-3172, 3.14.1, well-known, don't, C++, C#.
# Possessive, so that nothing is tried twice; the blank is looked at first because it mostly is one.
TOKEN = re.compile(rf"\w++(?:(?= )|(?:[{MARKS}\xad.\u2019'-]\w++|[{MARKS}]|::\w++)*+(?:\+\+|#(?!\w))?)")

# Thai, Lao; Myanmar; Khmer; Tai; Kana, Bopomofo; Han
_SPACELESS = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u1950-\u19df\u1a20-\u1aaf\ua9e0-\ua9ff\uaa60-\uaa7f"
    "\u3005-\u3007\u3040-\u312f\u31a0-\u31bf\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
    "\U00020000-\U0003ffff"
)
_HANGUL = "\u1100-\u11ff\uac00-\ud7ff"
RUN = re.compile(rf"([{_SPACELESS}]++)|([{_HANGUL}]++)|([^{_SPACELESS}{_HANGUL}]++)")
_ALONE = re.compile(f"[{_SPACELESS}{_HANGUL}]")
_MARK = re.compile(f"[{MARKS}]")
_TOWER = re.compile(rf"([{_ALL_MARKS}\uff9e\uff9f]{{30}})[{_ALL_MARKS}\uff9e\uff9f]++")
_UNIT = re.compile(rf".[{MARKS}]*+", re.DOTALL)

_SEPARATOR = re.compile(r"[.'-]|::")
_HUMP = re.compile(r"(?<=a)(?=A)|(?<=[A0])(?=Aaa)")
_SHORTEST_STEM = 3  # letters before a number that are a word: python3, not E0308 or x86


class Script(Enum):
    """How words stand in a text. Hangul has spaces, but its words have endings."""

    SPACED = auto()
    SPACELESS = auto()
    HANGUL = auto()


class Form(NamedTuple):
    """A casefolded word, identifier or part of one. `weight`: in a query, 0 where it is only indexed."""

    text: str
    stemmed: bool
    weight: float


def is_spaceless(character: str) -> bool:
    """Tell characters that words of are not found by spaces alone: Hangul, too, whose words have endings."""
    return _ALONE.match(character) is not None


def is_within_word(character: str) -> bool:
    """Tell characters that words consist of."""
    return character.isalnum() or character == "_" or _MARK.match(character) is not None


def normal(text: str) -> str:
    """Give what compares equal: compatibility forms are unified, case is kept."""
    if text.isascii():
        return text
    # Marks are put in order one by one, so a tower of many would take the square of its height. 30 are
    # enough for any language (Unicode's UAX 15, "Stream-Safe Text Format").
    low = _TOWER.sub(r"\1", text.replace("\u2019", "'").replace("\xad", "").replace("\u0130", "i"))
    return unicodedata.normalize("NFKC", low)


def runs(token: str) -> Iterator[tuple[Script, str]]:
    """Cut a token where scripts with spaces and without meet."""
    if token.isascii():
        yield Script.SPACED, token
        return
    for part in TOKEN.findall(normal(token)):
        for spaceless, hangul, spaced in RUN.findall(part):
            if not spaced:
                yield (Script.SPACELESS, spaceless) if spaceless else (Script.HANGUL, hangul)
            for word in TOKEN.findall(spaced):
                yield Script.SPACED, word


def forms(token: str) -> Iterator[Form]:
    """Yield the forms of a token, some of them more than once."""
    for script, run in runs(token):
        if script is Script.SPACED:
            yield from _word_forms(run)
        else:
            yield from _run_forms(run, whole=script is Script.HANGUL)


def grams(run: str) -> tuple[list[str], list[str]]:
    """Give the characters of a run, with their marks, and the pairs of neighbours."""
    characters = _UNIT.findall(run) if _MARK.search(run) else list(run)
    return characters, list(map(add, characters, characters[1:]))


def _run_forms(run: str, *, whole: bool) -> Iterator[Form]:
    """Yield the forms of a run: of Hangul it is a word with its endings, of other scripts several words."""
    characters, pairs = grams(run)
    if whole and len(pairs) > 1:
        yield Form(run, stemmed=False, weight=1)
    yield from (Form(pair, stemmed=False, weight=1) for pair in pairs)
    yield from (Form(character, stemmed=False, weight=0 if pairs else 1) for character in characters)


def _word_forms(token: str) -> Iterator[Form]:
    token = token.removesuffix("'s").removesuffix("'S")
    bare = token.rstrip("+#")
    pieces = [piece for piece in _SEPARATOR.split(bare) if any(map(str.isalnum, piece))]
    if "." in token and len(pieces) > 1 and all(len(piece) == 1 and piece.isalpha() for piece in pieces):
        yield Form("".join(pieces).casefold(), stemmed=True, weight=1)  # U.S., e.g.
        return
    whole = pieces and (bare != token or (len(pieces) > 1 and _is_identifier(token)))
    if whole:
        yield Form(token.casefold(), stemmed=False, weight=1)
    for piece in pieces:
        yield from _piece_forms(piece, PART if whole else 1)


def _is_identifier(token: str) -> bool:
    """Tell code and numbers from words with a hyphen or an apostrophe."""
    return "." in token or "::" in token or ("-" in token and any(map(str.isdigit, token)))


def _piece_forms(piece: str, weight: float) -> Iterator[Form]:
    """Yield a piece and its parts. One without `_` is stemmed, as it would be if typed in small letters."""
    if "_" in piece:
        yield Form(piece.casefold(), stemmed=False, weight=weight)
        weight = PART
    for word in filter(None, piece.split("_")):
        yield from _cased_forms(word, weight)


def _cased_forms(word: str, weight: float) -> Iterator[Form]:
    yield from _numbered_forms(word.casefold(), weight)
    humps = [] if word.islower() or word.isupper() else _humps(word)
    if len(humps) > 1:
        for hump in humps:
            if len(hump) > 1:
                yield from _numbered_forms(hump.casefold(), PART)


def _numbered_forms(word: str, weight: float) -> Iterator[Form]:
    yield Form(word, stemmed=True, weight=weight)
    letters = word.rstrip("0123456789")
    if letters != word and len(letters) >= _SHORTEST_STEM and letters.isalpha():
        yield Form(letters, stemmed=True, weight=PART)


def _humps(word: str) -> list[str]:
    """Cut camelCase and HTTPServer before each word; the plural URLs is one."""
    shape = "".join("A" if c.isupper() else "0" if c.isdigit() else "a" for c in word)
    cuts = [0, *(found.start() for found in _HUMP.finditer(shape)), len(word)]
    return [word[start:end] for start, end in pairwise(cuts)]
