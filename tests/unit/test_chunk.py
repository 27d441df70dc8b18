import itertools
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from worker.steps.chunk import VERSION, WINDOW, chunk, file_type_of
from worker.types import FileType, Span

SPLIT = (FileType.TEXT, FileType.MARKDOWN, FileType.CODE)
PIECES = (
    *(
        "word",
        "two words",
        " ",
        "\n",
        "\n\n",
        "\r\n",
        "\r\n\r\n",
        "\t",
        "\u2028",
        "\x1c",
        "# Title\n",
        "## Under\n",
    ),
    *(
        "Setext\n===\n",
        "```\n",
        "~~~~\n",
        "- item\n",
        "日本語の文章。",
        "👩‍👩‍👧",
        "e\u0301",
        "สวัสดี",
        "def f():\n    pass\n",
    ),
    *("x" * 300, " " * 300, "\n" * 300, "}", "---\n", "\u200d", "\ufeff"),
)
texts = st.lists(st.one_of(st.sampled_from(PIECES), st.text(max_size=20)), max_size=60).map("".join)


def assert_covers(text: str, spans: list[Span], size: int, overlap: int) -> None:
    assert [span.start for span in spans] == [0, *(span.end for span in spans[:-1])]
    assert spans[-1].end == len(text)
    for span in spans:
        own = text[span.start : span.end]
        assert own.strip()
        assert len(own) <= size or len(own.strip()) <= size
        assert_shows(text, span, size, overlap)


def assert_shows(text: str, span: Span, size: int, overlap: int) -> None:
    own = text[span.start : span.end]
    if len(own) > size:
        assert span.text == span.text.strip()
        assert span.text.endswith(own.strip())
    else:
        used = len(span.text) - len(own)
        assert 0 <= used <= min(overlap, span.start)
        assert span.text == text[span.start - used : span.end]


@settings(max_examples=300, deadline=None)
@given(texts, st.sampled_from(SPLIT), st.integers(1, 80), st.data())
def test_spans_cover_any_text(text: str, file_type: FileType, size: int, data: st.DataObject) -> None:
    overlap = data.draw(st.integers(0, size - 1))
    spans = chunk(text, file_type, size=size, overlap=overlap)
    assert bool(spans) == bool(text.strip())
    if spans:
        assert_covers(text, spans, size, overlap)
    assert spans == chunk(text, file_type, size=size, overlap=overlap)


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from(PIECES), st.integers(1, 4000)), min_size=1, max_size=12),
    st.sampled_from(SPLIT),
)
def test_spans_cover_texts_of_many_windows(runs: list[tuple[str, int]], file_type: FileType) -> None:
    text = "".join(piece * min(times, 60_000 // len(piece)) for piece, times in runs)
    spans = chunk(text, file_type, size=1000, overlap=100)
    assert bool(spans) == bool(text.strip())
    if spans:
        assert_covers(text, spans, 1000, 100)


@pytest.mark.parametrize("file_type", SPLIT)
@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("a" * 2_000_000, 2016),
        ("x" + "\n" * 1_000_000 + "y", 2),
        ("a|b\n-|-\n# h\n" * 100_000, 1209),
        ("x" + " " * 1_000_000 + "y", 2),
        ("\r\n" * 100_000 + "x", 1),
    ],
)
def test_runs_without_structure(text: str, count: int, file_type: FileType) -> None:
    spans = chunk(text, file_type, size=1000, overlap=0)
    assert_covers(text, spans, 1000, 0)
    assert len(spans) == count


def test_whitespace_longer_than_a_chunk_is_covered_but_not_shown() -> None:
    text = " " * 500 + "first" + "\n" * 500 + "second"
    first, second = chunk(text, FileType.TEXT, size=100, overlap=10)
    assert (first.text, second.text) == ("first", "second")


@pytest.mark.parametrize("text", ["", " ", "\r\n\t\u2028\u3000" * 1000])
def test_whitespace_has_no_spans(text: str) -> None:
    assert chunk(text, FileType.MARKDOWN, size=10, overlap=0) == []


