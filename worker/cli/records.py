"""What `ingest load` reads: JSON Lines, a document a line, and Parquet, a chunk a row."""

import codecs
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError

from worker.cli.inputs import open_stdin
from worker.cli.output import printable
from worker.errors import SourceError
from worker.settings import Settings
from worker.types import GivenChunk, GivenDocument

STDIN = "-"
_PARQUET = b"PAR1"
_PART_BYTES = 1 << 20
_LONGEST_PLACE = 200

Bad = Callable[[str, str], None]
"""Hears where a record is that cannot be read, and why."""


class Records(Protocol):
    """A stream of documents from one file."""

    @property
    def share(self) -> float:
        """How much of the file was read, from 0 to 1."""
        ...

    def __iter__(self) -> Iterator[GivenDocument]: ...


@contextmanager
def opened(name: str, settings: Settings, bad: Bad) -> Iterator[Records]:
    """Open a file, or standard input for -. Raises SourceError for one that cannot be read."""
    if name == STDIN:
        yield JsonLines(open_stdin(), "standard input", settings.max_document_bytes, bad)
        return
    shown = printable(name)
    with _opened(name, shown) as file:
        if _is_parquet(file):
            from worker.cli.parquet import reading

            with reading(file, shown, settings, bad) as rows:
                yield rows
        else:
            size = os.fstat(file.fileno()).st_size
            yield JsonLines(file, shown, settings.max_document_bytes, bad, size)


def check(name: str) -> None:
    """Refuse a file that cannot be opened, before any is read. Raises SourceError."""
    if name != STDIN and not os.access(name, os.R_OK):
        _opened(name, printable(name)).close()


def _is_parquet(file: BinaryIO) -> bool:
    if not file.seekable():  # a pipe
        return False
    begins = file.read(len(_PARQUET))
    file.seek(0)
    return begins == _PARQUET


def _opened(name: str, shown: str) -> BinaryIO:
    try:
        return Path(name).open("rb")
    except FileNotFoundError:
        raise SourceError(f"there is no file {shown}", "check the path") from None
    except (OSError, ValueError) as error:
        raise unreadable(shown, error) from None


def unreadable(shown: str, error: Exception) -> SourceError:
    """Say that a file, or the rest of it, cannot be read."""
    reason = getattr(error, "strerror", None) or str(error).partition("\n")[0]
    return SourceError(f"{shown} cannot be read: {reason}", "check it, then load it again")


class _Chunk(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    text: str
    vector: list[float]
    heading_path: list[str] = []
    metadata: dict[str, Any] = {}


class _Document(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    source_path: str
    chunks: list[_Chunk]
    metadata: dict[str, Any] = {}
    language: str | None = None


class JsonLines:
    """Documents of a JSON Lines stream. A line that is none is told to `bad`, and its neighbours are read."""

    def __init__(self, stream: BinaryIO, name: str, limit: int, bad: Bad, size: int = 0) -> None:
        self._stream, self._name, self._limit, self._bad = stream, name, limit, bad
        self._size, self._read = size, 0

    @property
    def share(self) -> float:
        """How much was read; 0 where nobody knows."""
        return min(self._read / self._size, 1.0) if self._size else 0.0

    def __iter__(self) -> Iterator[GivenDocument]:
        number = 0
        while line := self._line(self._limit + 1):
            number += 1
            if number == 1:
                line = line.removeprefix(codecs.BOM_UTF8)
            if len(line) > self._limit:
                self._pass_over(line)
                self._refuse(number, f"over {self._limit:,} bytes; MAX_DOCUMENT_BYTES bounds a line")
            elif line.strip() and (document := self._document(number, line)):
                yield document

    def _line(self, limit: int) -> bytes:
        try:
            line = self._stream.readline(limit)
        except OSError as error:
            raise unreadable(self._name, error) from None
        self._read += len(line)
        return line

    def _pass_over(self, line: bytes) -> None:
        while line and not line.endswith(b"\n"):
            line = self._line(_PART_BYTES)

    def _document(self, number: int, line: bytes) -> GivenDocument | None:
        try:
            return _given(_Document.model_validate_json(line))
        except ValidationError as error:
            cut = "" if line.endswith(b"\n") else "; the file ends in it"
            self._refuse(number, f"{_first(error)}{cut}")
            return None

    def _refuse(self, number: int, reason: str) -> None:
        self._bad(f"{self._name}, line {number:,}", reason)


def _given(document: _Document) -> GivenDocument:
    return GivenDocument(
        document.source_path,
        [
            GivenChunk(chunk.text, single(chunk.vector), tuple(chunk.heading_path), chunk.metadata)
            for chunk in document.chunks
        ],
        document.metadata,
        document.language,
    )


def single(vector: list[float]) -> Any:
    """Give numbers in single precision; those too large for it are infinite, and found so later."""
    with np.errstate(over="ignore"):
        return np.asarray(vector, np.float64).astype(np.float32)


def _first(error: ValidationError) -> str:
    """Say the first thing that is wrong, and where."""
    found = error.errors(include_url=False, include_input=False, include_context=False)[0]
    where = printable(".".join(str(part) for part in found["loc"]))[:_LONGEST_PLACE]
    return f"{where}: {found['msg']}" if where else found["msg"]
