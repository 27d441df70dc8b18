"""`ingest load` as a user meets it: files whole, broken and cut off, interrupted and begun again."""

import json
import signal
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet
from sqlalchemy import Connection, text

from tests.conftest import Run, command
from tests.integration.test_maintenance import value
from worker.errors import Exit

DIMENSION = 256
Rows = list[dict[str, Any]]


@pytest.fixture
def environment() -> dict[str, str]:
    return {"EMBEDDING_PROVIDER": "none"}


def numbers(seed: int) -> list[float]:
    return [round(float(x), 6) for x in np.random.default_rng(seed).standard_normal(DIMENSION)]


def record(name: str, chunks: int = 2, **more: Any) -> dict[str, Any]:
    cut = [{"text": f"{name}, chunk {n}", "vector": numbers(hash((name, n)) % 2**32)} for n in range(chunks)]
    return {"source_path": name, "chunks": cut, **more}


def lines(*records: Any) -> bytes:
    return b"".join(r if isinstance(r, bytes) else json.dumps(r).encode() + b"\n" for r in records)


def flat(*records: dict[str, Any]) -> Rows:
    return [
        {"source_path": record["source_path"], **chunk} for record in records for chunk in record["chunks"]
    ]


def stored(connection: Connection) -> dict[str, int]:
    found = connection.execute(
        text("""SELECT source_path, count(*) AS chunks FROM chunks JOIN documents USING (document_id)
                WHERE segment >= 0 GROUP BY source_path""")
    )
    return {row.source_path: row.chunks for row in found}


def test_lines_and_rows_are_the_same_documents(ingest: Run, tmp_path: Path, connection: Connection) -> None:
    records = [record(f"d{n}", n + 1) for n in range(3)]
    (tmp_path / "given.jsonl").write_bytes(lines(*records))
    parquet.write_table(pa.Table.from_pylist(flat(*records)), tmp_path / "given.parquet")
    first = ingest("load", "given.jsonl")
    assert (first.returncode, first.stderr) == (0, b"")
    assert first.stdout.startswith(b"3 documents stored (6 chunks) in ")
    again = ingest("load", "given.parquet", "given.jsonl", "--json")
    assert json.loads(again.stdout)["unchanged"] == 6
    piped = ingest("load", "-", stdin=b"\xef\xbb\xbf" + lines(record("d9")))
    assert piped.stdout.startswith(b"1 document stored (2 chunks) in ")
    assert stored(connection) == {"d0": 1, "d1": 2, "d2": 3, "d9": 2}


def test_every_optional_column_is_stored(ingest: Run, tmp_path: Path, connection: Connection) -> None:
    headings = ["About us", "Where"]
    rows = flat(record("as text", 1)) + flat(record("as structs", 1))
    for row, metadata, document in ((rows[0], '{"page": 2}', '{"year": 2026}'), (rows[1], "{}", None)):
        row |= {"heading_path": headings, "metadata": metadata, "document_metadata": document}
    parquet.write_table(pa.Table.from_pylist(rows), tmp_path / "text.parquet")
    assert ingest("load", "text.parquet").returncode == 0
    halves = pa.array([np.asarray(rows[0]["vector"], np.float16)], pa.list_(pa.float16(), DIMENSION))
    pages = pa.array([[("page", 3)]], pa.map_(pa.string(), pa.int64()))
    columns = {
        "source_path": pa.array(["map"]).dictionary_encode(),
        "text": ["t"],
        "vector": halves,
        "metadata": pages,
    }
    parquet.write_table(pa.table(columns), tmp_path / "map.parquet")
    assert ingest("load", "map.parquet").returncode == 0
    kept = "SELECT heading_path, c.metadata, d.metadata FROM chunks c JOIN documents d USING (document_id)"
    found = connection.execute(text(f"{kept} WHERE segment >= 0 ORDER BY d.source_path DESC"))
    assert [tuple(row) for row in found] == [
        ([], {"page": 3}, {}),
        (headings, {"page": 2}, {"year": 2026}),
        (headings, {}, {}),
    ]


