"""Documents through the whole pipeline, without Celery: what ends where, and at what cost."""

import errno
import os
import time
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar
from uuid import UUID

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from sqlalchemy import Connection, event, text
from tenacity import Retrying, retry_if_result, wait_fixed

from worker import Document, sources, submit
from worker.dispatch import dispatch
from worker.errors import TransientError
from worker.ingest import ingest_batch
from worker.producer import cancel, delete, find, restore, retry
from worker.resources import Resources
from worker.settings import read_settings
from worker.types import GivenChunk, Lane

Drain = Callable[[], dict[str, int]]


def one(connection: Connection, statement: str, **parameters: Any) -> Any:
    return connection.execute(text(statement), parameters).scalar_one()


def void(_count: int) -> None:
    """Make a report of a call whose count does not matter."""


def row(connection: Connection, document_id: UUID) -> Any:
    return connection.execute(
        text("SELECT * FROM documents WHERE document_id = :id"), {"id": document_id}
    ).one()


def live_texts(connection: Connection, document_id: UUID) -> list[str]:
    found = connection.execute(
        text("SELECT text FROM chunks WHERE document_id = :id AND segment > 0 ORDER BY chunk_index"),
        {"id": document_id},
    )
    return list(found.scalars())


def paragraphs(count: int, word: str = "ship") -> str:
    return "\n\n".join(
        f"Paragraph {n} tells of a {word}. " + f"{word} {n} sails on. " * 30 for n in range(count)
    )


def text_of(name: str, content: str | bytes, **options: Any) -> Document:
    return Document.text(content, source_path=name, **options)


@pytest.fixture(autouse=True)
def _use_settings(settings: Any) -> None:
    """The producer's calls use the process's settings: those of this test."""


# -- the plain way --------------------------------------------------------------------------------


def test_a_file_becomes_searchable_chunks(drain: Drain, connection: Connection, tmp_path: Path) -> None:
    file = tmp_path / "a.md"
    file.write_text("# Title\n\n" + paragraphs(5))
    (document_id,) = submit([Document.path(file)]).new
    assert drain() == {"completed": 1}
    found = row(connection, document_id)
    assert (found.status, found.attempts, found.claimed_version, found.batch_id) == ("completed", 0, 1, None)
    assert "".join(live_texts(connection, document_id)) == file.read_text()
    assert found.total_chunks == found.chunks_embedded == len(live_texts(connection, document_id)) > 1
    assert one(connection, "SELECT count(*) FROM chunks WHERE embedding IS NULL") == 0
    assert one(connection, "SELECT bool_and(heading_path = '{Title}') FROM chunks")


def test_unchanged_files_write_nothing(drain: Drain, connection: Connection, tmp_path: Path) -> None:
    for n in range(20):
        (tmp_path / f"{n}.txt").write_text(paragraphs(1, f"word{n}"))
    files = sorted(tmp_path.glob("*.txt"))
    submit([Document.path(file) for file in files])
    drain()
    before = one(
        connection, "SELECT array_agg(ARRAY[xmin::text, ctid::text] ORDER BY document_id) FROM documents"
    )
    receipt = submit([Document.path(file) for file in files])
    assert (receipt.unchanged, receipt.document_ids) == (20, ())
    assert before == one(
        connection, "SELECT array_agg(ARRAY[xmin::text, ctid::text] ORDER BY document_id) FROM documents"
    )


def test_checksum_reads_and_hashes_but_keeps_the_chunks(
    drain: Drain, connection: Connection, tmp_path: Path
) -> None:
    file = tmp_path / "a.txt"
    file.write_text(paragraphs(4))
    submit([Document.path(file)])
    drain()
    rows = one(connection, "SELECT array_agg(xmin::text || ctid::text) FROM chunks")
    receipt = submit([Document.path(file)], checksum=True)
    assert len(receipt.changed) == 1
    assert drain() == {"completed": 1}
    assert rows == one(connection, "SELECT array_agg(xmin::text || ctid::text) FROM chunks")
    assert row(connection, receipt.changed[0]).chunks_embedded == 0


def test_same_size_and_time_but_other_content_is_found_by_checksum(
    drain: Drain, connection: Connection, tmp_path: Path
) -> None:
    file = tmp_path / "a.txt"
    file.write_text("one ship")
    times = (file.stat().st_atime_ns, file.stat().st_mtime_ns)
    (document_id,) = submit([Document.path(file)]).new
    drain()
    file.write_text("two boat")
    os.utime(file, ns=times)
    assert submit([Document.path(file)]).unchanged == 1
    assert submit([Document.path(file)], checksum=True).changed == (document_id,)
    drain()
    assert live_texts(connection, document_id) == ["two boat"]