@pytest.mark.parametrize(("size", "overlap"), [(0, 0), (10, 10), (10, -1)])
def test_senseless_lengths_are_refused(size: int, overlap: int) -> None:
    with pytest.raises(ValueError, match="overlap"):
        chunk("text", FileType.TEXT, size=size, overlap=overlap)


def test_overlap_begins_at_a_word() -> None:
    text = " ".join(f"word{number}" for number in range(5000))
    spans = chunk(text, FileType.TEXT, size=200, overlap=50)
    assert all(span.text.lstrip().startswith("word") for span in spans)
    assert all(len(span.text) > span.end - span.start for span in spans[1:])


def test_overlap_does_not_split_a_character() -> None:
    text = "e\u0301" * 3000
    spans = chunk(text, FileType.TEXT, size=100, overlap=25)
    assert {span.text[0] for span in spans} == {"e"}
    assert {len(span.text) - (span.end - span.start) for span in spans[1:]} == {24}


def test_a_text_in_windows_is_split_like_a_text_at_once() -> None:
    sentences = [f"Sentence {number} of a long paragraph, as they are. " for number in range(4000)]
    spans = chunk("".join(sentences), FileType.TEXT, size=1000, overlap=0)
    assert all(span.text.startswith("Sentence") for span in spans)
    short = sum(after.end - before.start <= 1000 for before, after in itertools.pairwise(spans))
    assert short <= len("".join(sentences)) // (WINDOW // 2)


def path_at(text: str, needle: str, size: int = 70) -> tuple[str, ...]:
    at = text.index(needle)
    spans = chunk(text, FileType.MARKDOWN, size=size, overlap=0)
    return next(span.heading_path for span in spans if span.start <= at < span.end)


GUIDE = """---
title: Not a heading
---
Preface, before there is a heading at all in this text.

# Guide ##

Words of the guide, enough of them to fill a chunk alone.

## Install

```sh
# not a heading, but a comment in a shell script here
```

Words under install, enough of them to fill a chunk.

~~~
```
# neither is this, in tildes that hold backticks inside
~~~

#### Deep

Words under deep, enough of them to fill a chunk alone.

Setext title
------------

Words under setext, enough of them to fill a whole chunk.

#hashtag, which is no heading as it lacks the space in it
"""


@pytest.mark.parametrize(
    ("needle", "path"),
    [
        ("Preface", ()),
        ("# Guide", ("Guide",)),
        ("Words of", ("Guide",)),
        ("# not a heading", ("Guide", "Install")),
        ("Words under install", ("Guide", "Install")),
        ("# neither", ("Guide", "Install")),
        ("Words under deep", ("Guide", "Install", "Deep")),
        ("Words under setext", ("Guide", "Setext title")),
        ("#hashtag", ("Guide", "Setext title")),
    ],
)
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_heading_paths(needle: str, path: tuple[str, ...], newline: str) -> None:
    assert path_at(GUIDE.replace("\n", newline), needle) == path


def test_a_thematic_break_at_the_top_is_not_front_matter() -> None:
    assert path_at("---\n\n# Title\n\nwords\n\n---\n", "words", size=12) == ("Title",)


def test_paths_are_bounded() -> None:
    text = "".join(f"{'#' * level} {'t' * 1000}\n" for level in range(1, 7)) + "words"
    assert path_at(text, "words", size=1000) == ("t" * 200,) * 6


def test_only_markdown_has_headings() -> None:
    assert [span.heading_path for span in chunk("# a comment", FileType.CODE, size=100, overlap=0)] == [()]


BLOCK = "```\n" + "\n".join(f"line {number}\n\n# of code" for number in range(20)) + "\n```\n"
TABLE = "| name | size |\n|---|---:|\n" + "".join(f"| row {number} | {number} |\n" for number in range(20))
BARE_TABLE = "name | size\n-- | --\n" + "".join(f"row {number} | {number}\n" for number in range(20))


