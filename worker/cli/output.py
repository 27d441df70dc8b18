"""How commands write: results to standard output, remarks to standard error, JSON in one document."""

import json
import os
import shutil
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any

import typer

AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]
Project = Annotated[str | None, typer.Option(help="The project within the tenant.")]
Trace = Annotated[
    str | None, typer.Option(metavar="ID", help="An id of yours that the log names; without it one is made.")
]
Tenant = Annotated[str, typer.Option(help="Whose documents.")]


def say(line: str = "") -> None:
    """Write a line of result."""
    typer.echo(line)


def note(line: str) -> None:
    """Write a remark beside the result; where that is impossible, the work goes on without it."""
    with suppress(OSError):
        typer.echo(line, err=True)


def emit(value: Any) -> None:
    """Write the one JSON document of a command. UUIDs and times become text."""
    typer.echo(json.dumps(value, indent=2, default=str))


def count(number: int, noun: str) -> str:
    """Write a number with its noun: "1 document", "1,790 documents"."""
    return f"{number:,} {noun}" + ("" if number == 1 else "s")


def printable(text: str) -> str:
    """Write a name so that it stays one line and changes no terminal."""
    return text if text.isprintable() else "".join(map(_escaped, text))


def _escaped(character: str) -> str:
    if character.isprintable():
        return character
    return character.encode("unicode_escape", "surrogatepass").decode("ascii")


def command() -> str:
    """Write our name as a person here can type it: `ingest`, or its path where it is not in PATH."""
    mine = Path(sys.argv[0]).resolve()
    found = shutil.which("ingest")
    if mine.name != "ingest" or (found and Path(found).resolve() == mine):
        return "ingest"
    return os.path.relpath(mine) if mine.is_relative_to(Path.cwd()) else str(mine)


def columns(rows: Sequence[Sequence[object]], indent: int = 2) -> None:
    """Write rows in aligned columns, numbers to the right."""
    cells = [[_cell(value) for value in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    for row, written in zip(rows, cells, strict=True):
        aligned = (
            text.rjust(width) if isinstance(value, int | float) else text.ljust(width)
            for value, text, width in zip(row, written, widths, strict=True)
        )
        say(" " * indent + "  ".join(aligned).rstrip())


def _cell(value: object) -> str:
    return f"{value:,}" if isinstance(value, int | float) else printable(str(value))


def age(seconds: float) -> str:
    """Write a span of time in its largest unit."""
    for unit, size in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"


def megabytes_a_second(size: int, seconds: float) -> float:
    """Give a rate, rounded for people."""
    return round(size / 1e6 / max(seconds, 1e-3), 2)


def grouped(reasons: Sequence[Any]) -> None:
    """Write why documents did not complete, a line a reason and an example below it."""
    for reason in reasons:
        message = printable(reason.message or "")
        say(f"  {reason.status}: {reason.error_code} ({reason.documents:,}): {message}")
        say(f"      for example {printable(reason.example)}")
