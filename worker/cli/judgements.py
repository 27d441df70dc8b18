"""The files of a judged set, read line by line; a line that cannot be read is named by its number."""

import codecs
import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Protocol, TypeVar

from worker.cli.output import printable
from worker.errors import SourceError
from worker.steps.judged import Judgement, judgement_of, query_of

T = TypeVar("T", covariant=True)  # noqa: PLC0105 -- as short as it is used

_LONGEST_LINE = 1 << 20
_HINT = "`ingest evaluate --help` says what a line looks like"


class Parse(Protocol[T]):
    """Reads a line; None for a heading. Raises ValueError."""

    def __call__(self, line: str, *, first: bool) -> T | None: ...  # noqa: D102 -- see the class


def check(name: str) -> None:
    """Refuse a file that cannot be opened, before any is read. Raises SourceError."""
    if not os.access(name, os.R_OK):
        _opened(name).close()


def queries(name: str) -> Iterator[tuple[str, str]]:
    """Give (id, text) of each query. Raises SourceError."""
    return _parsed(name, query_of)


def judgements(name: str) -> Iterator[Judgement]:
    """Give each judgement. Raises SourceError."""
    return _parsed(name, judgement_of)


def _parsed(name: str, parse: Parse[T]) -> Iterator[T]:
    first = True
    for number, line in _lines(name):
        try:
            found = parse(line, first=first)
        except ValueError as error:
            raise SourceError(f"{printable(name)}, line {number:,}: {error}", _HINT) from None
        first = False
        if found is not None:
            yield found


def _lines(name: str) -> Iterator[tuple[int, str]]:
    """Give the lines that are not blank, with their numbers."""
    number = 0
    with _opened(name) as file:
        while line := _line(file, name):
            number += 1
            where = f"{printable(name)}, line {number:,}"
            if len(line) > _LONGEST_LINE:
                raise SourceError(f"{where}: over {_LONGEST_LINE:,} bytes", _HINT)
            try:
                written = line.removeprefix(codecs.BOM_UTF8 if number == 1 else b"").decode()
            except UnicodeDecodeError as error:
                raise SourceError(f"{where}: no UTF-8: {error.reason}", "convert the file to UTF-8") from None
            if written.strip():
                yield number, written.rstrip("\r\n")


def _line(file: BinaryIO, name: str) -> bytes:
    try:
        return file.readline(_LONGEST_LINE + 1)
    except OSError as error:
        raise _unreadable(name, error) from None


def _opened(name: str) -> BinaryIO:
    try:
        return Path(name).open("rb")
    except FileNotFoundError:
        raise SourceError(f"there is no file {printable(name)}", "check the path") from None
    except (OSError, ValueError) as error:
        raise _unreadable(name, error) from None


def _unreadable(name: str, error: Exception) -> SourceError:
    reason = getattr(error, "strerror", None) or error
    return SourceError(f"{printable(name)} cannot be read: {reason}", "check the path")
