"""Odd metadata, by each of the ways in: refused in one line, or made storable and counted."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, text

from tests.conftest import Run
from worker import Document, GivenChunk, submit
from worker.settings import Settings
from worker.types import FileType

NUMBER = "the metadata cannot be written as JSON: Out of range float values are not JSON compliant"
DEEP = "the metadata is nested over 50 deep"
LARGE = "the metadata is over 1,048,576 characters of JSON"


def nested(levels: int) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for _ in range(levels):
        found = {"a": found}
    return found


# (as JSON, as Python has it, what the program says of it)
ODD: dict[str, tuple[str, Any, str]] = {
    "nan": ('{"a": NaN}', {"a": float("nan")}, NUMBER),
    "huge": ('{"a": 1e400}', {"a": 1e400}, NUMBER),
    "deep": ('{"a": ' * 10_000 + "{}" + "}" * 10_000, nested(10_000), DEEP),
    "large": (json.dumps({"a": "x" * 10_000_000}), {"a": "x" * 10_000_000}, LARGE),
}
DIRTY_JSON = '{"a\\u0000": "b\\u0000", "c": ["\\u0000"]}'
DIRTY = {"a\0": "b\ud800", "c": ["\0"]}
CLEANED = {"metadata": 3}


def cleaned(connection: Connection) -> dict[str, Any]:
    found = connection.execute(
        text("SELECT source_path, cleaned FROM documents WHERE status IN ('completed', 'duplicate')")
    )
    return {row.source_path.rpartition("/")[2]: row.cleaned for row in found}


def test_from_python(settings: Settings, drain: Callable[[], dict[str, int]], connection: Connection) -> None:
    odd = [Document.text("w", source_path=name, metadata=value) for name, (_, value, _) in ODD.items()]
    dirty = Document.text("words\0", source_path="dirty", metadata=DIRTY)
    cut = Document.chunks([GivenChunk("a\0", None, ("b\ud800",), DIRTY)], source_path="cut\0")
    chunk = f'{{"text": "c\\u0000", "vector": null, "heading_path": [], "metadata": {DIRTY_JSON}}}'
    written = Document.text(f'{{"chunks": [{chunk}]}}', source_path="written", file_type=FileType.CHUNKS)
    receipt = submit([*odd, dirty, cut, written, Document.text("good", source_path="good")])
    assert {name: reason.partition(": nan")[0].partition(": inf")[0] for name, reason in receipt.refused} == {
        name: said for name, (_, _, said) in ODD.items()
    }
    assert drain() == {"completed": 4}
    counts = {"dirty": CLEANED | {"nul": 1}, "cut": {"chunks": 5, "source_path": 1}, "written": {"chunks": 4}}
    assert cleaned(connection) == counts | {"good": {}}


@pytest.mark.parametrize("name", ODD)
def test_by_the_command(ingest: Run, tmp_path: Path, name: str) -> None:
    (tmp_path / "a.txt").write_text("good words")
    written, _, said = ODD[name]
    done = ingest("add", "a.txt", "--metadata", written)
    lines = (done.stdout + done.stderr).decode().splitlines()
    assert done.returncode in (1, 2)
    assert any(said in line or "cannot be nested so deep" in line for line in lines), lines
    assert max(map(len, lines)) < 500


def test_by_the_command_what_can_be_stored_is(
    ingest: Run, tmp_path: Path, drain: Callable[[], dict[str, int]], connection: Connection
) -> None:
    (tmp_path / "a.txt").write_text("good words")
    assert ingest("add", "a.txt", "--metadata", DIRTY_JSON).returncode == 0
    drain()
    assert cleaned(connection) == {"a.txt": CLEANED}


def test_by_a_load(ingest: Run, settings: Settings, connection: Connection) -> None:
    vector = json.dumps([1.0] * settings.embedding_dimension)
    odd = {name: written for name, (written, _, _) in ODD.items()} | {
        "half": '{"a": "\\ud800"}',
        "dirty": DIRTY_JSON,
    }
    lines = []
    for name, written in (odd | {"good": "{}"}).items():
        own = DIRTY_JSON if name == "dirty" else "{}"
        chunk = f'{{"text": "of {name}", "vector": {vector}, "metadata": {own}}}'
        lines.append(f'{{"source_path": "{name}", "metadata": {written}, "chunks": [{chunk}]}}')
    done = ingest("load", "-", stdin="\n".join(lines).encode())
    said = done.stderr.decode().splitlines()
    assert done.returncode == 1
    assert len(said) == 5
    for name in ("nan", "huge", "large"):
        assert any(line.startswith(f"  {name}: {ODD[name][2]}") for line in said), name
    assert any("line 3: " in line and "recursion limit" in line for line in said)
    assert any("line 5: " in line and "Invalid JSON" in line for line in said)
    assert max(map(len, said)) < 500
    assert cleaned(connection) == {"dirty": CLEANED | {"chunks": 3}, "good": {}}
