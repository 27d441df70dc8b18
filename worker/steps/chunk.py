"""Text to spans that cover it exactly: windows, then semantic splits, then headings and overlap.

    text → windows cut between blocks → semantic-text-splitter → fold whitespace → spans

Lengths are in characters, offsets are indexes into the Python string.
"""

import re
import unicodedata
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain
from pathlib import PurePosixPath

from semantic_text_splitter import MarkdownSplitter, TextSplitter

from worker.types import FileType, Span

VERSION = 1  # part of every fingerprint: raise it whenever boundaries, overlap or heading paths change

# The splitter is quadratic in its input, worst for emoji and blanks: 64 KB take 50 ms, four of 16 KB take 12.
WINDOW = 16 * 1024
LARGEST_WINDOW = 64 * 1024  # for large sizes, and so as not to cut a code block
TOKEN = 8 * 1024  # characters without whitespace that a window may hold
PROBE = TOKEN // 2
GRAPHEME = 64  # characters looked through for the beginning of one
TITLE = 200  # characters of a heading kept in a path
NEAR = 40  # characters in which the overlap looks for a word, or half the overlap

MARKDOWN = frozenset({".md", ".markdown", ".mdx", ".mdown", ".mkd", ".mkdn", ".qmd", ".rmd"})
# fmt: off
CODE = frozenset({
    ".asm", ".bash", ".bat", ".bzl", ".c", ".cc", ".cfg", ".clj", ".cljs", ".cmake", ".cmd", ".conf",
    ".cpp", ".cs", ".css", ".cu", ".cxx", ".dart", ".el", ".elm", ".erl", ".ex", ".exs", ".f90", ".fs",
    ".go", ".gradle", ".graphql", ".groovy", ".h", ".hcl", ".hh", ".hpp", ".hs", ".htm", ".html", ".hxx",
    ".ini", ".ipynb", ".java", ".jl", ".js", ".json", ".json5", ".jsonl", ".jsx", ".kt", ".kts", ".less",
    ".lisp", ".lua", ".m", ".mjs", ".ml", ".mm", ".nim", ".nix", ".php", ".pl", ".proto", ".ps1", ".py",
    ".pyi", ".pyx", ".r", ".rb", ".rs", ".sass", ".scala", ".scm", ".scss", ".sh", ".sol", ".sql",
    ".svelte", ".swift", ".tcl", ".tf", ".toml", ".ts", ".tsx", ".v", ".vb", ".vhd", ".vim", ".vue", ".xml",
    ".xsl", ".yaml", ".yml", ".zig", ".zsh",
})
# fmt: on
CODE_NAMES = frozenset({"dockerfile", "makefile", "rakefile", "gemfile", "jenkinsfile", "justfile"})

LONG_TOKEN = re.compile(rf"(?<!\S)\S{{{TOKEN + 1},}}")
BLANK_LINE = re.compile(r"(?:\r\n|\r|\n)[ \t]*(?:\r\n|\r|\n)(?:[ \t]*(?:\r\n|\r|\n))*")
DEFINITION = re.compile(r"(?:\r\n|[\r\n])(?=[^\s})\]])")  # a line that begins at the margin
LINE_END = re.compile(r"\r\n|[\r\n\u2028\u2029]")
WHITESPACE = re.compile(r"\s+")
WORD = re.compile(r"\S")
WORD_START = re.compile(r"(?<!\S)\S")

ZERO_WIDTH_JOINER = "\u200d"
# CommonMark where chunking needs it, but fences at any indent: inside list items it is more than three.
_MARK = (
    r"(?P<line>[ \t]*(?P<fence>`{3,}|~{3,})(?P<info>[^\r\n]*)"
    r"| {0,3}(?P<level>#{1,6})(?:[ \t]+(?P<title>[^\r\n]*))?(?=[\r\n]|\Z)"
    r"| {0,3}(?P<underline>=+|-+)[ \t]*(?=[\r\n]|\Z))"
)
FIRST_MARK = re.compile(_MARK)
MARK = re.compile("\n" + _MARK)  # `re` looks for a character many times faster than for "^"
CLOSING_HASHES = re.compile(r"(?:^|[ \t])#+[ \t]*\Z")
FRONT_MATTER = re.compile(r"---[ \t]*\r?\n(?=[\w-]+:)(?:(?!---)[^\n]*\n)*+---[ \t]*(?:\r?\n|\Z)")
NOT_A_PARAGRAPH = re.compile(r"\s*(?:[>|#`~<]|[-*+] |\d+[.)] |$)")


@dataclass(frozen=True, slots=True)
class Heading:
    """A Markdown heading: where its line begins, its level 1 to 6, its text."""

    start: int
    level: int
    title: str


@dataclass(frozen=True, slots=True)
class Outline:
    """What a Markdown text consists of: headings, and code blocks [start, end), both in order."""

    headings: tuple[Heading, ...] = ()
    fences: tuple[tuple[int, int], ...] = ()


