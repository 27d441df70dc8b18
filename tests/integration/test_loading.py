"""Documents that bring their vectors: stored whole or not at all, told apart by content, each once."""

import weakref
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from uuid import UUID

import numpy as np
import pytest
from numpy.typing import NDArray
from sqlalchemy import Connection, text

from tests.integration.test_maintenance import value
from worker import (
    Document,
    GivenChunk,
    GivenDocument,
    Loaded,
    delete,
    load,
    loading,
    restore,
    retry,
    status,
    submit,
)
from worker.db import batches, documents, duplicates, segments
from worker.db.engine import transaction
from worker.dispatch import dispatch
from worker.maintenance.run import run_chore
from worker.queries import read_query
from worker.resources import Resources
from worker.searching import search
from worker.settings import Settings, load_settings
from worker.types import Status

DIMENSION = 256
Drain = Callable[[], dict[str, int]]
Vectors = NDArray[np.float32]


@pytest.fixture
def environment() -> dict[str, str]:
    return {"EMBEDDING_PROVIDER": "none", "BUILD_WORKERS": "0"}


def vectors(count: int, seed: int = 0) -> Vectors:
    return np.random.default_rng(seed).standard_normal((count, DIMENSION)).astype(np.float32)


def given(name: str, chunks: int = 3, seed: int = 0, **metadata: Any) -> GivenDocument:
    """A document whose texts and vectors depend on `seed` alone."""
    cut = [GivenChunk(f"chunk {n} of {seed}", vector) for n, vector in enumerate(vectors(chunks, seed))]
    return GivenDocument(name, cut, metadata)


def rows(connection: Connection, statement: str, **parameters: Any) -> list[Any]:
    return list(connection.execute(text(statement), parameters).all())


def stored(connection: Connection) -> set[tuple[str, str]]:
    visible = segments.in_list(segments.visible(connection))
    found = rows(
        connection,
        f"""SELECT d.source_path, c.text FROM chunks c JOIN documents d USING (document_id)
            WHERE segment IN ({visible}) AND d.deleted_at IS NULL""",
    )
    assert len(found) == len(set(found)), "a chunk twice"
    return {(row.source_path, row.text) for row in found}


def chunks_of(*documents: GivenDocument) -> set[tuple[str, str]]:
    return {(document.source_path, chunk.text) for document in documents for chunk in document.chunks}


def outcomes(connection: Connection) -> dict[str, tuple[str, str | None]]:
    found = rows(connection, "SELECT source_path, status, error_code FROM documents WHERE deleted_at IS NULL")
    return {row.source_path: (row.status, row.error_code) for row in found}


def test_what_is_loaded_is_complete_and_found(connection: Connection, resources: Resources) -> None:
    documents = [given(f"d{n}", 4, n, year=2000 + n) for n in range(5)]
    heard: list[Loaded] = []
    done = load(iter(documents), tenant="acme", progress=heard.append)
    assert done == Loaded(completed=5, chunks=20) == sum(heard, Loaded())
    assert stored(connection) == chunks_of(*documents)
    recorded = rows(
        connection,
        """SELECT status, total_chunks, chunks_embedded, content, metadata, attempts, batch_id, file_type
           FROM documents ORDER BY source_path""",
    )
    assert [tuple(row) for row in recorded] == [
        ("completed", 4, 0, None, {"year": 2000 + n}, 0, None, "chunks") for n in range(5)
    ]
    assert value(connection, "SELECT count(*) FROM batches WHERE state <> 'finished'") == 0
    wanted = read_query(tenant="acme", k=1, vector=vectors(4, 3)[2].tolist())
    (hit,) = search(resources, wanted).hits
    assert (hit.source_path, hit.number, hit.total, hit.text) == ("d3", 3, 4, "chunk 2 of 3")
    assert hit.score == pytest.approx(1)


def test_loading_again_writes_nothing(connection: Connection) -> None:
    documents = [given(f"d{n}", 4, n) for n in range(5)]
    load([*documents, given("copy", 4, 0)])
    written = "SELECT document_id::text, xmin::text FROM documents ORDER BY 1"
    before = rows(connection, written)
    assert load([*documents, given("copy", 4, 0)]) == Loaded(unchanged=6)
    assert rows(connection, written) == before
    assert value(connection, "SELECT count(*) FROM batches") == 1


