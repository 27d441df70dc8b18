"""What the demo ingests, and what it asks of it."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from worker import sources
from worker.cli.walk import walk
from worker.producer import Document

STDLIB_QUERIES = ("parse command line arguments", "compress a file with gzip")
_QUERY_LENGTH = 100
_HEAD_BYTES = 16_384


def documents_of(folder: Path, *, stdlib: bool) -> Iterator[Document]:
    """Give the files of a folder; of the standard library, its own sources."""
    for file in walk(str(folder)).files:
        if not stdlib or (file.path.endswith(".py") and "/site-packages/" not in file.path):
            yield Document.found(Path(file.path), file.size, file.modified_ns)


def queries_of(documents: Sequence[Document]) -> tuple[str, ...]:
    """Take two questions out of a corpus: the first heading or sentence of two of its texts."""
    queries: list[str] = []
    for document in documents:
        query = first_words(_head(document.source_path))
        if query and query not in queries:
            queries.append(query)
        if len(queries) == 2:  # noqa: PLR2004 -- as promised
            break
    return tuple(queries)


def _head(source_path: str) -> bytes:
    path = sources.local_path(source_path)
    assert path is not None
    try:
        with path.open("rb") as file:
            return file.read(_HEAD_BYTES)
    except OSError:  # the worker reports it
        return b""


def first_words(head: bytes) -> str:
    """Give the first line of words in a text, without its marks; nothing for binary content."""
    if b"\0" in head:
        return ""
    for line in head.decode(errors="ignore").splitlines():
        words = line.strip(" \t#=*-/\"'`<>!").partition(". ")[0]
        if len(words.split()) > 1 and words[0].isalpha() and not line.startswith("#!"):
            return words[:_QUERY_LENGTH].strip()
    return ""
