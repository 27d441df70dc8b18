"""Our binary COPY against PostgreSQL's own: what we write is read back equal, and written by it alike."""

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any
from uuid import UUID

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from pydantic import SecretStr
from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError

from worker import Document, submit
from worker.db import chunks, segments
from worker.db.copying import copy_out
from worker.db.engine import describe, driver_url
from worker.db.migrate import migrate
from worker.errors import DocumentError
from worker.resources import Resources
from worker.settings import read_settings
from worker.steps.copyrows import (
    COLUMNS,
    HEADER,
    NO_VECTOR,
    TRAILER,
    Row,
    document_fields,
    encode_vectors,
    row_fields,
)
from worker.steps.prepare import Piece
from worker.steps.storable import metadata_json
from worker.steps.vectors import checked
from worker.types import EmbeddingType

DIMENSION = 256

TEXTS = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=30)
HEADINGS = st.lists(TEXTS | st.sampled_from(["", "NULL", "{}", 'a"b\\c', ",", " "]), max_size=4)
NUMBERS = st.integers(-(2**70), 2**70) | st.floats(-1e6, 1e6, width=32)
JSON = st.recursive(
    st.none() | st.booleans() | NUMBERS | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=6,
)
# Any number of either type; and such as no vector is refused for.
FLOATS = st.sampled_from([16, 32]).flatmap(
    lambda width: st.floats(width=width, allow_nan=False, allow_infinity=False)  # type: ignore[arg-type] # 16 or 32
)
SMALL = st.floats(-100, 100, width=16).filter(lambda number: abs(number) >= 0.01)
NUMBERS_OF_A_VECTOR = st.lists(FLOATS, min_size=1, max_size=5) | st.lists(
    SMALL, min_size=1, max_size=DIMENSION
)


@dataclass(frozen=True)
class Sample:
    """A row in our words."""

    text: str
    char_length: int
    heading_path: Sequence[str]
    content_hash: bytes
    numbers: Sequence[float] | None
    metadata: dict[str, Any]


ROWS = st.builds(
    Sample,
    TEXTS.filter(bool),
    st.integers(1, 2**31 - 1),
    HEADINGS,
    st.binary(min_size=32, max_size=32),
    st.none() | NUMBERS_OF_A_VECTOR,
    st.dictionaries(TEXTS, JSON, max_size=3),
)
ODD = Sample("\x01\n\\.\t😀é\u2028", 1, ("", "NULL", '"{a},\\'), bytes(32), (-0.5,), {"é": [1.5, None]})


@pytest.fixture(scope="module")
def halfvec_template(new_database: Callable[[str | None], str]) -> str:
    url = new_database(None)
    migrate(read_settings(database_url=url, broker_url="redis://unused", embedding_type="halfvec"))
    return driver_url(SecretStr(url)).database or ""


@pytest.fixture(params=list(EmbeddingType))
def environment(
    request: pytest.FixtureRequest, new_database: Callable[[str | None], str], halfvec_template: str
) -> dict[str, str]:
    if request.param is EmbeddingType.VECTOR:
        return {}
    return {"EMBEDDING_TYPE": "halfvec", "DATABASE_URL": new_database(halfvec_template)}


@pytest.fixture
def document(connection: Connection, resources: Resources) -> Any:
    (document_id,) = submit([Document.text("words", source_path="a")], project="p").new
    return connection.execute(
        text("SELECT document_id, tenant_id, project_id FROM documents WHERE document_id = :id"),
        {"id": document_id},
    ).one()


def vector(numbers: Sequence[float] | None, kind: EmbeddingType) -> NDArray[np.floating] | None:
    """Give the vector as it may be stored; none of what may not."""
    if numbers is None:
        return None
    whole: Any = [np.resize(np.array(numbers), DIMENSION)]
    try:
        [found] = checked(whole, count=1, dimension=DIMENSION, column_type=kind)
    except DocumentError:
        return None
    return np.asarray(found)


def encoded_vector(vector: NDArray[np.floating] | None) -> bytes:
    return NO_VECTOR if vector is None else encode_vectors([vector])


def encoded(
    rows: Sequence[Sample], ids: Any, kind: EmbeddingType, metadata: Sequence[str], *, project: bool
) -> bytes:
    prefix = document_fields(ids.document_id, ids.tenant_id, ids.project_id if project else None, "german")
    parts: list[bytes | memoryview] = []
    for n, (row, written) in enumerate(zip(rows, metadata, strict=True)):
        headings = tuple(row.heading_path)
        piece = Piece(row.text, row.char_length, row.content_hash, headings, metadata_json=written)
        made = Row(prefix, "german", (n + 1).to_bytes(16, "big"), n + 7, (n + 1) << 40, piece)
        parts += row_fields(made, encoded_vector(vector(row.numbers, kind)))
    return b"".join(parts)


def copied_out(connection: Connection, leaf: str) -> bytes:
    driver: Any = connection.connection.driver_connection
    out = io.BytesIO()
    with driver.cursor() as cursor:
        cursor.copy_expert(
            f"COPY (SELECT {', '.join(COLUMNS)} FROM {leaf} ORDER BY chunk_index) TO STDOUT (FORMAT binary)",
            out,
        )
    return out.getvalue()


