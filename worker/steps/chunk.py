"""Text to spans that cover it exactly, at boundaries that an edit elsewhere leaves alone.

    text → windows → atoms → join what fits, over the worst cuts first → fold whitespace → spans

Lengths are in characters, offsets are indexes into the Python string.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import PurePosixPath

from worker.steps.boundaries import Mark, atoms, continues, strengths
from worker.steps.outline import WORD, Outline, heading_paths, outline_of
from worker.types import FileType, Span

VERSION = 2  # part of every fingerprint: raise it whenever boundaries, overlap or heading paths change

WINDOW = 64 * 1024  # characters whose atoms are in memory together; more for large sizes
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

WORD_START = re.compile(r"(?<!\S)\S")


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

    Which of the possible cuts remain depends on the text around them (`boundaries.strengths`), not on where
    they are: an edit changes the spans it touches and now and then a neighbour. Two neighbours together are
    longer than `size`, but where two windows meet. Raises `ValueError` unless 0 ≤ overlap < size.
    """
    if not 0 <= overlap < size:
        raise ValueError(f"overlap must be at least 0 and less than size, not {overlap} of {size}")
    if not text or text.isspace():
        return []
    outline = outline_of(text, size) if file_type is FileType.MARKDOWN else Outline()
    bounds = _fold(text, _pieces(text, file_type, outline, size))
    paths = heading_paths(outline, [next(WORD.finditer(text, *bound)).start() for bound in bounds])
    return [
        Span(_shown(text, start, end, size, overlap), start, end, path)
        for (start, end), path in zip(bounds, paths, strict=True)
    ]


def _pieces(text: str, file_type: FileType, outline: Outline, size: int) -> Iterator[tuple[int, int]]:
    """Yield contiguous [start, end)."""
    start, room = 0, max(WINDOW, 16 * size)
    while start < len(text):
        end = min(start + room, len(text))
        marks = atoms(text, start, end, file_type, outline, size)
        if end < len(text):
            marks = _window(text, marks, start + room // 2, end - 2 * size) or marks[:-1] or marks
        for end in _joined(text, start, marks, size):
            yield start, end
            start = end


def _window(text: str, marks: Sequence[Mark], first: int, last: int) -> list[Mark]:
    """Keep the marks up to the best one in [first, last]: so windows, too, end where an edit leaves them."""
    reach = [mark for mark in marks if first <= mark[0] <= last]
    best = max(zip(strengths(text, reach), reach, strict=True), default=(0, (0, 0)))[1]
    return [mark for mark in marks if mark <= best]


def _joined(text: str, start: int, marks: Sequence[Mark], size: int) -> list[int]:
    """Join neighbours that fit into a chunk together, over the worst cut first; give the ends that remain."""
    ends = [at for at, _ in marks]
    starts = [start, *ends]
    cuts = sorted(range(len(marks) - 1), key=strengths(text, marks).__getitem__)
    first, last = list(range(len(marks))), list(range(len(marks)))  # atom of a piece, by its other end
    kept = [ends[-1]]
    for cut in cuts:
        left, right = first[cut], last[cut + 1]
        if ends[right] - starts[left] <= size:
            first[right], last[left] = left, right
        else:
            kept.append(ends[cut])
    return sorted(kept)


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
    return next((cut for cut in range(floor, start) if not continues(text, cut)), start)