def test_a_changed_recipe_makes_a_document_changed(
    drain: Drain, connection: Connection, settings: Any
) -> None:
    (document_id,) = submit([text_of("a.txt", paragraphs(4))]).new
    drain()
    other = Resources(read_settings(chunk_size=300))
    assert row(connection, document_id).total_chunks < 10
    from worker import resources as module

    assert submit([text_of("a.txt", paragraphs(4))]).unchanged == 1
    module._mine[os.getpid()] = other
    assert submit([text_of("a.txt", paragraphs(4))]).changed == (document_id,)


# -- duplicates -----------------------------------------------------------------------------------


def test_twins_become_duplicates_within_a_batch_and_across(drain: Drain, connection: Connection) -> None:
    submit([text_of("a.txt", "the same words"), text_of("b.txt", "the same words")])
    assert drain() == {"completed": 1, "duplicate": 1}
    submit([text_of("c.txt", "the same words")])
    assert drain() == {"duplicate": 1}
    owner = one(connection, "SELECT document_id FROM documents WHERE status = 'completed'")
    assert one(connection, "SELECT count(*) FROM documents WHERE duplicate_of = :id", id=owner) == 2
    assert one(connection, "SELECT count(*) FROM chunks") == 1


def test_the_same_content_in_another_project_or_tenant_is_no_duplicate(drain: Drain) -> None:
    submit([text_of("a.txt", "words")])
    submit([text_of("a.txt", "words")], project="p")
    submit([text_of("a.txt", "words")], tenant="other")
    assert drain() == {"completed": 3}


def test_the_oldest_duplicate_inherits_and_reuses_the_vectors(drain: Drain, connection: Connection) -> None:
    for name in ("a.txt", "b.txt", "c.txt"):
        submit([text_of(name, paragraphs(3))])
        drain()
    assert delete(["a.txt"]) == 1
    assert drain() == {"completed": 1}
    heir = find(["b.txt"])[0]
    assert heir.status == "completed"
    stored = row(connection, heir.document_id)
    assert (stored.chunks_embedded, stored.chunks_reused) == (0, stored.total_chunks)
    assert find(["c.txt"])[0].duplicate_of == heir.document_id


def test_an_edited_owner_leaves_its_content_to_its_duplicate(drain: Drain, connection: Connection) -> None:
    submit([text_of("a.txt", "first words")])
    drain()
    submit([text_of("b.txt", "first words")])
    drain()
    submit([text_of("a.txt", "other words")])
    assert drain() == {"completed": 2}
    assert live_texts(connection, find(["b.txt"])[0].document_id) == ["first words"]
    assert live_texts(connection, find(["a.txt"])[0].document_id) == ["other words"]


def test_two_documents_that_swap_contents_both_complete(drain: Drain, connection: Connection) -> None:
    submit([text_of("a.txt", "words of a"), text_of("b.txt", "words of b")])
    drain()
    submit([text_of("a.txt", "words of b"), text_of("b.txt", "words of a")])
    drain()
    assert [found.status for found in find(["a.txt", "b.txt"])] == ["completed", "completed"]
    assert live_texts(connection, find(["a.txt"])[0].document_id) == ["words of b"]
    assert live_texts(connection, find(["b.txt"])[0].document_id) == ["words of a"]


def test_a_duplicate_of_a_document_that_fails_is_processed_itself(
    drain: Drain, connection: Connection, tmp_path: Path
) -> None:
    file = tmp_path / "a.txt"
    file.write_text("shared words")
    submit([Document.path(file)])
    drain()
    submit([text_of("twin.txt", "shared words")])
    drain()
    file.unlink()
    delete([str(file)])
    drain()
    assert find(["twin.txt"])[0].status == "completed"


# -- edits ----------------------------------------------------------------------------------------


def test_an_edit_embeds_only_new_text_and_keeps_the_other_rows(drain: Drain, connection: Connection) -> None:
    before = paragraphs(30).split("\n\n")
    (document_id,) = submit([text_of("a.md", "\n\n".join(before))]).new
    drain()
    kept = set(one(connection, "SELECT array_agg(chunk_id::text || xmin::text) FROM chunks"))
    edited = [*before[:15], "A paragraph of new words. " * 30, *before[16:]]
    submit([text_of("a.md", "\n\n".join(edited))])
    assert drain() == {"completed": 1}
    stored = row(connection, document_id)
    after = set(one(connection, "SELECT array_agg(chunk_id::text || xmin::text) FROM chunks"))
    assert "".join(live_texts(connection, document_id)) == "\n\n".join(edited)
    assert stored.chunks_embedded == len(after - kept) <= 4
    assert stored.chunks_embedded + stored.chunks_reused == stored.total_chunks == len(after)