def test_the_same_by_submission_is_the_same(connection: Connection, drain: Drain) -> None:
    one = given("d", 3, 1)
    submit([Document.chunks(one.chunks, source_path="d")])
    assert drain() == {"completed": 1}
    assert load([one]) == Loaded(unchanged=1)
    assert load([given("twin", 3, 1)]) == Loaded(duplicate=1)
    exact = [GivenChunk(c.text, list(map(float, v))) for c, v in zip(one.chunks, vectors(3, 1), strict=True)]
    assert load([GivenDocument("d", exact)]) == Loaded(unchanged=1), "a list is what an array is"


def test_an_edit_writes_only_what_changed(connection: Connection) -> None:
    first = given("d", 6, 1)
    load([first])
    before = dict(rows(connection, "SELECT text, chunk_id FROM chunks WHERE segment >= 0"))
    edited = GivenDocument("d", [*first.chunks[:2], GivenChunk("new", vectors(1, 9)[0]), *first.chunks[3:]])
    assert load([edited]) == Loaded(completed=1, chunks=6)
    after = dict(rows(connection, "SELECT text, chunk_id FROM chunks WHERE segment >= 0"))
    assert stored(connection) == chunks_of(edited)
    assert {t for t in after if after[t] != before.get(t)} == {"new"}
    assert load([GivenDocument("d", edited.chunks, {"k": 1})]) == Loaded(unchanged=1)
    assert value(connection, "SELECT metadata FROM documents") == {"k": 1}


def test_a_duplicate_takes_its_owners_place(connection: Connection, drain: Drain) -> None:
    done = load([given("owner", 3, 1), given("twin", 3, 1), given("other", 3, 2)])
    assert done == Loaded(completed=2, duplicate=1, chunks=6)
    assert stored(connection) == chunks_of(given("owner", 3, 1), given("other", 3, 2))
    delete(["owner"])
    assert drain() == {"completed": 1}
    assert stored(connection) == chunks_of(given("twin", 3, 1), given("other", 3, 2))
    assert load([given("twin", 3, 1)]) == Loaded(unchanged=1)
    assert load([given("third", 3, 1)]) == Loaded(duplicate=1)


def test_contents_that_change_places(connection: Connection, drain: Drain) -> None:
    load([given("a", 3, 1), given("b", 3, 2)])
    swapped = [given("a", 3, 2), given("b", 3, 1)]
    assert load(swapped) == Loaded(completed=2, chunks=6)
    assert stored(connection) == chunks_of(*swapped)
    load([given("a", 3, 3), given("b", 3, 3), given("c", 3, 2)])
    drain()
    assert stored(connection) == chunks_of(given("a", 3, 3), given("c", 3, 2))
    assert outcomes(connection)["b"] == ("duplicate", None)


BAD = {
    "short": ([0.5] * 3, "vector_dimension"),
    "nan": ([float("nan")] * DIMENSION, "vector_not_finite"),
    "infinite": ([float("inf")] * DIMENSION, "vector_not_finite"),
    "too large": ([1e39] * DIMENSION, "vector_not_finite"),
    "too long": ([1e30] * DIMENSION, "vector_not_finite"),
    "zero": ([0.0] * DIMENSION, "vector_zero"),
    "missing": (None, "vector_missing"),
    "words": (["a"] * DIMENSION, "vector_dimension"),
}


def bad(name: str, vector: Any) -> GivenDocument:
    good = given(name, 2, 77)
    return GivenDocument(name, [good.chunks[0], GivenChunk("bad", vector), good.chunks[1]])


def test_what_cannot_be_stored_fails_alone(connection: Connection) -> None:
    neighbours = [given("before", 2, 1), given("after", 2, 2)]
    broken = [bad(name, vector) for name, (vector, _) in BAD.items()]
    done = load([neighbours[0], *broken, GivenDocument("empty", []), bad("", [1.0]), neighbours[1]])
    assert (done.completed, done.failed, done.skipped, done.refused) == (2, len(BAD), 1, 1)
    assert stored(connection) == chunks_of(*neighbours)
    assert outcomes(connection) == {
        "before": ("completed", None),
        "after": ("completed", None),
        "empty": ("skipped", "empty"),
        **{name: ("failed", code) for name, (_, code) in BAD.items()},
    }
    assert {path for path, _ in done.reasons} == {*BAD, "empty", ""}
    mended = given("zero", 2, 5)
    assert load([mended]) == Loaded(completed=1, chunks=2)