def stored(connection: Connection, leaf: str) -> Sequence[Any]:
    return connection.execute(
        text(f"SELECT *, metadata::text AS written FROM {leaf} ORDER BY chunk_index")
    ).all()


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(rows=st.lists(ROWS, max_size=4), project=st.booleans())
@example(rows=[ODD], project=True)
def test_rows_come_back_equal_and_postgresql_writes_the_same_bytes(
    resources: Resources, document: Any, rows: list[Sample], project: bool
) -> None:
    kind = resources.settings.embedding_type
    ours = encoded(rows, document, kind, [metadata_json(row.metadata) for row in rows], project=project)
    with resources.engine.connect() as connection:
        segment, leaf = segments.lock_open(connection)
        assert chunks.copy_rows(connection, leaf, io.BytesIO(HEADER + ours + TRAILER)) == len(rows)
        found = stored(connection, leaf)
        for n, (row, got) in enumerate(zip(rows, found, strict=True)):
            assert (got.segment, got.document_id, got.tenant_id) == (
                segment,
                document.document_id,
                document.tenant_id,
            )
            assert (got.language, got.number) == ("german", n + 7)
            assert got.project_id == (document.project_id if project else None)
            assert (got.chunk_index, got.char_length, got.text) == ((n + 1) << 40, row.char_length, row.text)
            assert got.heading_path == list(row.heading_path)
            assert bytes(got.content_hash) == row.content_hash
            assert got.metadata == row.metadata
            assert (got.embedding is None) == (vector(row.numbers, kind) is None)
        # jsonb is written as the server renders it; all else must be ours, bit for bit
        rendered = [got.written for got in found]
        theirs = copied_out(connection, leaf)
        connection.rollback()
    assert theirs == HEADER + encoded(rows, document, kind, rendered, project=project) + TRAILER


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(NUMBERS_OF_A_VECTOR)
def test_vectors_are_known_again_bit_for_bit(
    resources: Resources, document: Any, numbers: list[float]
) -> None:
    kind = resources.settings.embedding_type
    row = Sample("text", 4, (), bytes(32), numbers, {})
    data = HEADER + encoded([row], document, kind, ["{}"], project=False) + TRAILER
    with resources.engine.connect() as connection:
        _, leaf = segments.lock_open(connection)
        chunks.copy_rows(connection, leaf, io.BytesIO(data))
        known = chunks.known_vectors(connection, document.tenant_id, [bytes(32)], kind)
        connection.rollback()
    expected = vector(numbers, kind)
    assert {key: found.tobytes() for key, found in known.items()} == (
        {} if expected is None else {bytes(32): expected.tobytes()}
    )


def test_longest_texts_and_paths_are_carried(resources: Resources, document: Any) -> None:
    long = Sample("é" * 1_000_000, 1_000_000, ["x" * 100_000] * 3, bytes(32), [1.0], {"a": "y" * 100_000})
    data = encoded(
        [long], document, resources.settings.embedding_type, [metadata_json(long.metadata)], project=True
    )
    with resources.engine.connect() as connection:
        _, leaf = segments.lock_open(connection)
        chunks.copy_rows(connection, leaf, io.BytesIO(HEADER + data + TRAILER))
        [got] = stored(connection, leaf)
        connection.rollback()
    assert (got.text, got.heading_path, got.metadata) == (long.text, list(long.heading_path), long.metadata)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"PGCOPX" + HEADER[6:] + TRAILER, "COPY file signature not recognized"),
        (HEADER + b"\0\x03" + TRAILER, "row field count is 3, expected 13"),
    ],
)
def test_broken_stream_is_an_error_of_the_usual_family(
    resources: Resources, document: Any, data: bytes, said: str
) -> None:
    with resources.engine.connect() as connection:
        _, leaf = segments.lock_open(connection)
        with pytest.raises(DBAPIError, match=said):
            chunks.copy_rows(connection, leaf, io.BytesIO(data))
        connection.rollback()


def test_row_of_another_tenant_or_without_its_document_is_refused(
    resources: Resources, document: Any
) -> None:
    prefix = document_fields(UUID(int=1), document.tenant_id, None, "english")
    row = b"".join(row_fields(Row(prefix, "english", bytes(16), 1, 1, Piece("a", 1, bytes(32))), NO_VECTOR))
    with resources.engine.connect() as connection:
        _, leaf = segments.lock_open(connection)
        with pytest.raises(DBAPIError, match="chunks_document_id_fkey"):
            chunks.copy_rows(connection, leaf, io.BytesIO(HEADER + row + TRAILER))
        connection.rollback()


@pytest.mark.parametrize("count", [0, 1, 300])
def test_rows_copied_out_are_those_of_the_query(count: int, connection: Connection) -> None:
    query = "SELECT n::int8, repeat(%(text)s, n), sha256(n::text::bytea) FROM generate_series(1, %(count)s) n"
    rows = copy_out(connection, query, {"text": "ä'%s", "count": count})
    found = [(int.from_bytes(n), str(said, "utf-8"), bytes(digest)) for n, said, digest in rows]
    assert found == [(n, "ä'%s" * n, sha256(str(n).encode()).digest()) for n in range(1, count + 1)]


def test_copy_out_fails_as_other_statements_do(connection: Connection) -> None:
    with pytest.raises(DBAPIError) as failed:
        list(copy_out(connection, "SELECT 1 / %(zero)s", {"zero": 0}))
    assert describe(failed.value) == "division by zero"
