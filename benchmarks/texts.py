"""All real text that is to be found on a machine: `$CORPORA`, what its programs document, Python's sources.

Files in a fixed order, none larger than MOST_BYTES. A .gz is read as what it holds, each line of a .jsonl as
a document of its own.
"""

import gzip
import json
import os
import sysconfig
import zlib
from collections.abc import Iterator
from pathlib import Path

from worker.document import Document

MOST_BYTES = 2_000_000
PROSE, SOURCES, RECORDS, PACKED = frozenset({".md", ".rst", ".txt"}), frozenset({".py"}), ".jsonl", ".gz"
MANUAL = frozenset(f".{section}" for section in range(1, 10))
NOTES = frozenset({"", ".Debian"})  # README, NEWS, changelog


def documents() -> Iterator[Document]:
    """Give everything, as documents."""
    for folder, suffixes in _places():
        for path in sorted(folder.rglob("*")):
            if path.is_file() and not path.is_symlink() and _is_fit(path):
                yield from _documents(path, suffixes)


def _places() -> list[tuple[Path, frozenset[str]]]:
    """Give where to look, and for what; prose first."""
    corpora, share = os.environ.get("CORPORA"), Path("/usr/share")
    python = [Path(sysconfig.get_path(name)) for name in ("stdlib", "purelib")]
    return [
        *([(Path(corpora), PROSE | SOURCES | {RECORDS})] if corpora else []),
        (share / "doc", PROSE | NOTES),
        (share / "man", MANUAL),
        *((folder, PROSE | SOURCES) for folder in python),
    ]


def _is_fit(path: Path) -> bool:
    size = path.stat().st_size
    return size > 0 and (size <= MOST_BYTES or path.suffix == RECORDS)


def _documents(path: Path, suffixes: frozenset[str]) -> Iterator[Document]:
    name = path.with_suffix("") if path.suffix == PACKED else path
    if name.suffix not in suffixes:
        return
    if path.suffix == RECORDS:
        yield from _records(path)
    elif path.suffix != PACKED:
        yield Document.path(path)
    elif content := _unpacked(path):
        yield Document.text(content, source_path=str(name))


def _records(path: Path) -> Iterator[Document]:
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            record = json.loads(line)
            parts = [record[key] for key in ("title", "text") if record.get(key)]
            yield Document.text("\n\n".join(parts), source_path=f"{path}/{number}")


def _unpacked(path: Path) -> bytes:
    try:
        return gzip.decompress(path.read_bytes())[:MOST_BYTES]
    except (OSError, EOFError, zlib.error):
        return b""
