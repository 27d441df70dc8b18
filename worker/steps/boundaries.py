"""Where a text may be cut, and how well: the atoms that chunks are made of.

An atom is a paragraph, with the headings above it; a whole code block or table where it fits; a line, a
sentence, some words or some characters where what holds it does not fit. Whitespace belongs to the atom
before it. Offsets are indexes into the Python string.
"""

import re
import unicodedata
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from enum import IntEnum
from operator import attrgetter, itemgetter
from typing import Any
from zlib import crc32

from worker.steps.outline import Outline
from worker.types import FileType

# (where an atom ends, how good a cut is there)
Mark = tuple[int, int]

KEY = 24  # characters behind a cut that tell it from others
NEAR = 4  # characters on both sides that tell a cut inside a word from others
GRAPHEME = 64  # characters looked through for the beginning of one

LINE_END = re.compile(r"[\n\u2028\u2029]|\r(?!\n)")
BLANK_LINES = re.compile(r"\n(?:[^\S\n]*\n)+")
# "Words." and, in Chinese and Japanese, their full stops and closing brackets, which no space follows.
SENTENCE_END = re.compile(
    r"[.!?\u2026][\"')\]\u201d\u2019]*\s+|[\u3002\uff01\uff1f\uff0e][\u300d\u300f\uff09\u201d]*\s*"
)
WHITESPACE = re.compile(r"\s+")
INDENTED_OR_CLOSING = frozenset(" \t})]")

ZERO_WIDTH_JOINER = "\u200d"


class Cut(IntEnum):
    """How good a place for a cut is, worst first. A heading of level n counts as TITLE + 6 - n."""

    CHARACTER = 0
    WORD = 1
    SENTENCE = 2
    LINE = 3
    PARAGRAPH = 4
    DEFINITION = 5
    TITLE = 6


def strengths(text: str, marks: Iterable[Mark]) -> list[int]:
    """Order cuts: better ones first by kind, then by the text behind them, not by where they are.

    So an edit elsewhere leaves their order alone, as in content-defined chunking (LBFS, SOSP 2001).
    """
    return [cut << 32 | crc32(text[at : at + KEY].encode()) for at, cut in marks]


def atoms(text: str, start: int, end: int, file_type: FileType, outline: Outline, size: int) -> list[Mark]:
    """Cut text[start:end] into atoms of at most `size` characters, whitespace around them not counted.

    The last mark is at `end`.
    """
    marks: list[Mark] = []
    for mark in _paragraphs(text, start, end, file_type, outline):
        if mark[0] - start <= size:
            marks.append(mark)
        else:
            marks += _refined(text, start, mark, size, outline)
        start = mark[0]
    return marks


def _paragraphs(text: str, start: int, end: int, file_type: FileType, outline: Outline) -> list[Mark]:
    ends = [at for blank in BLANK_LINES.finditer(text, start, end) if (at := blank.end()) < end]
    last = (end, int(Cut.TITLE))
    if file_type is FileType.CODE:
        kinds = {True: int(Cut.PARAGRAPH), False: int(Cut.DEFINITION)}
        return [*((at, kinds[text[at] in INDENTED_OR_CLOSING]) for at in ends), last]
    found = dict.fromkeys(ends, int(Cut.PARAGRAPH))
    if outline.whole:
        found |= _of_markdown(start, end, outline)
        return [*((at, found[at]) for at in sorted(found) if not outline.divides(at)), last]
    return [*found.items(), last]


def _of_markdown(start: int, end: int, outline: Outline) -> dict[int, int]:
    blocks = outline.blocks[_between(outline.blocks, itemgetter(0), start, end)]
    titles = outline.headings[_between(outline.headings, attrgetter("start"), start, end)]
    edges = {at: int(Cut.LINE) for block in blocks for at in block if start < at < end}
    return edges | {title.start: Cut.TITLE + 6 - title.level for title in titles if start < title.start}


def _between(items: Sequence[Any], key: Callable[[Any], int], start: int, end: int) -> slice:
    """Give the items, in order by `key`, that begin in (start, end), and the one before."""
    first = bisect_right(items, start, key=key) - 1
    return slice(max(first, 0), bisect_left(items, end, key=key))


def _refined(text: str, start: int, mark: Mark, size: int, outline: Outline) -> Iterator[Mark]:
    """Cut an atom that is too large into lines, these into sentences, these into words or characters."""
    for begin, line in _parts(text, start, mark, size, outline, LINE_END):
        if line[0] - begin <= size:
            yield line
            continue
        for first, sentence in _parts(text, begin, line, size, outline, SENTENCE_END):
            yield from _words(text, first, sentence, size, outline)


def _parts(
    text: str, start: int, mark: Mark, size: int, outline: Outline, ends: re.Pattern[str]
) -> Iterator[tuple[int, Mark]]:
    """Yield (where it begins, its mark) of the parts of an atom: itself where it fits."""
    end = mark[0]
    if end - start > size and len(text[start:end].strip()) > size:
        cut = Cut.LINE if ends is LINE_END else Cut.SENTENCE
        for found in ends.finditer(text, start, end):
            at = found.end()
            if at < end and not outline.divides(at):
                yield start, (at, cut)
                start = at
    yield start, mark


def _words(text: str, start: int, mark: Mark, size: int, outline: Outline) -> Iterator[Mark]:
    """Cut what has no better place, at the word or character in reach whose surroundings hash highest."""
    stop = start + len(text[start : mark[0]].rstrip())
    while stop - start > size:
        found = _word(text, start + (size + 1) // 2, start + size, outline) or _character(text, start, size)
        yield found
        start = found[0]
    yield mark


def _word(text: str, first: int, last: int, outline: Outline) -> Mark | None:
    # up to the character behind `last`: whitespace that goes on there belongs to no word's end in reach
    ends = [end for space in WHITESPACE.finditer(text, first, last + 1) if (end := space.end()) <= last]
    marks = [(end, int(Cut.WORD)) for end in ends if not outline.divides(end)]
    marks = marks or [(end, int(Cut.WORD)) for end in ends]
    order = strengths(text, marks)
    return marks[order.index(max(order))] if marks else None


def _character(text: str, start: int, size: int) -> Mark:
    reach = range(start + (size + 1) // 2, start + size + 1)
    best = max(reach, key=lambda at: crc32(text[at - NEAR : at + NEAR].encode()))
    return whole_character(text, start, best), Cut.CHARACTER


def whole_character(text: str, floor: int, at: int) -> int:
    """Move a cut back out of a grapheme, but not far: a hostile one is as long as the text."""
    nearest = max(floor + 1, at - GRAPHEME)
    return next((cut for cut in range(at, nearest, -1) if not continues(text, cut)), at)


def continues(text: str, at: int) -> bool:
    """Tell whether text[at] belongs to the character before it."""
    if not 0 < at < len(text):
        return False
    before, here = text[at - 1], text[at]
    joined = ZERO_WIDTH_JOINER in {before, here} or "\U0001f3fb" <= here <= "\U0001f3ff"
    return joined or (before == "\r" and here == "\n") or unicodedata.category(here) in {"Mn", "Me", "Mc"}