BAD_LINES = {
    "not JSON": (b"{nonsense}\n", "Invalid JSON"),
    "not UTF-8": (b'{"source_path": "\xff"}\n', "Invalid JSON"),
    "a list": (b"[]\n", "Input should be an object"),
    "no chunks": (b'{"source_path": "x"}\n', "chunks: Field required"),
    "no vector": (lines({"source_path": "x", "chunks": [{"text": "t"}]}), "chunks.0.vector: Field required"),
    "a typo": (lines(record("x", metdata={})), "metdata: Extra inputs are not permitted"),
    "words": (
        lines({"source_path": "x", "chunks": [{"text": "t", "vector": ["1"]}]}),
        "chunks.0.vector.0: Input should be a valid number",
    ),
    "too deep": (b"[" * 100_000 + b"\n", "recursion limit exceeded"),
    "too long": (lines(record("x", 400)), "over 1,000,000 bytes"),
}


def test_a_line_that_is_no_document_is_named_and_its_neighbours_are_stored(
    ingest: Run, tmp_path: Path, connection: Connection
) -> None:
    parts = [part for n, (line, _) in enumerate(BAD_LINES.values()) for part in (line, record(f"d{n}"))]
    (tmp_path / "given.jsonl").write_bytes(lines(b"\n", *parts))
    done = ingest("load", "given.jsonl", MAX_DOCUMENT_BYTES="1000000")
    said = done.stderr.decode().splitlines()
    for n, (line, (_, reason)) in enumerate(zip(said, BAD_LINES.values(), strict=True)):
        assert line.startswith(f"  given.jsonl, line {2 + 2 * n}: ")
        assert reason in line
    assert done.returncode == Exit.FINDINGS
    assert f"9 documents stored (18 chunks), {len(BAD_LINES)} unreadable" in done.stdout.decode()
    assert stored(connection) == {f"d{n}": 2 for n in range(len(BAD_LINES))}


def test_a_stream_that_ends_in_a_record_stores_what_was_whole(
    ingest: Run, tmp_path: Path, connection: Connection
) -> None:
    whole = lines(record("d0"), record("d1"), record("d2"))
    (tmp_path / "given.jsonl").write_bytes(whole[:-500])
    done = ingest("load", "given.jsonl")
    assert done.returncode == Exit.FINDINGS
    assert b"  given.jsonl, line 3: " in done.stderr
    assert b"the file ends in it" in done.stderr
    assert stored(connection) == {"d0": 2, "d1": 2}
    (tmp_path / "given.jsonl").write_bytes(whole[:-1])  # a last line without its end is whole all the same
    done = ingest("load", "given.jsonl")
    assert b"1 document stored (2 chunks), 2 unchanged" in done.stdout


def test_a_document_that_cannot_be_stored_is_named(ingest: Run, connection: Connection) -> None:
    short = {"source_path": "short", "chunks": [{"text": "t", "vector": [1.0, 2.0]}]}
    done = ingest("load", "-", stdin=lines(record("before"), short, record("after")))
    assert done.returncode == Exit.FINDINGS
    assert done.stderr == b"  short: chunk 1: vectors have 2 dimensions, the database holds 256\n"
    assert stored(connection) == {"before": 2, "after": 2}
    assert value(connection, "SELECT error_code FROM documents WHERE status = 'failed'") == "vector_dimension"


def test_rows_that_are_no_chunks_fail_with_their_document(
    ingest: Run, tmp_path: Path, connection: Connection
) -> None:
    rows = flat(record("no text"), record("no vector"), record("a hole"), record("no name"), record("good"))
    rows[1]["text"] = None
    rows[3]["vector"] = None
    rows[5]["vector"] = [None, *rows[5]["vector"][1:]]
    rows[6]["source_path"] = None
    for row in rows:
        row["metadata"] = "[1]" if row["source_path"] == "no name" else None
    parquet.write_table(pa.Table.from_pylist(rows), tmp_path / "given.parquet")
    done = ingest("load", "given.parquet")
    assert done.returncode == Exit.FINDINGS
    said = dict(line.strip().split(": ", 1) for line in done.stderr.decode().splitlines())
    assert said.keys() == {"no text", "no vector", "a hole", "no name", "given.parquet, row 7"}
    assert stored(connection) == {"good": 2}


