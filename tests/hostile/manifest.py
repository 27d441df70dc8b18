"""What becomes of each hostile file: its state in the end, the reason, and what is counted as cleaned.

Sizes are those of full scale. `completed` includes a duplicate of one that is: twins have one owner, either.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tests.hostile import files
from tests.hostile.files import LAUGHS, MEBIBYTE, MOST_BYTES, PROSE, Make

SURROGATES = f"\ufeff{PROSE}\ud800 and \udc00{PROSE}\udbff".encode("utf-16-le", "surrogatepass")
CESU = PROSE.encode() + b"\xed\xa0\xbd\xed\xb8\x80"
PASSED_OVER = "passed over"
DEVICE = "/dev/zero"  # one of ALLOWED_ROOTS: else a worker would not come to open it


@dataclass(frozen=True, slots=True)
class Expected:
    """A terminal state, its reason, and what was cleaned; `passed over` is what no command submits."""

    status: str
    code: str | None = None
    cleaned: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Case:
    """A file: its name as bytes, what it is, how it is made, what is to become of it.

    `named`: what becomes of one that the command passes over, where a producer names it.
    """

    name: bytes
    what: str
    make: Make
    expected: Expected
    named: Expected | None = None

    def path(self, folder: Path) -> Path:
        """Say where it is, below a folder."""
        return Path(os.fsdecode(os.path.join(os.fsencode(folder), self.name)))  # noqa: PTH118 -- of bytes

    def put(self, folder: Path, scale: float) -> Path:
        """Make it below a folder; gives where it is."""
        path = self.path(folder)
        path.parent.mkdir(parents=True, exist_ok=True)
        self.make(path, scale)
        return path


def completed(**cleaned: int) -> Expected:
    return Expected("completed", None, cleaned)


def skipped(code: str) -> Expected:
    return Expected("skipped", code)


def failed(code: str) -> Expected:
    return Expected("failed", code)


def _text(name: str | bytes, what: str, content: str | bytes, expected: Expected) -> Case:
    written = content if isinstance(content, bytes) else content.encode()
    return Case(os.fsencode(name), what, files.whole(written), expected)


_NEARLY_ALL = MOST_BYTES * 15 // 16
_LONG = "n" * 251 + ".txt"

SIZES = [
    Case(b"line.txt", "a line of 100 MB", files.repeated(b"word ", 100_000_000), failed("too_large")),
    Case(b"words.txt", "a line of 60 MiB, of 100,000 words", files.numbered_words(_NEARLY_ALL), completed()),
    Case(b"token.txt", "a token of 2 MB", files.repeated(b"x", 2_000_000), completed()),
    Case(b"blank.txt", "a million blank lines", files.repeated(b"\n", 1_000_000), skipped("whitespace")),
    Case(b"blank-end.txt", "… and a word", files.repeated(b"\n", 1_000_000, b"word"), completed()),
    Case(b"sparse.txt", "3 GB, none on the disk", files.sparse(3 << 30, scaled=False), failed("too_large")),
    Case(b"nothing.txt", "32 MiB of NULs", files.sparse(MOST_BYTES // 2, scaled=True), skipped("binary")),
    Case(b"noise.bin", "1 MiB of noise", files.noise, skipped("binary")),
    Case(b"brackets.json", "a million levels", files.repeated(b"[", 1_000_000), completed()),
    Case(
        b"headings.md", "60 MiB of headings", files.repeated(b"#\n", _NEARLY_ALL), failed("too_much_memory")
    ),
    Case(b"marks.txt", "a letter, 1 MB of accents", files.repeated("\u0301".encode(), MEBIBYTE), completed()),
    Case(b"bomb.zip", "64 MiB of zeros, packed", files.zip_bomb, skipped("binary")),
    Case(b"bomb.txt.gz", "64 MiB of zeros, packed", files.gzip_bomb, skipped("binary")),
    _text("laughs.xml", "a billion laughs", f"<!DOCTYPE x [<!ENTITY l0 'ha'>{LAUGHS}]>&l9;", completed()),
]
KINDS = [
    Case(b"pipe", "a pipe", files.pipe, Expected(PASSED_OVER), failed("not_a_file")),
    Case(b"device", "a link to /dev/zero", files.link(DEVICE), Expected(PASSED_OVER), failed("not_a_file")),
    Case(b"around", "a link to its own folder", files.link("."), Expected(PASSED_OVER), failed("not_a_file")),
    Case(b"loop", "a link to itself", files.link("loop"), failed("unreadable")),
    Case(b"dangling", "a link to nothing", files.link("nowhere"), failed("not_found")),
    Case(b"away", "a link out of the allowed folders", files.link("../away.txt"), failed("outside_roots")),
    Case(b"secret.txt", "a file nobody may read", files.unreadable, failed("unreadable")),
]
NAMES = [
    _text(b"caf\xe9.txt", "a name that is not UTF-8", "coffee", completed()),
    _text("two\nlines.txt", "a name of two lines", "two lines", completed()),
    _text("\x1b[2Jbell\x07.txt", "a name that clears a terminal", "clear", completed()),
    _text("--prune", "a name that is an option", "an option", completed()),
    _text(_LONG, "a name of 255 bytes", "a long name", completed()),
    _text("/".join(["level"] * 60) + "/deep.txt", "60 levels down", "deep", completed()),
    _text("nf/caf\u00e9.txt", "a name in NFC …", "composed", completed()),
    _text("nf/cafe\u0301.txt", "… and in NFD", "decomposed", completed()),
]
BYTES = [
    _text("empty.txt", "no bytes", b"", skipped("empty")),
    _text("mark.txt", "a byte order mark", b"\xef\xbb\xbf", skipped("empty")),
    _text("nul.txt", "words with 7 NULs", PROSE.encode() + b"a\0b" * 7, completed(nul=7)),
    _text("surrogates.txt", "UTF-16, 3 lone surrogates", SURROGATES, completed(surrogate=3)),
    _text("cut.txt", "UTF-8 that ends in a letter", PROSE.encode() + "語".encode()[:2], completed(invalid=1)),
    _text("cesu.txt", "CESU-8", CESU, completed()),
    _text("twin-1.txt", "a content …", "the same words", completed()),
    _text("twin-2.txt", "… and again", "the same words", completed()),
]
CASES = [*SIZES, *KINDS, *NAMES, *BYTES]

# Of `$CORPORA/nasty`, all that does not simply complete.
NASTY: Mapping[str, Expected] = {
    **{f"derived/{name}": skipped("empty") for name in ("empty.md", "empty.pdf", "empty.txt")},
    "derived/bom-only.txt": skipped("empty"),
    "derived/bom16-only.txt": skipped("empty"),
    "derived/control-chars.txt": skipped("binary"),
    "derived/latin1-inside-utf8.txt": completed(invalid=17),
    "derived/nul-between.txt": completed(nul=2949),
    "derived/nul-one.txt": completed(nul=1),
    "derived/pdf-header-then-text.pdf": skipped("binary"),
    "derived/truncated.docx": skipped("binary"),
    "derived/whitespace-only.txt": skipped("whitespace"),
    "json/i_string_UTF-8_invalid_sequence.json": completed(invalid=1),
    "json/i_string_UTF8_surrogate_U+D800.json": completed(surrogate=1),
    "json/i_string_lone_utf8_continuation_byte.json": completed(invalid=1),
    "json/n_multidigit_number_then_00.json": completed(nul=1),
    "json/n_single_space.json": skipped("whitespace"),
    "json/n_string_backslash_00.json": completed(nul=1),
    "json/n_string_unescaped_ctrl_char.json": completed(nul=1),
    "json/n_structure_UTF8_BOM_no_data.json": skipped("empty"),
    "json/n_structure_no_data.json": skipped("empty"),
    "json/n_structure_null-byte-outside-string.json": skipped("binary"),
}
