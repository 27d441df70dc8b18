"""Files that harm those who read them carelessly: each is made where it is needed, none is kept."""

import gzip
import os
import random
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

MEBIBYTE = 1 << 20
MOST_BYTES = 64 * MEBIBYTE  # MAX_DOCUMENT_BYTES at full size
PROSE = "Das große Schiff fährt früh über den Fluß, und der Wärter zählt die Lichter. " * 20
LAUGHS = "".join(f'<!ENTITY l{n + 1} "{f"&l{n};" * 10}">\n' for n in range(9))

Make = Callable[[Path, float], None]


def whole(content: bytes) -> Make:
    """Make a file of this content, at any scale."""
    return lambda path, _scale: void(path.write_bytes(content))


def repeated(unit: bytes, size: int, ending: bytes = b"") -> Make:
    """Make a file of `size` bytes at full scale: one unit again and again."""

    def make(path: Path, scale: float) -> None:
        path.write_bytes(unit * round(size * scale / len(unit)) + ending)

    return make


def numbered_words(size: int) -> Make:
    """Make one line of `size` bytes at full scale, of 100,000 words."""

    def make(path: Path, scale: float) -> None:
        path.write_text(" ".join(f"word{n % 100_000:07}" for n in range(round(size * scale) // 12)))

    return make


def sparse(size: int, *, scaled: bool) -> Make:
    """Make a file that says it has `size` bytes and has none of them on the disk."""

    def make(path: Path, scale: float) -> None:
        with path.open("wb") as file:
            file.truncate(round(size * scale) if scaled else size)

    return make


def noise(path: Path, scale: float) -> None:
    """Make bytes without any order."""
    path.write_bytes(random.Random(6).randbytes(round(MEBIBYTE * scale)))


def zip_bomb(path: Path, scale: float) -> None:
    """Pack zeros, a thousand to one."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed:
        packed.writestr("zeros.txt", bytes(round(MOST_BYTES * scale)))


def gzip_bomb(path: Path, scale: float) -> None:
    """Pack zeros, a thousand to one."""
    path.write_bytes(gzip.compress(bytes(round(MOST_BYTES * scale)), mtime=0))


def pipe(path: Path, _scale: float) -> None:
    """Make a pipe nobody writes into: who opens it waits for ever."""
    os.mkfifo(path)


def link(target: str) -> Make:
    """Make a link. `target` may be of the folder `..` has, or nowhere."""
    return lambda path, _scale: path.symlink_to(target)


def unreadable(path: Path, _scale: float) -> None:
    """Make a file that nobody may read, but root."""
    path.write_text("kept from everybody")
    path.chmod(0)


def void(_result: object) -> None:
    """Forget what a call gave."""


def neighbours(folder: Path, count: int) -> None:
    """Make ordinary files, which nothing must happen to."""
    folder.mkdir()
    for number in range(count):
        text = f"# Harbour {number}\n\nShip number {number} comes in at night.\n\n{PROSE}"
        (folder / f"{number}.md").write_text(text)


def below(folder: Path) -> Iterator[Path]:
    """Give all that lies below a folder and is no folder, links not followed."""
    for path, _folders, names in os.walk(folder):
        yield from (Path(path, name) for name in names)