def test_a_failed_edit_leaves_what_was_there(connection: Connection) -> None:
    load([given("d", 3, 1)])
    assert load([bad("d", [1.0])]).failed == 1
    assert stored(connection) == chunks_of(given("d", 3, 1))
    assert outcomes(connection) == {"d": ("failed", "vector_dimension")}
    assert load([given("d", 3, 1)]) == Loaded(unchanged=1)
    assert outcomes(connection) == {"d": ("completed", None)}


def test_retrying_a_failed_load_says_to_load_again(drain: Drain, connection: Connection) -> None:
    load([bad("d", [1.0])])
    retry(["d"])
    assert drain() == {"failed": 1}
    assert outcomes(connection) == {"d": ("failed", "not_kept")}


def test_a_document_that_is_being_processed_is_taken_over(
    connection: Connection, resources: Resources, drain: Drain
) -> None:
    submit([Document.text("an older text", source_path="d"), Document.text("x", source_path="other")])
    dispatch(resources)
    batch_id: UUID = value(connection, "SELECT batch_id FROM batches")
    with transaction(resources.engine) as claiming:
        assert batches.claim(claiming, batch_id, "w", 60)
        assert len(documents.start(claiming, batch_id)) == 2
    assert load([given("d", 3, 1)]) == Loaded(completed=1, chunks=3)
    assert value(connection, "SELECT batch_id IS NULL FROM documents WHERE source_path = 'd'")
    with transaction(resources.engine) as finishing:
        standing = documents.lock_current(
            finishing,
            batch_id,
            [row.document_id for row in rows(finishing, "SELECT document_id FROM documents")],
        )
    assert len(standing.current) == 1, "the worker's outcome for the loaded one is dropped"


def test_two_loads_of_the_same_at_once(connection: Connection) -> None:
    documents = [given(f"d{n % 40}", 3, n % 30) for n in range(40)]
    with ThreadPoolExecutor(2) as pool:
        one, other = (pool.submit(load, list(documents)) for _ in range(2))
    both = one.result() + other.result()
    assert both.completed == 30
    assert both.unchanged + both.duplicate + both.completed == 80
    assert (both.failed, both.refused) == (0, 0)
    assert stored(connection) == chunks_of(*documents[:30])


def test_one_that_comes_twice_is_refused_the_second_time(connection: Connection) -> None:
    def stream() -> Iterator[GivenDocument]:
        yield given("d", 3, 1)
        yield given("d", 3, 2)
        yield from (given(f"filler {n}", 500, n + 10) for n in range(5))  # over a slice's chunks
        yield given("d", 3, 3)

    done = load(stream())
    assert (done.completed, done.refused) == (6, 2)
    assert [path for path, _ in done.reasons] == ["d", "d"]
    assert {row for row in stored(connection) if row[0] == "d"} == chunks_of(given("d", 3, 1))
    again = load(stream())
    assert (again.unchanged, again.refused) == (6, 2)


def test_an_owner_whose_metadata_change_stays_the_owner(connection: Connection) -> None:
    load([given("q", 3, 1)])
    assert load([given("p", 3, 1), given("q", 3, 1, year=2026)]) == Loaded(duplicate=1, unchanged=1)
    assert outcomes(connection) == {"p": ("duplicate", None), "q": ("completed", None)}
    assert stored(connection) == chunks_of(given("q", 3, 1))


def test_duplicates_that_are_edited_with_their_owner(connection: Connection, drain: Drain) -> None:
    names = ("owner", "twin", "other twin")
    load([given(name, 3, 1) for name in names])
    edited = [given(name, 700, n) for n, name in enumerate(names, 10)]  # a slice each, nearly
    fillers = [given(f"filler {n}", 1500, n + 20) for n in range(2)]
    assert load([edited[0], fillers[0], edited[1], fillers[1], edited[2]]).completed == 5
    drain()
    assert stored(connection) == chunks_of(*edited, *fillers)