def file_type_of(filename: str) -> FileType:
    """Tell by the extension, in any case, how a file's text is split; what is unknown is text."""
    path = PurePosixPath(filename.lower())
    if path.suffix in MARKDOWN:
        return FileType.MARKDOWN
    return FileType.CODE if path.suffix in CODE or path.name in CODE_NAMES else FileType.TEXT


def chunk(text: str, file_type: FileType, *, size: int, overlap: int) -> list[Span]:
    """Split a text into spans of at most `size` characters; linear in its length, deterministic.

    Spans are contiguous: the first starts at 0, each at its predecessor's end, the last ends at `len(text)`.
    `Span.text` is `text[start - n : end]` with n ≤ `overlap`, beginning at a word where one begins near.
    Whitespace never stands alone: it belongs to the span before it (at the beginning: after it), and a span
    that grows beyond `size` by it has its text stripped. A text of whitespace only has no spans.
    `heading_path` holds the Markdown headings in force at the first character that is not whitespace.

    Boundaries inside a window are those of semantic-text-splitter (`TextSplitter`, `MarkdownSplitter`), which
    prefers headings, blocks, lines, sentences, words and graphemes in this order.
    Raises `ValueError` unless 0 ≤ overlap < size.
    """
    if not 0 <= overlap < size:
        raise ValueError(f"overlap must be at least 0 and less than size, not {overlap} of {size}")
    if not text or text.isspace():
        return []
    outline = _outline_of(text) if file_type is FileType.MARKDOWN else Outline()
    bounds = _fold(text, _pieces(text, file_type, size, outline))
    paths = _heading_paths(outline, [next(WORD.finditer(text, *bound)).start() for bound in bounds])
    return [
        Span(_shown(text, start, end, size, overlap), start, end, path)
        for (start, end), path in zip(bounds, paths, strict=True)
    ]


@lru_cache(maxsize=16)
def _splitter(file_type: FileType, size: int) -> TextSplitter | MarkdownSplitter:
    # Not the splitter's own overlap: it repeats whole sections, and spans must stay contiguous.
    splitter = MarkdownSplitter if file_type is FileType.MARKDOWN else TextSplitter
    return splitter(size, trim=False)


def _pieces(text: str, file_type: FileType, size: int, outline: Outline) -> Iterator[tuple[int, int]]:
    """Yield contiguous [start, end). Where a window cuts a block, its last piece is split again."""
    splitter, start = _splitter(file_type, size), 0
    while start < len(text):
        end, between_blocks = _window_end(text, start, size, file_type, outline)
        window = text[start:end]
        offsets = [0] if window.isspace() else [offset for offset, _ in splitter.chunk_indices(window)]
        # Half a window of progress at least, or the whole would not be linear.
        if not between_blocks and offsets[-1] >= len(window) // 2 > 0:
            end = start + offsets.pop()
        begins = [start + offset for offset in offsets]
        yield from zip(begins, [*begins[1:], end], strict=True)
        start = end