def test_an_edit_during_processing_is_not_lost(
    resources: Resources, drain: Drain, connection: Connection
) -> None:
    (document_id,) = submit([text_of("a.txt", "first version")]).new
    batch_id = one(connection, "SELECT batch_id FROM batches")

    def edit_meanwhile(_done: int, _total: int) -> None:
        submit([text_of("a.txt", "second version")])

    assert ingest_batch(resources, batch_id, "test", report=edit_meanwhile) == {}
    stored = row(connection, document_id)
    assert (stored.status, stored.requested_version, stored.fingerprint) == ("pending", 2, None)
    assert drain() == {"completed": 1}
    assert live_texts(connection, document_id) == ["second version"]


def test_a_failed_edit_keeps_the_old_chunks_and_says_so(
    drain: Drain, connection: Connection, tmp_path: Path
) -> None:
    file = tmp_path / "a.txt"
    file.write_text("good words")
    (document_id,) = submit([Document.path(file)]).new
    drain()
    file.write_text("newer words")
    document = Document.path(file)
    file.unlink()
    submit([document])
    assert drain() == {"failed": 1}
    stored = row(connection, document_id)
    assert (stored.error_code, stored.status) == ("not_found", "failed")
    assert stored.error_message.endswith("the version before stays searchable")
    assert live_texts(connection, document_id) == ["good words"]


def test_an_edit_to_nothing_takes_the_chunks_away(drain: Drain, connection: Connection) -> None:
    (document_id,) = submit([text_of("a.txt", "good words")]).new
    drain()
    submit([text_of("a.txt", "   \n")])
    assert drain() == {"skipped": 1}
    assert (row(connection, document_id).error_code, live_texts(connection, document_id)) == (
        "whitespace",
        [],
    )


def test_old_and_new_chunks_are_never_both_visible_nor_neither(
    resources: Resources, drain: Drain, connection: Connection
) -> None:
    (document_id,) = submit([text_of("a.txt", "old words")]).new
    drain()
    submit([text_of("a.txt", "new words")])
    batch_id = one(connection, "SELECT batch_id FROM batches WHERE state = 'queued'")
    seen: list[list[str]] = []
    ingest_batch(
        resources, batch_id, "test", report=lambda *_: seen.append(live_texts(connection, document_id))
    )
    assert seen == [["old words"]]
    assert live_texts(connection, document_id) == ["new words"]


# -- bad documents --------------------------------------------------------------------------------