def test_contents_handed_on_in_a_slice_cost_one_transaction_more(
    connection: Connection, resources: Resources
) -> None:
    load([given("a", 3, 1), given("b", 3, 2)])
    before = value(connection, "SELECT count(*) FROM batches")
    # a becomes a duplicate of b, and what it owned is taken over by c
    done = load([given("a", 3, 2), given("c", 3, 1), *(given(f"d{n}", 1, n + 30) for n in range(20))])
    assert (done.completed, done.duplicate) == (21, 1)
    assert value(connection, "SELECT count(*) FROM batches") == before + 1
    assert stored(connection) >= chunks_of(given("b", 3, 2), given("c", 3, 1))


def test_an_owner_that_goes_away_in_between_is_noticed(
    connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    load([given("owner", 3, 1)])
    find = duplicates.owners_of
    went: list[int] = []

    def then_gone(*arguments: Any) -> Any:
        found = find(*arguments)
        if not went:
            went.append(delete(["owner"]))
        return found

    monkeypatch.setattr(duplicates, "owners_of", then_gone)
    assert load([given("d", 3, 1)]) == Loaded(completed=1, chunks=3)
    assert went == [1]
    assert stored(connection) == chunks_of(given("d", 3, 1))


def test_what_is_restored_when_its_content_is_anothers_can_inherit(
    connection: Connection, drain: Drain
) -> None:
    load([given("a", 3, 1)])
    delete(["a"])
    load([given("b", 3, 1)])
    restore(["a"])
    assert drain() == {"duplicate": 1}
    delete(["b"])
    assert drain() == {"completed": 1}
    assert stored(connection) == chunks_of(given("a", 3, 1))
    assert load([given("a", 3, 1)]) == Loaded(unchanged=1)


def test_where_sealing_sees_nothing_full_a_load_goes_on(
    resources: Resources, monkeypatch: pytest.MonkeyPatch
) -> None:
    # a producer with settings of its own, which the maintenance worker does not share
    narrow = Resources(resources.settings.model_copy(update={"segment_rows": 10, "max_unsealed_rows": 20}))
    monkeypatch.setattr(loading, "resources", lambda: narrow)
    done = load((given(f"d{n}", 700, n) for n in range(6)), held_up=lambda _: run_chore(resources, "seal"))
    narrow.close()
    assert done.completed == 6


def test_an_interrupted_load_goes_on_where_it_ended(connection: Connection) -> None:
    documents = [given(f"d{n}", 700, n) for n in range(9)]

    def cut(stream: Sequence[GivenDocument]) -> Iterator[GivenDocument]:
        yield from stream
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        load(cut(documents[:7]))
    there = {path for path, _ in stored(connection)}
    assert there == {f"d{n}" for n in range(6)}, "whole slices, of 2,048 chunks and what ends them"
    assert set(outcomes(connection).values()) == {("completed", None)}
    done = load(documents)
    assert (done.unchanged, done.completed) == (6, 3)
    assert stored(connection) == chunks_of(*documents)


def test_a_load_waits_while_too_much_is_unsealed(
    connection: Connection, resources: Resources, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SEGMENT_ROWS", "1000")
    monkeypatch.setenv("MAX_UNSEALED_ROWS", "2000")
    load_settings.cache_clear()
    mine = Resources(load_settings())
    heard: list[int] = []

    def held_up(why: str) -> None:
        heard.append(int(why.partition(" rows are not sealed yet")[0].replace(",", "")))
        run_chore(mine, "seal")

    monkeypatch.setattr(loading, "resources", lambda: mine)
    done = load((given(f"d{n}", 700, n) for n in range(9)), held_up=held_up)
    mine.close()
    assert done == Loaded(completed=9, chunks=6300)
    assert heard
    assert max(heard) <= 2000 + 2100
    assert status().counts[Status.COMPLETED] == 9


def test_a_slice_of_the_stream_is_in_memory(settings: Settings) -> None:
    alive: set[int] = set()
    most = 0

    def stream() -> Iterator[GivenDocument]:
        nonlocal most
        for n in range(60):
            document = given(f"d{n}", 200, n)
            for chunk in document.chunks:
                # the rows of one matrix: it lives as long as any of them
                matrix: Any = chunk.vector.base
            alive.add(n)
            weakref.finalize(matrix, alive.discard, n)
            del matrix, chunk
            most = max(most, len(alive))
            yield document

    done = load(stream())
    assert done.completed == 60
    assert most <= 2 * 11, "a slice of 2,048 chunks is 11 documents; the next is read while it is let go"
