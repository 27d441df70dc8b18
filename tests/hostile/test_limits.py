"""What one document may be and take: each limit has a code of its own, and neighbours complete."""

from multiprocessing import get_context
from typing import Any
from unittest.mock import patch

import pytest
from sqlalchemy import Connection, text

from tests.conftest import drained
from worker import Document, GivenChunk, GivenDocument, load, submit
from worker.resources import resources
from worker.settings import Settings
from worker.steps import prepare
from worker.steps.chunk import chunk
from worker.types import FileType

CHARACTERS, CHUNK_CHARACTERS, CHUNKS = 400_000, 2_000, 600
OBJECTS = b'{"chunks": [' + b"{}," * 800_000 + b"{}]}"
SLOW = "slow words"


@pytest.fixture
def environment() -> dict[str, str]:
    return {
        "MAX_DOCUMENT_CHARACTERS": str(CHARACTERS),
        "MAX_CHUNK_CHARACTERS": str(CHUNK_CHARACTERS),
        "MAX_DOCUMENT_CHUNKS": str(CHUNKS),
        "MAX_DOCUMENT_MEMORY_BYTES": str(16 << 20),
        "MAX_DOCUMENT_SECONDS": "1",
    }


def endless(words: str, *rest: Any, **more: Any) -> Any:
    """Cut as ever, but for one text, and that for ever."""
    while words == SLOW:
        pass
    return chunk(words, *rest, **more)


def drained_anew() -> dict[str, int]:
    """Process what waits; one text is cut for ever."""
    with patch.object(prepare, "chunk", endless):
        return drained(resources())


def test_each_limit_has_its_code_and_neighbours_complete(settings: Settings, connection: Connection) -> None:
    short, long = GivenChunk("y" * CHUNK_CHARACTERS), GivenChunk("y" * (CHUNK_CHARACTERS + 1))
    headed = GivenChunk("y", None, ("z" * CHUNK_CHARACTERS, "z"))
    documents = {
        "characters": (
            Document.text("x" * (CHARACTERS + 1), source_path="characters"),
            "too_many_characters",
        ),
        "given": (Document.chunks([short] * 201, source_path="given"), "too_many_characters"),
        "long": (Document.chunks([short, long], source_path="long"), "chunk_too_long"),
        "headed": (Document.chunks([headed], source_path="headed"), "chunk_too_long"),
        "many": (Document.chunks([GivenChunk("z")] * (CHUNKS + 1), source_path="many"), "too_many_chunks"),
        # before the others: what they give back would be there for it
        "a.md": (Document.text("#\n" * (CHARACTERS // 2), source_path="a.md"), "too_much_memory"),
        "json": (Document.text(OBJECTS, source_path="json", file_type=FileType.CHUNKS), "too_much_memory"),
        "slow": (Document.text(SLOW, source_path="slow"), "too_slow"),
        "just": (Document.text("w".ljust(CHARACTERS), source_path="just"), None),
        "fits": (Document.chunks([short], source_path="fits"), None),
        "good": (Document.text("good words", source_path="good"), None),
    }
    submit(document for document, _ in documents.values())
    # in a process of its own: this one may have more to spare, of what others gave back, than the limit is
    with get_context("spawn").Pool(1) as pool:
        assert pool.apply(drained_anew) == {"failed": 8, "completed": 3}
    rows = connection.execute(text("SELECT source_path, error_code, error_message FROM documents")).all()
    assert {row.source_path: row.error_code for row in rows} == {
        name: code for name, (_, code) in documents.items()
    }
    assert all(
        "MAX_" in row.error_message and "\n" not in row.error_message for row in rows if row.error_code
    )


def test_a_load_is_held_to_the_same(settings: Settings) -> None:
    vector = [1.0] * settings.embedding_dimension
    long, short = (GivenChunk("y" * (CHUNK_CHARACTERS + more), vector) for more in (1, 0))
    done = load(
        [GivenDocument("long", [long]), GivenDocument("all", [short] * 201), GivenDocument("fits", [short])]
    )
    assert (done.completed, done.failed) == (1, 2)
    assert dict(done.reasons) == {
        "long": "chunk 1 has 2,001 characters; MAX_CHUNK_CHARACTERS allows 2,000",
        "all": "402,000 characters; MAX_DOCUMENT_CHARACTERS allows 400,000",
    }
