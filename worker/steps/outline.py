"""What a Markdown text consists of, where chunking needs to know it: headings, code blocks and tables.

Offsets are indexes into the Python string.
"""

import re
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain

TITLE = 200  # characters of a heading kept in a path

# CommonMark where chunking needs it, but fences at any indent: inside list items it is more than three.
_MARK = (
    r"(?P<line>[ \t]*(?P<item>(?:(?:[-*+]|\d{1,9}[.)])[ \t]+)*)(?P<fence>`{3,}|~{3,})(?P<info>[^\r\n]*)"
    r"| {0,3}(?P<level>#{1,6})(?:[ \t]+(?P<title>[^\r\n]*))?(?=[\r\n]|\Z)"
    r"| {0,3}(?P<underline>=+|-+)[ \t]*(?=[\r\n]|\Z)"
    r"| {0,3}(?P<row>\|?[ \t]*:?-+:?[ \t]*\|[-:| \t]*)(?=[\r\n]|\Z))"
)
FIRST_MARK = re.compile(_MARK)
# `re` looks for a character many times faster than for "^", and most lines begin with none of these.
MARK = re.compile(r"\n(?=[ \t]*[`~#=|:*+\d-])" + _MARK)
CLOSING_HASHES = re.compile(r"(?:^|[ \t])#+[ \t]*\Z")
FRONT_MATTER = re.compile(r"---[ \t]*\r?\n(?=[\w-]+:)(?:(?!---)[^\n]*\n)*+---[ \t]*(?:\r?\n|\Z)")
NOT_A_PARAGRAPH = re.compile(r"\s*(?:[>|#`~<]|[-*+] |\d+[.)] |$)")
WORD = re.compile(r"\S")
TABLE_END = re.compile(r"\n[ \t]*\r?(?:\n|\Z)")


@dataclass(frozen=True, slots=True)
class Heading:
    """A Markdown heading: where it begins, where the text under it does, its level 1 to 6, its text."""

    start: int
    body: int
    level: int
    title: str


@dataclass(frozen=True, slots=True)
class Outline:
    """Headings, blocks and what is not to be cut, each in order.

    `blocks`: [start, end) of the code blocks and tables that fit into a chunk. `whole`: these, and headings
    up to the first character under them.
    """

    headings: tuple[Heading, ...] = ()
    blocks: tuple[tuple[int, int], ...] = ()
    whole: tuple[tuple[int, int], ...] = ()

    def divides(self, at: int) -> bool:
        """Tell whether a cut would go through a block, or part a heading from its text."""
        before = bisect_left(self.whole, (at, 0)) - 1
        return before >= 0 and at < self.whole[before][1]


def outline_of(text: str, largest: int) -> Outline:
    """Find headings, and code blocks and tables of up to `largest` characters, in one pass.

    As in CommonMark an open fence reaches to the end.
    """
    front_matter = FRONT_MATTER.match(text)
    body = front_matter.end() if front_matter else 0
    headings: list[Heading] = []
    blocks: list[tuple[int, int]] = []
    opened: re.Match[str] | None = None
    blank = 0
    first = FIRST_MARK.match(text, body)
    for mark in chain([first] if first else [], MARK.finditer(text, body)):
        if opened:
            if _closes(opened, mark):
                blocks.append((opened.start("line"), _next_line(text, mark)))
                opened = None
        elif _opens(mark):
            opened = mark
            _end_table(blocks, mark.start("line"))
        elif heading := _heading(text, body, mark):
            headings.append(heading)
            _end_table(blocks, heading.start)
        elif mark["row"]:
            blank = blank if blank > mark.end() else _blank_line(text, mark.end())
            floor = max(body, blocks[-1][1] if blocks else 0, headings[-1].body if headings else 0)
            if (header := _line_above(text, floor, mark.start("line"))) is not None:
                blocks.append((header, blank))
    if opened:
        blocks.append((opened.start("line"), len(text)))
    fitting = {start: end for start, end in blocks if end - start <= largest}
    whole = sorted([*_glued(headings, fitting, largest), *fitting.items()])
    return Outline(tuple(headings), tuple(fitting.items()), tuple(whole))


def _glued(headings: Iterable[Heading], blocks: Mapping[int, int], largest: int) -> Iterator[tuple[int, int]]:
    """Glue each heading to its text, but none to a block that would no longer fit."""
    first, body = 0, -1
    for heading in headings:
        if heading.start != body:
            first = heading.start
        body = heading.body
        block = blocks.get(body)
        # what is under headings needs half the chunk, or the cut would be inside a heading
        if block - first <= largest if block else 2 * (body - first) <= largest:
            yield heading.start, body + 1
        else:
            body = -1


def heading_paths(outline: Outline, positions: Iterable[int]) -> list[tuple[str, ...]]:
    """Return the titles in force at each of the ascending positions, outermost first: at most six."""
    paths: list[tuple[str, ...]] = []
    stack, following = list[Heading](), 0
    for position in positions:
        while following < len(outline.headings) and outline.headings[following].start <= position:
            heading = outline.headings[following]
            stack = [*(outer for outer in stack if outer.level < heading.level), heading]
            following += 1
        paths.append(tuple(heading.title for heading in stack if heading.title))
    return paths


def _next_line(text: str, mark: re.Match[str]) -> int:
    return text.find("\n", mark.end()) + 1 or len(text)


def _heading(text: str, body: int, mark: re.Match[str]) -> Heading | None:
    if mark["level"]:
        return _headed(text, mark, mark.start("line"), len(mark["level"]), mark["title"] or "")
    if not mark["underline"]:
        return None
    start = mark.start("line")
    line = _line_above(text, body, start)
    if line is None or NOT_A_PARAGRAPH.match(title := text[line:start]):
        return None
    above = _line_above(text, body, line)
    if above is not None and text[above:line].strip():
        return None
    return _headed(text, mark, line, 1 if mark["underline"][0] == "=" else 2, title)


def _headed(text: str, mark: re.Match[str], start: int, level: int, title: str) -> Heading:
    word = WORD.search(text, mark.end())
    body = text.rfind("\n", mark.end(), word.start()) + 1 if word else len(text)
    return Heading(start, body, level, _title(title))


def _end_table(blocks: list[tuple[int, int]], at: int) -> None:
    """End the table that reaches beyond `at`, where something else begins."""
    if blocks and blocks[-1][1] > at:
        blocks[-1] = (blocks[-1][0], at)


def _opens(mark: re.Match[str]) -> bool:
    # "```a```" on one line is inline code.
    return bool(mark["fence"]) and not (mark["fence"][0] == "`" and "`" in mark["info"])


def _closes(opened: re.Match[str], mark: re.Match[str]) -> bool:
    bare = bool(mark["fence"]) and not mark["item"] and not mark["info"].strip()
    return bare and mark["fence"].startswith(opened["fence"])


def _blank_line(text: str, at: int) -> int:
    """Find where the next blank line begins: there a table ends (GitHub's extension)."""
    found = TABLE_END.search(text, at)
    return found.start() + 1 if found else len(text)


def _line_above(text: str, floor: int, at: int) -> int | None:
    """Give where the line before the one at `at` begins; None where that is before `floor`."""
    return (text.rfind("\n", floor, at - 1) + 1 or floor) if floor < at else None


def _title(raw: str) -> str:
    title = raw.strip()
    if title.endswith("#") and len(title) <= TITLE:
        title = CLOSING_HASHES.sub("", title).strip()
    return title[:TITLE].rstrip()