def test_files_are_looked_at_before_any_is_loaded(
    ingest: Run, tmp_path: Path, connection: Connection
) -> None:
    (tmp_path / "given.jsonl").write_bytes(lines(record("d0")))
    done = ingest("load", "given.jsonl", "absent")
    assert done.returncode == Exit.SOURCE
    assert b"there is no file absent" in done.stderr
    assert stored(connection) == {}


def test_what_is_no_json_at_all_is_told_briefly(ingest: Run, connection: Connection) -> None:
    forged = b'{"source_path": "x", "chunks": [], "a\\u001b[31m\\nerror: forged": 1}\n'
    done = ingest("load", "-", stdin=forged + b"nonsense\n" * 5_000)
    assert done.returncode == Exit.FINDINGS
    assert b"5,001 unreadable" in done.stdout
    assert len(done.stderr.splitlines()) == 101
    assert b"\x1b" not in done.stderr


def test_settings_of_another_space_are_refused(ingest: Run, connection: Connection) -> None:
    done = ingest("load", "-", stdin=lines(record("d0")), EMBEDDING_DIMENSION="128")
    assert done.returncode == Exit.SCHEMA
    assert stored(connection) == {}
    assert value(connection, "SELECT count(*) FROM documents") == 0


def test_odd_metadata_fail_with_their_document(ingest: Run, tmp_path: Path, connection: Connection) -> None:
    rows = flat(record("a", 1), record("b", 1))
    for row, odd in zip(rows, ([1, 2], None), strict=True):
        row["metadata"] = odd
    parquet.write_table(pa.Table.from_pylist(rows), tmp_path / "odd.parquet")
    done = ingest("load", "odd.parquet")
    assert done.returncode == Exit.FINDINGS
    assert stored(connection) == {"b": 1}


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("absent", None, "there is no file absent"),
        ("cut.parquet", "cut", "cut.parquet is no whole Parquet file"),
        (
            "columns.parquet",
            {"id": ["x"], "text": ["t"]},
            "columns.parquet has no column source_path, vector",
        ),
        (
            "type.parquet",
            {"source_path": ["x"], "text": ["t"], "vector": ["[1]"]},
            "vector of type.parquet is string",
        ),
    ],
)
def test_a_file_that_cannot_be_read(ingest: Run, tmp_path: Path, name: str, content: Any, said: str) -> None:
    if content == "cut":
        parquet.write_table(pa.Table.from_pylist(flat(record("d"))), tmp_path / name)
        (tmp_path / name).write_bytes((tmp_path / name).read_bytes()[:-100])
    elif content:
        parquet.write_table(pa.table(content), tmp_path / name)
    done = ingest("load", name)
    assert done.returncode == Exit.SOURCE
    assert said in done.stderr.decode()


def test_without_pyarrow_it_says_what_to_install(ingest: Run, tmp_path: Path) -> None:
    (tmp_path / "pyarrow.py").write_text("raise ImportError")
    (tmp_path / "x.parquet").write_bytes(b"PAR1")
    done = ingest("load", "x.parquet", PYTHONPATH=str(tmp_path))
    assert done.returncode == Exit.USAGE
    assert b"pip install 'ingest-worker[parquet]'" in done.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_load_says_how_far_it_came(
    ingest: Run, tmp_path: Path, connection: Connection, number: int
) -> None:
    process = subprocess.Popen(
        command("load", "-"), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdin is not None
    process.stdin.write(lines(*(record(f"d{n}", 100) for n in range(30))))
    process.stdin.flush()
    while not stored(connection):
        assert process.poll() is None
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (Exit.INTERRUPTED, b"")
    assert (
        err
        == b"interrupted: 21 documents stored (2,100 chunks) so far; the same command goes on from there\n"
    )
    assert len(stored(connection)) == 21
    done = ingest("load", "-", stdin=lines(*(record(f"d{n}", 100) for n in range(30))))
    assert b"9 documents stored (900 chunks), 21 unchanged" in done.stdout
