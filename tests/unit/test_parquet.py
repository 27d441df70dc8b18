"""A Parquet file that unfolds to far more than it is, ends its reader; the command says which limit held."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import parquet

from worker.cli.parquet import reading
from worker.errors import SourceError
from worker.settings import read_settings
from worker.types import GivenDocument

MIB = 1 << 20
SMALL = 64 << 10
# 4-byte numbers of Thrift's compact protocol: 7 bits a byte, the lowest first
LARGEST = b"\xfe\xff\xff\x7f"


def repeated(text: str, rows: int) -> Any:
    """One value many times, without taking its room."""
    return pa.DictionaryArray.from_arrays(pa.array([0] * rows, pa.int32()), pa.array([text]))


def written(folder: Path, texts: Any, vectors: Any = None, **more: Any) -> Path:
    file = folder / "given.parquet"
    paths = repeated("a path", len(texts))
    vectors = pa.nulls(len(texts), pa.list_(pa.float32())) if vectors is None else vectors
    table = pa.table({"source_path": paths, "text": texts, "vector": vectors, **more})
    parquet.write_table(table, file, compression="zstd", row_group_size=1 << 30)
    return file


def bad(where: str, reason: str) -> None:
    pytest.fail(f"{where}: {reason}")


def read(file: Path, **limits: int) -> Sequence[GivenDocument]:
    settings = read_settings(database_url="postgresql://h/d", broker_url="redis://h", **limits)
    with file.open("rb") as opened, reading(opened, "given.parquet", settings, bad) as documents:
        return list(documents)


def refusal(file: Path, **limits: int) -> str:
    with pytest.raises(SourceError) as caught:
        read(file, **limits)
    assert "\n" not in str(caught.value)
    return caught.value.message


@pytest.mark.parametrize(("size", "rows"), [(MIB, 8_192), (50 * MIB, 160)])
def test_one_value_a_thousand_times_is_too_much_memory(tmp_path: Path, size: int, rows: int) -> None:
    file = written(tmp_path, repeated("x" * size, rows))
    assert file.stat().st_size < SMALL
    said = refusal(file, max_document_memory_bytes=128 * MIB)
    assert said == "given.parquet unfolds to more than MAX_DOCUMENT_MEMORY_BYTES, 134,217,728"


def test_a_vector_of_millions_of_numbers_is_too_much_memory(tmp_path: Path) -> None:
    numbers = pa.repeat(pa.scalar(0.5, pa.float32()), 100 * MIB // 4)
    vectors = pa.ListArray.from_arrays(pa.array([0, len(numbers)], pa.int32()), numbers)
    file = written(tmp_path, pa.array(["a text"]), vectors)
    assert file.stat().st_size < SMALL
    assert "more than MAX_DOCUMENT_MEMORY_BYTES" in refusal(file, max_document_memory_bytes=64 * MIB)


def test_a_document_that_unfolds_part_by_part_is_too_slow(tmp_path: Path) -> None:
    file = written(tmp_path, repeated("x" * 100_000, 100_000))
    assert file.stat().st_size < SMALL
    assert refusal(file, max_document_seconds=1) == (
        "given.parquet has a document that takes over MAX_DOCUMENT_SECONDS, 1 s of processor time, to read"
    )


def test_objects_unfold_within_the_limits_too(tmp_path: Path) -> None:
    many = pa.nulls(4_000_000, pa.struct([("a", pa.bool_())]))
    metadata = pa.ListArray.from_arrays(pa.array([0, len(many)], pa.int32()), many)
    file = written(tmp_path, pa.array(["a text"]), metadata=metadata)
    assert file.stat().st_size < SMALL
    assert "more than MAX_DOCUMENT_MEMORY_BYTES" in refusal(file, max_document_memory_bytes=64 * MIB)


def test_headings_count_against_the_bytes_of_a_document(tmp_path: Path) -> None:
    headings = pa.ListArray.from_arrays(pa.array(range(301), pa.int32()), repeated("h" * 100_000, 300))
    file = written(tmp_path, repeated("", 300), heading_path=headings)
    assert file.stat().st_size < SMALL
    (document,) = read(file, max_document_bytes=MIB)
    assert len(document.chunks) == 11  # ten within the limit, and the one that breaks it
    assert document.size_bytes > MIB


def test_a_row_larger_than_a_document_is_named(tmp_path: Path) -> None:
    texts = [*["a text"] * 600, "x" * 40 * MIB]
    file = written(tmp_path, pa.array(texts))
    said = refusal(file, max_document_bytes=20 * MIB)
    assert re.fullmatch(
        r"given.parquet, row 601, has 41,94\d,\d{3} bytes; MAX_DOCUMENT_BYTES allows 20,971,520", said
    )


def test_a_page_that_says_it_is_larger_than_it_is_gets_no_memory(tmp_path: Path) -> None:
    file = written(tmp_path, repeated("x" * 2 * MIB, 2))
    content = file.read_bytes()
    said_size = _zigzag(2 * MIB + 4)  # a page of one text, and its length
    begins = content.index(said_size)
    assert len(said_size) == len(LARGEST)
    file.write_bytes(content.replace(said_size, LARGEST, 1))
    assert content[begins - 1] == 0x15, "no 32-bit field of a header"
    assert "more than MAX_DOCUMENT_MEMORY_BYTES" in refusal(file, max_document_memory_bytes=64 * MIB)


def _zigzag(number: int) -> bytes:
    number, found = number * 2, []
    while number > 0x7F:
        found.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*found, number])


def test_a_file_larger_than_the_limit_is_read_whole(tmp_path: Path) -> None:
    rows = 2_000
    file = written(tmp_path, repeated("x" * 100_000, rows))
    (document,) = read(file, max_document_memory_bytes=128 * MIB, max_document_bytes=256 * MIB)
    assert (len(document.chunks), document.size_bytes) == (rows, 100_000 * rows)