def test_bad_documents_fail_alone_with_their_own_errors(
    drain: Drain, connection: Connection, tmp_path: Path, settings: Any
) -> None:
    outside = tmp_path.parent / f"{tmp_path.name}-outside.txt"
    outside.write_text("secret")
    (tmp_path / "fifo").mkdir()
    (tmp_path / "empty.txt").touch()
    (tmp_path / "blank.txt").write_text(" \n\t\n")
    (tmp_path / "picture.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(100))
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    (tmp_path / "link.txt").symlink_to(outside)
    os.mkfifo(tmp_path / "pipe")
    with (tmp_path / "huge.txt").open("wb") as huge:
        huge.truncate(settings.max_document_bytes + 1)
    (tmp_path / "good.txt").write_text("good words")
    expected = {
        tmp_path / "missing.txt": ("failed", "not_found"),
        outside: ("failed", "outside_roots"),
        tmp_path / "fifo": ("failed", "not_a_file"),
        tmp_path / "pipe": ("failed", "not_a_file"),
        tmp_path / "empty.txt": ("skipped", "empty"),
        tmp_path / "blank.txt": ("skipped", "whitespace"),
        tmp_path / "picture.png": ("skipped", "binary"),
        tmp_path / "loop": ("failed", "unreadable"),
        tmp_path / "link.txt": ("failed", "outside_roots"),
        tmp_path / "huge.txt": ("failed", "too_large"),
        tmp_path / "good.txt": ("completed", None),
    }
    submit([Document.found(path, 1, 1) for path in expected])
    drain()
    found = {
        Path(r.source_path): (r.status, r.error_code)
        for r in connection.execute(text("SELECT source_path, status, error_code FROM documents"))
    }
    assert found == expected


def test_odd_bytes_are_cleaned_and_counted(drain: Drain, connection: Connection) -> None:
    (document_id,) = submit([text_of("a.txt", b"a few words with a NUL \0 here and \xed\xa0\x80 there")]).new
    assert drain() == {"completed": 1}
    stored = row(connection, document_id)
    assert stored.cleaned == {"nul": 1, "surrogate": 1}
    assert live_texts(connection, document_id) == ["a few words with a NUL  here and \ufffd there"]


def test_a_name_that_is_not_utf8_is_kept_reversibly(
    drain: Drain, connection: Connection, tmp_path: Path
) -> None:
    file = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9 %41.txt"))
    file.write_text("some words")
    (document_id,) = submit([Document.path(file)]).new
    assert drain() == {"completed": 1}
    assert row(connection, document_id).source_path.endswith("/caf%E9%20%2541.txt")


def test_a_uri_is_read_only_when_its_scheme_is_allowed(settings: Any, connection: Connection) -> None:
    with fsspec.open("memory://box/a.txt", "w") as file:
        file.write("words in a box")
    submit(
        [
            Document.uri("memory://box/a.txt"),
            Document.uri("memory://box/none.txt"),
            Document.uri("nope://x/y"),
        ]
    )
    allowing = Resources(read_settings(allowed_uri_schemes="memory,nope", allowed_uri_hosts="box,x"))
    batch_id = one(connection, "SELECT batch_id FROM batches")
    assert ingest_batch(allowing, batch_id, "test") == {"completed": 1, "failed": 2}
    allowing.close()
    assert {found.error_code for found in find(["memory://box/none.txt", "nope://x/y"])} == {
        "not_found",
        "no_driver",
    }
    submit([Document.uri("memory://box/b.txt")])


def test_a_scheme_that_is_not_allowed_fails_its_document(drain: Drain) -> None:
    submit([Document.uri("s3://bucket/a.txt")])
    assert drain() == {"failed": 1}
    assert find(["s3://bucket/a.txt"])[0].error_code == "scheme_not_allowed"


def test_rows_that_postgresql_refuses_fail_alone(drain: Drain, connection: Connection) -> None:
    connection.execute(text("ALTER TABLE chunks ADD CONSTRAINT no_storms CHECK (text NOT LIKE '%storm%')"))
    submit([text_of("a.txt", "calm seas"), text_of("b.txt", "a storm"), text_of("c.txt", "fair wind")])
    assert drain() == {"completed": 2, "failed": 1}
    stored = find(["b.txt"])[0]
    assert stored.error_code == "write_refused"
    assert "no_storms" in stored.error_message


FORBIDDEN = """
    CREATE TABLE forbidden AS SELECT 1 AS so;
    CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        IF EXISTS (SELECT FROM forbidden) THEN
            RAISE insufficient_privilege USING MESSAGE = 'permission denied for table chunks_s000001';
        END IF; RETURN NEW; END $$;
    CREATE TRIGGER refuse BEFORE INSERT ON chunks_s000001 FOR EACH ROW EXECUTE FUNCTION refuse()"""


def test_a_right_that_is_taken_away_for_a_while_fails_no_document(
    resources: Resources, connection: Connection
) -> None:
    connection.execute(text(FORBIDDEN))
    submit([text_of("a.txt", "calm seas"), text_of("b.txt", "fair wind")])
    refused: list[int] = []

    def give_back(_: Connection) -> None:
        refused.append(connection.execute(text("DELETE FROM forbidden")).rowcount)

    event.listen(resources.engine, "rollback", give_back)
    batch_id = one(connection, "SELECT batch_id FROM batches")
    assert ingest_batch(resources, batch_id, "test") == {"completed": 2}
    assert sum(refused) == 1  # a renewal that comes after the batch is over is rolled back, too


# -- the producer's own chunks and vectors --------------------------------------------------------


def test_given_vectors_are_stored_as_given_and_missing_ones_made(
    drain: Drain, connection: Connection
) -> None:
    vector = [float(n % 7) for n in range(256)]
    chunks = [GivenChunk("one", vector, ("A", "B"), {"page": 1}), GivenChunk("two")]
    (document_id,) = submit([Document.chunks(chunks, source_path="mine")]).new
    assert drain() == {"completed": 1}
    assert one(connection, "SELECT embedding::text FROM chunks WHERE text = 'one'") == (
        "[" + ",".join(str(n % 7) for n in range(256)) + "]"
    )
    assert one(connection, "SELECT metadata FROM chunks WHERE text = 'one'") == {"page": 1}
    assert row(connection, document_id).chunks_embedded == 1
    assert submit([Document.chunks(chunks, source_path="mine")]).unchanged == 1


@pytest.mark.parametrize(
    ("vector", "code"),
    [([1.0] * 255, "vector_dimension"), ([0.0] * 256, "vector_zero"), ([1e39] * 256, "vector_not_finite")],
)
def test_a_bad_vector_fails_its_document_and_no_other(drain: Drain, vector: list[float], code: str) -> None:
    bad = Document.chunks([GivenChunk("words", vector)], source_path="bad")
    submit([text_of("good.txt", "good words"), bad])
    assert drain() == {"completed": 1, "failed": 1}
    assert find(["bad"])[0].error_code == code


# -- taken back -----------------------------------------------------------------------------------


def test_deleted_documents_come_back_with_their_chunks(drain: Drain, connection: Connection) -> None:
    (document_id,) = submit([text_of("a.txt", paragraphs(3))]).new
    drain()
    before = live_texts(connection, document_id)
    assert delete(["a.txt"]) == 1
    assert live_texts(connection, document_id) == []
    assert delete(["a.txt"]) == 0
    assert restore(["a.txt"]) == 1
    assert live_texts(connection, document_id) == before
    assert drain() == {}


def test_a_restored_document_whose_content_has_an_owner_becomes_its_duplicate(
    drain: Drain, connection: Connection
) -> None:
    submit([text_of("a.txt", "the words")])
    drain()
    delete(["a.txt"])
    submit([text_of("b.txt", "the words")])
    drain()
    assert restore(["a.txt"]) == 1
    assert drain() == {"duplicate": 1}
    assert one(connection, "SELECT count(*) FROM chunks") == 1


def test_a_path_taken_by_a_newer_document_is_not_restored(drain: Drain) -> None:
    submit([text_of("a.txt", "old words")])
    drain()
    delete(["a.txt"])
    submit([text_of("a.txt", "new words")])
    drain()
    assert restore([find(["a.txt"])[1].document_id]) == 0


def test_a_document_deleted_during_processing_leaves_no_chunks(
    resources: Resources, connection: Connection, drain: Drain
) -> None:
    (document_id,) = submit([text_of("a.txt", "some words")]).new
    batch_id = one(connection, "SELECT batch_id FROM batches")
    ingest_batch(resources, batch_id, "test", report=lambda *_: void(delete([document_id])))
    assert live_texts(connection, document_id) == []
    assert restore([document_id]) == 1
    assert drain() == {"completed": 1}


def test_cancelled_documents_stay_where_they_are_until_retried(
    resources: Resources, connection: Connection, drain: Drain
) -> None:
    submit([text_of("a.txt", "words of a"), text_of("b.txt", "words of b")])
    batch_id = one(connection, "SELECT batch_id FROM batches")
    assert cancel(["a.txt"]) == 1
    assert ingest_batch(resources, batch_id, "test", report=lambda *_: void(cancel())) == {}
    assert {found.status for found in find(["a.txt", "b.txt"])} == {"cancelled"}
    assert retry() == 2
    assert drain() == {"completed": 2}


def test_stopping_hands_back_uncharged_what_is_not_done(resources: Resources, connection: Connection) -> None:
    submit([text_of(f"{n}.txt", paragraphs(2, f"word{n}")) for n in range(5)])
    batch_id = one(connection, "SELECT batch_id FROM batches")
    assert ingest_batch(resources, batch_id, "test", stopping=lambda: True) == {}
    assert one(connection, "SELECT count(*) FROM documents WHERE status = 'pending' AND attempts = 0") == 5
    assert one(connection, "SELECT state FROM batches") == "finished"


# -- fences ---------------------------------------------------------------------------------------


def test_a_batch_is_claimed_once(resources: Resources, connection: Connection) -> None:
    submit([text_of("a.txt", "words")])
    batch_id = one(connection, "SELECT batch_id FROM batches")
    assert ingest_batch(resources, batch_id, "test") == {"completed": 1}
    assert ingest_batch(resources, batch_id, "test") is None
    assert ingest_batch(resources, UUID(int=0), "test") is None


def test_no_write_without_the_lease(resources: Resources, connection: Connection) -> None:
    from worker.errors import LeaseLostError

    (document_id,) = submit([text_of("a.txt", "words")]).new
    batch_id = one(connection, "SELECT batch_id FROM batches")

    def rescue_meanwhile(_done: int, _total: int) -> None:
        connection.execute(text("UPDATE batches SET lease_token = gen_random_uuid()"))

    with pytest.raises(LeaseLostError):
        ingest_batch(resources, batch_id, "test", report=rescue_meanwhile)
    assert live_texts(connection, document_id) == []
    assert row(connection, document_id).status == "processing"


def test_no_connection_is_held_while_documents_are_worked_on(
    resources: Resources, connection: Connection
) -> None:
    submit([text_of("a.txt", "words")])
    batch_id = one(connection, "SELECT batch_id FROM batches")
    held: list[int] = []
    ingest_batch(
        resources,
        batch_id,
        "test",
        report=lambda *_: held.append(resources.engine.pool.checkedout()),  # type: ignore[attr-defined]
    )
    assert held == [1]  # the test's own


def test_interactive_goes_first_and_tenants_take_turns(resources: Resources, connection: Connection) -> None:
    for tenant in ("a", "b", "c"):
        submit([text_of(f"{n}", f"words {n}") for n in range(600)], tenant=tenant)
    submit([text_of("urgent", "urgent words")], tenant="a", lane=Lane.INTERACTIVE)
    order: list[str] = []
    while found := connection.execute(
        text(
            "SELECT b.batch_id, b.lane, t.name FROM batches b JOIN tenants t USING (tenant_id)"
            " WHERE b.state = 'queued' ORDER BY b.lane DESC, b.created_at LIMIT 1"
        )
    ).one_or_none():
        order.append(found.name if found.lane == "bulk" else "interactive")
        ingest_batch(resources, found.batch_id, "test")
        dispatch(resources)
    assert order[0] == "interactive"
    rounds = [set(order[n : n + 3]) for n in range(2, 8, 3)]
    assert all(len(turn) >= 2 for turn in rounds)
    assert sorted(set(order)) == ["a", "b", "c", "interactive"]


def test_a_document_without_chunks_is_skipped(drain: Drain) -> None:
    submit([Document.chunks([], source_path="none")])
    assert drain() == {"skipped": 1}


# -- what a review found ----------------------------------------------------------------------------


def test_a_vanished_file_whose_name_is_not_utf8_fails_once_and_for_all(
    drain: Drain, connection: Connection, tmp_path: Path
) -> None:
    gone = Path(os.fsdecode(os.fsencode(tmp_path) + b"/gone\xe9.txt"))
    submit([Document.found(gone, 1, 1), text_of("a.txt", "good words")])
    assert drain() == {"completed": 1, "failed": 1}
    assert one(connection, "SELECT error_code FROM documents WHERE status = 'failed'") == "not_found"


def test_files_that_swap_contents_in_a_batch_keep_both_chunk_sets(
    resources: Resources, drain: Drain, connection: Connection
) -> None:
    submit([text_of("a.txt", "words of a"), text_of("b.txt", "words of b")])
    drain()
    submit([text_of("a.txt", "words of b"), text_of("b.txt", "words of a")])
    batch_id = one(connection, "SELECT batch_id FROM batches WHERE state = 'queued'")
    assert ingest_batch(resources, batch_id, "test") == {"completed": 2}
    assert one(connection, "SELECT sum(chunks_embedded) FROM documents") == 0


def test_a_duplicate_of_a_document_that_changed_meanwhile_is_processed_again(
    resources: Resources, drain: Drain, connection: Connection
) -> None:
    submit([text_of("owner.txt", "first words")])
    drain()
    submit([text_of("twin.txt", "first words"), text_of("other.txt", "other words")])
    batch_id = one(connection, "SELECT batch_id FROM batches WHERE state = 'queued'")

    def the_owner_changes(_done: int, _total: int) -> None:
        submit([text_of("owner.txt", "second words")])
        found = connection.execute(text("SELECT batch_id FROM batches WHERE state = 'queued'"))
        for other in found.scalars().all():
            ingest_batch(resources, other, "another")

    assert ingest_batch(resources, batch_id, "test", report=the_owner_changes) == {"completed": 1}
    assert drain() == {"completed": 1}
    assert live_texts(connection, find(["twin.txt"])[0].document_id) == ["first words"]


def test_a_document_deleted_while_pending_comes_back_as_a_duplicate_of_its_contents_new_owner(
    drain: Drain, connection: Connection
) -> None:
    (document_id,) = submit([text_of("a.txt", "the words")]).new
    drain()
    submit([text_of("a.txt", "newer words")])
    delete([document_id])
    submit([text_of("b.txt", "the words")])
    drain()
    assert restore([document_id]) == 1
    assert drain() == {"completed": 1}
    assert live_texts(connection, document_id) == ["newer words"]


def test_files_that_grew_are_read_up_to_the_bytes_of_a_batch(
    drain: Drain, connection: Connection, tmp_path: Path, resources: Resources
) -> None:
    files = [tmp_path / f"{n}.txt" for n in range(4)]
    for n, file in enumerate(files):
        file.write_text(f"word{n} " * 10_000)
    small = Resources(read_settings(batch_bytes=100_000))
    submit([Document.found(file, 1, 1) for file in files])
    batch_id = one(connection, "SELECT batch_id FROM batches")
    assert ingest_batch(small, batch_id, "test") == {"completed": 2}
    small.close()
    assert one(connection, "SELECT count(*) FROM documents WHERE status = 'pending' AND attempts = 0") == 2
    assert drain() == {"completed": 2}


class Storms(MemoryFileSystem):  # type: ignore[misc] # untyped
    """A storage that is away. What is in `meanwhile` is submitted while it is asked."""

    protocol = "storms"
    meanwhile: ClassVar[list[Document]] = []

    def _open(self, *_: Any, **__: Any) -> Any:
        if self.meanwhile:
            submit([self.meanwhile.pop()])
        raise OSError(errno.EIO, "a storm")


@pytest.fixture
def storms() -> None:
    """Have it found by its name; another test imports from here, under another name of this module."""
    fsspec.register_implementation("storms", Storms, clobber=True)


@pytest.mark.usefixtures("storms")
def test_an_edit_does_not_wait_for_the_pause_of_the_version_before_it(
    connection: Connection,
) -> None:
    (document_id,) = submit([Document.uri("storms://atlantic/a.txt")]).new
    batch_id = one(connection, "SELECT batch_id FROM batches")
    Storms.meanwhile.append(Document.uri("storms://atlantic/a.txt", metadata={"edited": True}))
    reading = Resources(read_settings(allowed_uri_schemes=("storms",), allowed_uri_hosts="atlantic"))
    assert ingest_batch(reading, batch_id, "test") == {}
    reading.close()
    stored = row(connection, document_id)
    assert (stored.status, stored.next_attempt_at, stored.error_code) == ("pending", None, None)


@pytest.mark.usefixtures("storms")
def test_a_passing_trouble_is_tried_again_later_and_ends_when_attempts_are_used_up(
    connection: Connection,
) -> None:
    (document_id,) = submit([Document.uri("storms://atlantic/a.txt")]).new
    impatient = Resources(
        read_settings(max_attempts=2, allowed_uri_schemes=("storms",), allowed_uri_hosts="atlantic")
    )
    for attempt in (1, 2):
        batch_id = one(connection, "SELECT batch_id FROM batches WHERE state = 'queued'")
        ingest_batch(impatient, batch_id, "test")
        stored = row(connection, document_id)
        assert stored.attempts == attempt
        connection.execute(text("UPDATE documents SET queued_at = now()"))
        dispatch(impatient)
    assert (stored.status, stored.error_code) == ("failed", "source_unavailable")
    assert "after 2 attempts" in stored.error_message
    impatient.close()


class Body(bytearray):
    """What came of a document before it was cut off."""


def test_what_is_put_off_keeps_nothing_of_what_was_read(
    drain: Drain, monkeypatch: pytest.MonkeyPatch
) -> None:
    bodies: list[weakref.ref[Body]] = []
    left: list[int] = []

    def cut_off(*_: Any) -> bytes:
        left.append(sum(body() is not None for body in bodies))
        body = Body(10)
        bodies.append(weakref.ref(body))
        raise TransientError("source_unavailable", "cut off")

    monkeypatch.setattr(sources, "load", cut_off)
    submit([Document.text(f"{n} words", source_path=str(n)) for n in range(3)])
    drain()
    assert left == [0, 0, 0]


class Away:
    """An embedding provider that is away until it is back."""

    model = "away"
    back: Any = None

    def embed(self, texts: Any) -> Any:
        if self.back is None:
            raise TransientError("busy", "429: too many requests")
        return self.back.embed(texts)


def test_a_provider_that_is_away_holds_its_batch_up_and_costs_no_attempt(
    connection: Connection, resources: Resources
) -> None:
    submit([text_of(f"{name}.txt", f"words of {name}") for name in "ab"])
    patient = Resources(read_settings(max_attempts=1, retry_base_seconds=1, retry_max_seconds=1))
    model = patient.__dict__["embedder"] = Away()

    def is_told() -> bool:
        return bool(one(connection, "SELECT max(trouble) FROM batches"))

    assert (
        ingest_batch(patient, one(connection, "SELECT batch_id FROM batches"), "test", stopping=is_told) == {}
    )
    stored = connection.execute(text("SELECT status, attempts, error_code FROM documents")).all()
    assert [tuple(found) for found in stored] == [("pending", 0, None)] * 2
    assert one(connection, "SELECT max(trouble) FROM batches") is None
    model.back = resources.embedder
    dispatch(patient)
    batch_id = one(connection, "SELECT batch_id FROM batches WHERE state = 'queued'")
    assert ingest_batch(patient, batch_id, "test") == {"completed": 2}
    patient.close()


def test_a_batch_whose_time_went_by_while_the_provider_was_away_is_not_charged(
    connection: Connection,
) -> None:
    submit([text_of("a.txt", "words")])
    hurried = Resources(read_settings(max_attempts=1, task_soft_time_limit=1))
    hurried.__dict__["embedder"] = Away()
    assert ingest_batch(hurried, one(connection, "SELECT batch_id FROM batches"), "test") == {}
    hurried.close()
    assert (find(["a.txt"])[0].status, find(["a.txt"])[0].attempts) == ("pending", 0)


class SlowerThanABatchMay:
    """A model with a fault of ours, which says so of document a, alone, when the batch's time is up."""

    model = "slow"

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._first: float | None = None

    def embed(self, texts: Any) -> Any:
        first = self._first = self._first or time.monotonic()
        if texts == ["words of a"]:
            over = Retrying(wait=wait_fixed(0.01), retry=retry_if_result(lambda passed: not passed))
            over(lambda: time.monotonic() > first + self._seconds)  # the batch began before that
        if "words of a" in texts:
            raise ZeroDivisionError("a fault")


def test_a_batch_out_of_time_charges_what_it_tried_and_hands_back_the_rest(connection: Connection) -> None:
    submit([text_of(f"{name}.txt", f"words of {name}") for name in "abc"])
    hurried = Resources(read_settings(max_attempts=1, embedding_batch_size=2, task_soft_time_limit=1))
    hurried.__dict__["embedder"] = SlowerThanABatchMay(hurried.settings.task_soft_time_limit)
    # the group of a and b fails, a fails alone, then the time is up
    assert ingest_batch(hurried, one(connection, "SELECT batch_id FROM batches"), "test") == {"failed": 2}
    hurried.close()
    ended = connection.execute(
        text("""
            SELECT source_path, status, error_code, attempts, isolated, batch_id FROM documents
            ORDER BY source_path""")
    )
    assert [tuple(found) for found in ended] == [
        ("a.txt", "failed", "internal", 1, False, None),
        ("b.txt", "failed", "time_limit", 1, False, None),
        ("c.txt", "pending", None, 0, False, None),
    ]


class Breaks:
    """A model with a fault of ours: one text breaks it."""

    model = "breaks"

    def __init__(self, sound: Any) -> None:
        self._sound = sound

    def embed(self, texts: Any) -> Any:
        if any("storm" in item for item in texts):
            raise ZeroDivisionError("a fault")
        return self._sound.embed(texts)


def test_a_fault_of_ours_fails_the_document_it_belongs_to(
    connection: Connection, resources: Resources
) -> None:
    submit([text_of("a.txt", "calm seas"), text_of("b.txt", "a storm"), text_of("c.txt", "fair wind")])
    broken = Resources(read_settings())
    broken.__dict__["embedder"] = Breaks(resources.embedder)
    batch_id = one(connection, "SELECT batch_id FROM batches")
    assert ingest_batch(broken, batch_id, "test") == {"completed": 2, "failed": 1}
    broken.close()
    assert find(["b.txt"])[0].error_code == "internal"


def test_a_tenant_whose_documents_are_locked_does_not_stop_the_lane(
    resources: Resources, connection: Connection
) -> None:
    submit([text_of("a.txt", "words")], tenant="a")
    connection.execute(text("DELETE FROM batches USING documents d WHERE false"))
    connection.execute(text("UPDATE documents SET batch_id = NULL"))
    connection.execute(text("DELETE FROM batches"))
    submit([text_of("a.txt", "words")], tenant="b")
    connection.execute(text("UPDATE documents SET batch_id = NULL"))
    connection.execute(text("DELETE FROM batches"))
    connection.execute(text("UPDATE tenants SET bulk_served_at = NULL"))
    with resources.engine.connect() as holder:
        holder.execute(
            text(
                "SELECT 1 FROM documents d NATURAL JOIN (SELECT tenant_id FROM tenants WHERE name = 'a') t"
                " FOR UPDATE OF d"
            )
        )
        assert dispatch(resources) == 1
        holder.rollback()