def _window_end(text: str, start: int, size: int, file_type: FileType, outline: Outline) -> tuple[int, bool]:
    """Say where the window that begins at `start` ends, and whether that is a boundary between blocks."""
    room = min(max(WINDOW, 4 * size), LARGEST_WINDOW)
    limit, between_blocks = _outside_fence(min(start + room, len(text)), start, outline)
    token = _long_token(text[start:limit])
    if token is not None:
        return _whole_character(text, start, start + max(token, TOKEN)), False
    if between_blocks or limit == len(text):
        return limit, True
    cut = _block_boundary(text, start + room // 2, limit, file_type, outline)
    return (cut, True) if cut else (_line_or_word_end(text, start + room // 2, limit), False)


def _outside_fence(limit: int, start: int, outline: Outline) -> tuple[int, bool]:
    """Move `limit` out of a code block: behind it if the window may grow so far, else before it."""
    fence = _fence_at(limit, outline)
    if fence is None:
        return limit, False
    begin, end = fence
    if end - start <= LARGEST_WINDOW:
        return end, True
    return (begin, True) if begin > start else (limit, False)


def _long_token(window: str) -> int | None:
    """Find the offset of the first token over TOKEN. One so long leaves a whole probe without whitespace."""
    probes = (window[at : at + PROBE] for at in range(0, len(window), PROBE))
    if not any(probe.split(None, 1) == [probe] for probe in probes):
        return None
    found = LONG_TOKEN.search(window)
    return found.start() if found else None


def _block_boundary(text: str, floor: int, limit: int, file_type: FileType, outline: Outline) -> int | None:
    """Find the last good place for a cut in (floor, limit]."""
    if file_type is FileType.MARKDOWN:
        at = bisect_right(outline.headings, limit, key=lambda heading: heading.start) - 1
        if at >= 0 and outline.headings[at].start > floor:
            return outline.headings[at].start
    ends = [blank.end() for blank in BLANK_LINE.finditer(text, floor, limit) if blank.end() < limit]
    if file_type is FileType.CODE:
        definitions = [line.end() for line in DEFINITION.finditer(text, floor, limit)]
        ends = sorted(set(ends) & set(definitions)) or definitions or ends
    return next((end for end in reversed(ends) if not _fence_at(end, outline)), None)


def _fence_at(at: int, outline: Outline) -> tuple[int, int] | None:
    before = bisect_right(outline.fences, (at, 0)) - 1
    return outline.fences[before] if before >= 0 and at < outline.fences[before][1] else None


def _line_or_word_end(text: str, floor: int, limit: int) -> int:
    lines = [found.end() for found in LINE_END.finditer(text, floor, limit)]
    ends = lines or [found.end() for found in WHITESPACE.finditer(text, floor, limit)] or [limit]
    return _whole_character(text, floor, ends[-1])


def _whole_character(text: str, floor: int, at: int) -> int:
    """Move a cut back out of a grapheme, but not far: a hostile one is as long as the text."""
    nearest = max(floor + 1, at - GRAPHEME)
    return next((cut for cut in range(at, nearest, -1) if not _continues(text, cut)), at)


def _continues(text: str, at: int) -> bool:
    """Tell whether text[at] belongs to the character before it."""
    if not 0 < at < len(text):
        return False
    before, here = text[at - 1], text[at]
    joined = ZERO_WIDTH_JOINER in {before, here} or "\U0001f3fb" <= here <= "\U0001f3ff"
    return joined or (before == "\r" and here == "\n") or unicodedata.category(here) in {"Mn", "Me", "Mc"}


def _fold(text: str, pieces: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """Give pieces of whitespace to their neighbours."""
    bounds: list[tuple[int, int]] = []
    for start, end in pieces:
        if not text[start:end].isspace():
            bounds.append((start if bounds else 0, end))
        elif bounds:
            bounds[-1] = (bounds[-1][0], end)
    return bounds


def _shown(text: str, start: int, end: int, size: int, overlap: int) -> str:
    shown = text[_overlap_start(text, start, overlap) : end]
    return shown.strip() if end - start > size else shown


def _overlap_start(text: str, start: int, overlap: int) -> int:
    """Begin the overlap at the first word within reach; in scripts without spaces, at a whole character."""
    floor = max(0, start - overlap)
    if floor == start or text[floor:start].isspace():
        return start
    near = min(start, floor + max(overlap // 2, NEAR))
    if word := WORD_START.search(text, floor, near):
        return word.start()
    return next((cut for cut in range(floor, start) if not _continues(text, cut)), start)


def _outline_of(text: str) -> Outline:
    """Find headings and fences in one pass. As in CommonMark an open fence reaches to the end of the text."""
    front_matter = FRONT_MATTER.match(text)
    body = front_matter.end() if front_matter else 0
    headings: list[Heading] = []
    fences: list[tuple[int, int]] = []
    opened: re.Match[str] | None = None
    first = FIRST_MARK.match(text, body)
    for mark in chain([first] if first else [], MARK.finditer(text, body)):
        if opened:
            if _closes(opened, mark):
                fences.append((opened.start("line"), text.find("\n", mark.end()) + 1 or len(text)))
                opened = None
        elif mark["level"]:
            headings.append(Heading(mark.start("line"), len(mark["level"]), _title(mark["title"] or "")))
        elif _opens(mark):
            opened = mark
        elif heading := _underlined(text, body, mark):
            headings.append(heading)
    if opened:
        fences.append((opened.start("line"), len(text)))
    return Outline(tuple(headings), tuple(fences))


def _heading_paths(outline: Outline, positions: Iterable[int]) -> list[tuple[str, ...]]:
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


def _opens(mark: re.Match[str]) -> bool:
    # "```a```" on one line is inline code.
    return bool(mark["fence"]) and not (mark["fence"][0] == "`" and "`" in mark["info"])


def _closes(opened: re.Match[str], mark: re.Match[str]) -> bool:
    return bool(mark["fence"]) and mark["fence"].startswith(opened["fence"]) and not mark["info"].strip()


def _underlined(text: str, body: int, mark: re.Match[str]) -> Heading | None:
    if not mark["underline"]:
        return None
    start = mark.start("line")
    line = text.rfind("\n", body, max(start - 1, body)) + 1 or body
    above = text.rfind("\n", body, max(line - 1, body)) + 1 or body
    title = text[line:start]
    if NOT_A_PARAGRAPH.match(title) or (above < line and text[above:line].strip()):
        return None
    return Heading(line, 1 if mark["underline"][0] == "=" else 2, _title(title))


def _title(raw: str) -> str:
    title = raw.strip()
    if title.endswith("#") and len(title) <= TITLE:
        title = CLOSING_HASHES.sub("", title).strip()
    return title[:TITLE].rstrip()