@pytest.mark.parametrize("block", [BLOCK, TABLE, BARE_TABLE, BLOCK.replace("\n", "\r\n")])
@pytest.mark.parametrize(
    "before", ["", "Prose before the block.\n\n", "## Title\n\n", "Prose, then at once:\n"]
)
def test_blocks_that_fit_are_not_cut(block: str, before: str) -> None:
    filler = "Words in between, enough of them to make the block move about.\n\n"
    text = "".join(filler * (n % 7) + before + block + "\n" for n in range(300))
    assert len(text) > 1.5 * WINDOW
    for size in (len(block), len(block) + 40, 3 * len(block)):
        spans = chunk(text, FileType.MARKDOWN, size=size, overlap=0)
        assert_covers(text, spans, size, 0)
        assert sum(span.text.count(block.strip()) for span in spans) == 300


def test_a_table_ends_where_a_fence_or_a_heading_begins() -> None:
    text = (
        "a | b\n- | -\nc | d\n```\n" + "x\n\n" * 200 + "```\n\na | b\n- | -\nc | d\n# Next\n" + "word " * 30
    )
    spans = chunk(text, FileType.MARKDOWN, size=60, overlap=0)
    assert_covers(text, spans, 60, 0)
    assert sum(span.text.count("a | b\n- | -\nc | d\n") for span in spans) == 2
    assert spans[-1].heading_path == ("Next",)


@pytest.mark.parametrize("between", ["\n", "\n\n", "\n\n\n", "\n---\n\n"])
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_headings_stay_with_their_text(between: str, newline: str) -> None:
    mark = "" if "---" in between else "## "
    text = "".join(
        f"{mark}Section {number}{between}First words of {number}, "
        + "and a few more. " * (number % 23)
        + "\n\n"
        for number in range(500)
    ).replace("\n", newline)
    spans = chunk(text, FileType.MARKDOWN, size=200, overlap=0)
    assert_covers(text, spans, 200, 0)
    for number in range(500):
        (holder,) = (span for span in spans if f"Section {number}{newline}" in span.text)
        assert f"First words of {number}," in holder.text


def test_empty_sections_are_cut_between_headings() -> None:
    text = "".join(f"## Heading {number}\n" for number in range(60)) + "\nThe text under the last one.\n"
    spans = chunk(text, FileType.MARKDOWN, size=100, overlap=0)
    assert_covers(text, spans, 100, 0)
    assert all(span.text.startswith("## Heading ") for span in spans)
    assert "## Heading 59\n\nThe text" in spans[-1].text


def test_a_long_heading_keeps_more_than_a_word_of_its_text() -> None:
    text = "# Title\n\n" + "word " * 30
    first = chunk(text, FileType.MARKDOWN, size=18, overlap=0)[0]
    assert first.text.startswith("# Title\n\nword")


def test_a_fence_that_opens_in_a_list_item_closes() -> None:
    for item in ("1. ", "- ", "* - "):
        text = f"{item}```sh\n   # run\n   ```\n\n# After\n\n{'word ' * 40}\n"
        assert chunk(text, FileType.MARKDOWN, size=100, overlap=0)[-1].heading_path == ("After",)


def test_a_row_below_a_fence_is_no_table() -> None:
    fence, rows = "```\naaaaaaa bbb\n```\n", "|-|\n| c cccc |\n| d dddd |\n"
    texts = [span.text for span in chunk(fence + rows, FileType.MARKDOWN, size=32, overlap=0)]
    assert texts == [fence, rows]


def test_a_heading_larger_than_a_chunk_is_cut() -> None:
    text = "".join(f"{'#' * level} {'title ' * 40}\n" for level in range(1, 7)) + BLOCK
    spans = chunk(text, FileType.MARKDOWN, size=len(BLOCK), overlap=0)
    assert_covers(text, spans, len(BLOCK), 0)
    assert spans[-1].text == BLOCK


