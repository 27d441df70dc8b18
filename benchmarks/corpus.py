"""Real text to measure with: `$CORPORA` where set, else the standard library's own sources."""

import os
import sysconfig
from collections.abc import Iterator
from functools import cache
from itertools import count, cycle
from pathlib import Path

from worker.errors import SkipDocument
from worker.steps import prepare
from worker.steps.chunk import file_type_of
from worker.types import Limits

PREFERRED = "rust-rfcs"
SUFFIXES = {".md", ".py"}
MOST_BYTES = 10e6
UNLIMITED = Limits(characters=1 << 30, chunks=10_000_000, chunk_characters=1 << 30)


def name() -> str:
    """Name the corpus, without saying where it lies."""
    return PREFERRED if collection() else "the standard library's sources"


def files(most_bytes: float = MOST_BYTES) -> list[Path]:
    """Give the corpus' text files in a fixed order, up to so many bytes (one at least)."""
    chosen: list[Path] = []
    size = 0
    for path in _all_files():
        size += path.stat().st_size
        if chosen and size > most_bytes:
            break
        chosen.append(path)
    return chosen


@cache
def _all_files() -> list[Path]:
    folder = collection() or Path(sysconfig.get_path("stdlib"))
    found = (path for path in folder.rglob("*") if path.suffix in SUFFIXES and path.is_file())
    # tests and installed packages are not the library's own sources
    return sorted(path for path in found if not {"site-packages", "test", "tests"} & set(path.parts))


def collection(name: str = PREFERRED) -> Path | None:
    """Find a folder of `$CORPORA`; None where it is not there."""
    folder = Path(os.environ.get("CORPORA") or "/nonexistent") / name
    return folder if folder.is_dir() else None


def pieces(paths: list[Path], *, size: int, overlap: int) -> list[list[prepare.Piece]]:
    """Cut files as the pipeline does: a list a document, those without text and twins left out."""
    cut: dict[bytes, list[prepare.Piece]] = {}
    for path in paths:
        kind = file_type_of(path.name)
        try:
            text = prepare.read(path.read_bytes(), path.name, kind, "english", b"", UNLIMITED)
        except SkipDocument:
            continue
        cut[text.content_hash] = prepare.split(
            text, kind, model="benchmark", size=size, overlap=overlap, limits=UNLIMITED
        )
    return list(cut.values())


def lines() -> Iterator[str]:
    """Give the corpus' lines for ever, each made different by a number."""
    texts = cycle([path.read_text(errors="replace") for path in files()])
    numbers = count(1)
    for text in texts:
        for line in text.splitlines():
            if line.strip():
                yield f"{line} {next(numbers)}\n"


def write_small_files(folder: Path, how_many: int, line_count: int = 20) -> int:
    """Fill a folder with Markdown files of some lines each, 500 a subfolder; gives their bytes."""
    source = lines()
    total = 0
    for number in range(how_many):
        path = folder / f"{number // 500:04d}" / f"{number:06d}.md"
        path.parent.mkdir(parents=True, exist_ok=True)
        total += path.write_text("".join(next(source) for _ in range(line_count)))
    return total


def write_large_file(path: Path, size: int, ending: str = "") -> None:
    """Write a file of exactly `size` bytes of distinct lines, and the `ending` as its last ones."""
    left = size - len(ending.encode())
    with path.open("wb") as file:
        for line in lines():
            part = line.encode()[:left]
            left -= file.write(part if part.decode(errors="ignore").encode() == part else b" " * len(part))
            if left == 0:
                break
        file.write(ending.encode())