def test_code_is_cut_before_definitions() -> None:
    body = "".join(f"    step_{number}()\n\n" for number in range(20))
    text = "".join(f"def function_{number}():\n{body}\n" for number in range(2000))
    spans = chunk(text, FileType.CODE, size=1000, overlap=0)
    assert_covers(text, spans, 1000, 0)
    assert all(span.text.startswith("def ") for span in spans)


WORDS = ["ships", "leave", "the", "harbour", "at", "night", "while", "keepers", "count", "them", "slowly"]


def prose(paragraphs: int, seed: int, *, spaces: bool = True, lines: bool = False) -> list[str]:
    """Make paragraphs, each another one; without spaces they are words of a script that has none."""
    rng = random.Random(seed)
    space, stop = (" ", ". ") if spaces else ("", "。")
    end = "\n" if lines else "\n\n"
    return [
        stop.join(space.join(rng.choices(WORDS, k=rng.randint(4, 12))) for _ in range(rng.randint(1, 7)))
        + end
        for _ in range(paragraphs)
    ]


@pytest.mark.parametrize("shape", [{}, {"spaces": False}, {"lines": True}])
@pytest.mark.parametrize("file_type", SPLIT)
def test_an_edit_changes_the_chunks_around_it(shape: dict[str, bool], file_type: FileType) -> None:
    """200 edits in a text of many windows, at its top as at its end: so many chunks are new."""
    before = prose(1500, 1, **shape)
    text = "".join(before)
    assert len(text) > 3 * WINDOW
    known = {span.text for span in chunk(text, file_type, size=1000, overlap=0)}
    new = []
    for n, (other,) in enumerate(zip(prose(200, 2, **shape), strict=True)):
        at = 7 * n
        after = [*before[:at], *([[other], [other, before[at]], []][n % 3]), *before[at + 1 :]]
        spans = chunk("".join(after), file_type, size=1000, overlap=0)
        new.append(sum(span.text not in known for span in spans))
    assert sorted(new)[100] <= 2
    assert sorted(new)[190] <= 4


@pytest.mark.parametrize("file_type", SPLIT)
def test_an_edit_of_one_long_line_changes_the_chunks_around_it(file_type: FileType) -> None:
    letters = "".join(random.Random(3).choices("abcdefghij", k=400_000))
    known = {span.text for span in chunk(letters, file_type, size=1000, overlap=0)}
    edited = chunk(f"{letters[:1000]}Q{letters[1000:]}", file_type, size=1000, overlap=0)
    assert sum(span.text not in known for span in edited) <= 12


@pytest.mark.parametrize(
    ("filename", "file_type"),
    [
        ("README.md", FileType.MARKDOWN),
        ("docs/Guide.MARKDOWN", FileType.MARKDOWN),
        ("page.mdx", FileType.MARKDOWN),
        ("main.py", FileType.CODE),
        ("a.b/config.YAML", FileType.CODE),
        ("Dockerfile", FileType.CODE),
        ("notes.txt", FileType.TEXT),
        ("manual.rst", FileType.TEXT),
        ("md", FileType.TEXT),
        ("", FileType.TEXT),
    ],
)
def test_file_type_of(filename: str, file_type: FileType) -> None:
    assert file_type_of(filename) is file_type


def test_version_is_what_the_boundaries_are() -> None:
    text = "# One\n\nFirst words.\n\n## Two\n\nSecond words, a little longer.\n"
    bounds = [(span.start, span.end) for span in chunk(text, FileType.MARKDOWN, size=40, overlap=0)]
    assert (VERSION, bounds) == (2, [(0, 21), (21, 60)])
    words = "".join(f"{number} words. " for number in range(40))
    bounds = [(span.start, span.end) for span in chunk(words, FileType.TEXT, size=100, overlap=0)]
    assert bounds == [(0, 100), (100, 190), (190, 250), (250, 310), (310, 390)]
