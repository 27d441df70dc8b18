"""Chunks that were stored without a vector get one later, beside everything that may happen to them."""

import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any
from uuid import UUID

import numpy as np
import pytest
from pydantic import SecretStr
from sqlalchemy import Connection, text

from tests.integration.prepared import SENTENCES, SETTINGS, NewDatabase, drained, prepare, told
from tests.integration.test_maintenance import tell, value, values, wait_for
from worker import Document, GivenChunk, delete, restore, submit
from worker.db import segments, unembedded
from worker.db.engine import driver_url
from worker.db.grants import Role
from worker.db.logins import role_names
from worker.db.roles import make_roles
from worker.db.unembedded import Place
from worker.embedded import RunningValkey
from worker.embedding import Embedder
from worker.embedding.wordllama import WordLlamaEmbedder
from worker.errors import DocumentError, TransientError
from worker.maintenance import backfill
from worker.maintenance.run import run_chore
from worker.producer import find
from worker.queries import read_query
from worker.resources import Resources, close_resources
from worker.searching import search
from worker.settings import child_environment, load_settings
from worker.steps.vectors import Matrix

ROOT = Path(__file__).parents[2]

Drain = Callable[[], dict[str, int]]

NAMES = ("apples", "bridges", "clocks", "dolphins")


@pytest.fixture
def environment() -> dict[str, str]:
    return {**SETTINGS, "EMBEDDING_BATCH_SIZE": "3"}


def note(name: str, sentences: int = SENTENCES) -> Document:
    return Document.text(told(name, sentences), source_path=f"{name}.txt")


@pytest.fixture(scope="module")
def template(new_database: NewDatabase, template: str, valkey: RunningValkey) -> str:
    """Four documents of four chunks without vectors: two in a sealed segment, two in the open one."""
    notes = [note(name) for name in NAMES]
    return prepare(new_database(template), valkey, SETTINGS, [notes[:2], notes[2:]])


@pytest.fixture(scope="module")
def model() -> Embedder:
    """One for all tests: it takes a second to load."""
    return WordLlamaEmbedder()


@pytest.fixture
def stored(settings: object) -> dict[str, UUID]:
    return {name: find([f"{name}.txt"])[0].document_id for name in NAMES}


@pytest.fixture
def embedding(settings: object, model: Embedder, monkeypatch: pytest.MonkeyPatch) -> Iterator[Resources]:
    """The same database with a model: that of `submit`, too."""
    monkeypatch.setenv("EMBEDDING_PROVIDER", "wordllama")
    close_resources()
    load_settings.cache_clear()
    mine = Resources(load_settings())
    mine.__dict__["embedder"] = model
    yield mine
    mine.close()


def filled(resources: Resources) -> dict[str, Any]:
    return run_chore(resources, "backfill")


def ended(filled: int = 16, embedded: int = 16, waiting: int = 0, **more: Any) -> dict[str, Any]:
    nothing = {"refused": 0, "reason": "", "next": None}
    return {
        "outcome": "done", "filled": filled, "embedded": embedded, "waiting": waiting, **nothing, **more
    }  # fmt: skip


def rows(connection: Connection) -> list[tuple[Any, ...]]:
    """What is of a chunk wherever it is: all but its vector, its hash and where it stands."""
    found = connection.execute(
        text("""
            SELECT chunk_id, number, document_id, chunk_index, text, heading_path, metadata, created_at
            FROM chunks WHERE segment IN (SELECT segment FROM segments WHERE state IN ('open', 'sealed'))
            ORDER BY number""")
    )
    return [tuple(row) for row in found]


def found_by_vector(mine: Resources, words: str) -> list[str]:
    return [hit.filename for hit in search(mine, read_query(text=words, mode="vector", k=16)).hits]


def found_by_words(mine: Resources, words: str) -> list[str]:
    return [hit.text for hit in search(mine, read_query(text=words, mode="keyword", k=16)).hits]


# -- what it does ----------------------------------------------------------------------------------------


def test_every_chunk_gets_its_vector_and_stays_what_it_was(
    embedding: Resources, connection: Connection
) -> None:
    before = rows(connection)
    assert found_by_vector(embedding, "clocks") == []
    assert filled(embedding) == ended()
    assert rows(connection) == before
    assert values(connection, "SELECT DISTINCT segment FROM chunks") == [2], "no index was written"
    for name in NAMES:
        assert found_by_vector(embedding, f"Sentence 1 tells of {name}")[0] == f"{name}.txt"
        assert len(found_by_words(embedding, name)) == SENTENCES
    assert filled(embedding) == ended(0, 0)


def test_its_vectors_are_those_that_ingestion_gives(embedding: Resources, connection: Connection) -> None:
    filled(embedding)
    texts = values(connection, "SELECT text FROM chunks ORDER BY number")
    submit([Document.chunks([GivenChunk(text) for text in texts], source_path="again")])
    assert drained(embedding) == {"completed": 1}
    again = connection.execute(text("SELECT * FROM documents WHERE filename = 'again'")).one()
    assert (again.chunks_reused, again.chunks_embedded) == (16, 0)
    stored = values(connection, "SELECT embedding::text FROM chunks WHERE text = :t", t=texts[0])
    assert stored[0] == stored[1]
    computed = embedding.embedder.embed(texts[:1])
    assert computed is not None
    assert (
        value(connection, "SELECT CAST(CAST(:v AS vector) AS text)", v=str(computed[0].tolist())) == stored[0]
    )


def test_a_document_that_is_filled_counts_as_unchanged(embedding: Resources) -> None:
    filled(embedding)
    assert submit([note(name) for name in NAMES]).unchanged == len(NAMES)


def test_a_document_cut_by_other_settings_is_cut_anew_when_it_is_submitted_again(
    embedding: Resources, connection: Connection
) -> None:
    other = Resources(embedding.settings.model_copy(update={"chunk_size": 200}))
    before = values(connection, "SELECT fingerprint FROM documents ORDER BY document_id")
    assert filled(other) == ended()
    assert values(connection, "SELECT fingerprint FROM documents ORDER BY document_id") == before
    other.close()


def test_equal_texts_are_embedded_once_and_known_vectors_used_again(
    embedding: Resources, connection: Connection
) -> None:
    tell(connection, "UPDATE chunks SET text = 'the same words' WHERE chunk_index <= 2097152")
    assert filled(embedding) == ended(16, 9)  # of eight equal ones, one


def test_without_a_model_it_says_how_many_wait(
    resources: Resources, stored: object, connection: Connection
) -> None:
    assert filled(resources) == {"outcome": "done", "waiting": 16, "reason": "EMBEDDING_PROVIDER is none"}
    tell(connection, "DELETE FROM chunks")
    assert filled(resources) == {"outcome": "done", "waiting": 0, "reason": ""}


def test_a_dry_run_counts(embedding: Resources, connection: Connection) -> None:
    before = rows(connection)
    assert run_chore(embedding, "backfill", dry_run=True) == {"outcome": "dry run", "waiting": 16}
    assert rows(connection) == before
    assert value(connection, "SELECT count(*) FROM chunks WHERE embedding IS NULL") == 16


def test_chunks_in_the_trash_get_theirs_when_they_are_restored(
    embedding: Resources, stored: dict[str, UUID]
) -> None:
    delete([stored["apples"]])
    assert filled(embedding) == ended(12, 12)
    assert restore([stored["apples"]]) == 1
    assert filled(embedding) == ended(4, 4)
    assert submit([note("apples")]).unchanged == 1


# -- what is in its way ----------------------------------------------------------------------------------


class Model:
    """The model, which runs `meanwhile` each time it embeds, before it answers."""

    def __init__(self, mine: Resources, meanwhile: Callable[[int], object]) -> None:
        self.model, self._embed = mine.embedder.model, mine.embedder.embed
        self.calls, self._meanwhile = 0, meanwhile
        mine.__dict__["embedder"] = self

    def embed(self, texts: Sequence[str]) -> Matrix | None:
        self.calls += 1
        self._meanwhile(self.calls)
        return self._embed(texts)


def test_nothing_is_open_while_it_embeds(embedding: Resources, connection: Connection) -> None:
    opened: list[Any] = []

    def look(_call: int) -> None:
        opened.extend(
            values(
                connection,
                """SELECT query FROM pg_stat_activity WHERE datname = current_database()
                   AND pid <> pg_backend_pid() AND xact_start IS NOT NULL AND backend_type = 'client backend'
                """,
            )
        )
        assert embedding.engine.pool.checkedout() == 0  # type: ignore[attr-defined] # a QueuePool's

    model = Model(embedding, look)
    assert filled(embedding) == ended()
    assert (model.calls, opened) == (6, [])


def _edited(mine: Resources, _connection: Connection, _ids: dict[str, UUID]) -> int:
    assert len(submit([note("apples", 2)]).changed) == 1
    assert drained(mine) == {"completed": 1}
    return 12


def _deleted(_mine: Resources, _connection: Connection, ids: dict[str, UUID]) -> int:
    assert delete([ids["apples"]]) == 1
    return 12


def _restored(mine: Resources, connection: Connection, ids: dict[str, UUID]) -> int:
    _deleted(mine, connection, ids)
    assert restore([ids["apples"]]) == 1
    return 16


def _merged(mine: Resources, connection: Connection, _ids: dict[str, UUID]) -> int:
    tell(connection, "UPDATE segments SET sealed_rows = 100 WHERE state = 'sealed'")
    assert run_chore(mine, "compact")["rows_copied"] == 2 * SENTENCES
    return 16


@pytest.mark.parametrize("change", [_edited, _deleted, _restored, _merged])
def test_what_changes_while_it_embeds_is_left_as_it_is_then(
    change: Callable[..., int],
    embedding: Resources,
    stored: dict[str, UUID],
    connection: Connection,
) -> None:
    other = Resources(load_settings())
    other.__dict__["embedder"] = embedding.embedder
    expected: list[int] = []

    def change_once(call: int) -> None:
        if call == 1:
            expected.append(change(other, connection, stored))

    Model(embedding, change_once)
    # all are read before the change
    embedding.settings = embedding.settings.model_copy(update={"embedding_batch_size": 16})
    assert filled(embedding)["filled"] == expected[0]
    assert value(connection, "SELECT count(*) FROM chunks WHERE segment > 0 AND embedding IS NULL") == 0
    sets = values(
        connection,
        """SELECT count(*) - coalesce(d.total_chunks, 0) FROM documents d LEFT JOIN chunks c
           ON c.document_id = d.document_id AND c.segment IN (
               SELECT segment FROM segments WHERE state IN ('open', 'sealing', 'sealed'))
           WHERE d.deleted_at IS NULL GROUP BY d.document_id""",
    )
    assert set(sets) == {0}
    assert len(found_by_words(other, "tells")) == sum(
        values(connection, "SELECT total_chunks FROM documents WHERE deleted_at IS NULL")
    )
    other.close()


@pytest.mark.parametrize("moment", ["visible", "lock_open"])
def test_a_merge_between_two_looks_leaves_no_chunk_twice(
    moment: str, embedding: Resources, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    look = getattr(segments, moment)
    armed: list[bool] = []

    def look_and_be_late(asking: Connection) -> Any:
        found = look(asking)
        if armed:
            armed.clear()
            with pytest.MonkeyPatch.context() as undone:
                undone.setattr(segments, moment, look)
                _merged(embedding, connection, {})
        return found

    move = unembedded._move

    def armed_move(*arguments: Any) -> int:
        if not value(connection, "SELECT count(*) FROM maintenance_runs WHERE chore = 'compact'"):
            armed.append(True)
        return move(*arguments)

    monkeypatch.setattr(unembedded, "_move", armed_move)
    monkeypatch.setattr(segments, moment, look_and_be_late)
    before = rows(connection)
    assert filled(embedding) == ended()
    assert rows(connection) == before
    assert value(connection, "SELECT count(*) FROM maintenance_runs WHERE chore = 'compact'") == 1


def test_ingestion_comes_first_and_both_come_on(embedding: Resources) -> None:
    submit([note("elephants")])
    did = filled(embedding)
    assert (did["filled"], did["reason"]) == (3, "documents are being ingested")
    assert filled(embedding)["waiting"] == 10


def test_it_waits_for_room_until_its_time_is_up(
    embedding: Resources, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backfill, "MOST_SECONDS", 0)
    tell(connection, "ANALYZE")  # a copied database has no statistics, by which rows are counted
    full = Resources(embedding.settings.model_copy(update={"segment_rows": 1, "max_unsealed_rows": 2}))
    did = filled(full)
    assert did["filled"] == 0
    assert did["reason"].startswith("too many rows wait for their index")
    full.close()
    assert filled(embedding)["reason"] == "its time was up"


@pytest.mark.parametrize("error", [TransientError("busy", "503"), ConnectionRefusedError("no model there")])
def test_while_the_model_is_away_a_run_ends_and_the_next_goes_on(
    embedding: Resources, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    soon = {"retry_base_seconds": 1, "retry_max_seconds": 1}
    embedding.settings = embedding.settings.model_copy(update=soon)
    away = [True]

    def answer(call: int) -> None:
        if call >= 3 and away:
            raise error

    model = Model(embedding, answer)
    with monkeypatch.context() as bounded:
        bounded.setattr(backfill._Filling, "_is_over", lambda _run: model.calls >= 3)
        did = filled(embedding)
    assert did["filled"] == 6
    assert did["reason"].startswith("the embedding provider does not answer: ")
    assert str(error.args[-1]) in did["reason"]
    assert did["next"] is not None
    away.clear()
    assert filled(embedding) == ended(10, 10)
    assert embedding.trouble is None


@pytest.mark.parametrize("error", [DocumentError("refused", "400"), RuntimeError("400"), MemoryError()])
def test_a_text_at_which_the_model_fails_is_left_out_alone(embedding: Resources, error: Exception) -> None:
    embed = embedding.embedder.embed

    class Choosy:
        model = embedding.embedder.model

        def embed(self, texts: Sequence[str]) -> Matrix | None:
            if any("1 tells of clocks" in one for one in texts):
                raise error
            return embed(texts)

    embedding.__dict__["embedder"] = Choosy()
    assert filled(embedding) == ended(15, 16, waiting=1, refused=1)


def test_a_chunk_that_cannot_be_embedded_keeps_no_other_from_it(
    embedding: Resources, connection: Connection
) -> None:
    embed = embedding.embedder.embed
    nothing = np.zeros((1, 256), np.float32)

    class Odd:
        model = embedding.embedder.model

        def embed(self, texts: Sequence[str]) -> Matrix:
            found = [nothing if "1 tells of clocks" in one else embed([one]) for one in texts]
            return np.vstack([one for one in found if one is not None])

    embedding.__dict__["embedder"] = Odd()
    assert filled(embedding) == ended(15, 16, waiting=1, refused=1)
    assert filled(embedding) == ended(0, 1, waiting=1, refused=1)


def test_a_run_that_is_killed_is_gone_on_with(
    embedding: Resources, connection: Connection, other: Connection
) -> None:
    tell(other, "LOCK TABLE postings IN SHARE MODE; LOCK TABLE chunks_s000002 IN SHARE MODE")
    program = """
from worker.maintenance.run import run_chore
from worker.resources import resources
run_chore(resources(), "backfill")
"""
    killed = subprocess.Popen([sys.executable, "-c", program], cwd=ROOT, env=child_environment())
    mine = "datname = current_database() AND query LIKE '%UPDATE chunks c SET segment%'"
    wait_for(connection, f"EXISTS (SELECT 1 FROM pg_stat_activity WHERE {mine} AND wait_event_type = 'Lock')")
    killed.kill()
    killed.wait()
    theirs = "datname = current_database() AND application_name LIKE 'ingest%' AND pid <> pg_backend_pid()"
    tell(connection, f"SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity WHERE {theirs}")
    tell(other, "ROLLBACK")
    assert filled(embedding) == ended()


def following_first(asked: list[Place]) -> Callable[..., Any]:
    following = unembedded.following

    def ask(connection: Connection, after: Place, most: int) -> Any:
        asked.append(after)
        return following(connection, after, most)

    return ask


def test_it_goes_on_behind_the_chunk_where_it_stopped(
    embedding: Resources, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = value(connection, "SELECT min(document_id::text)::uuid FROM documents")
    tell(
        connection,
        """INSERT INTO maintenance_runs (chore, outcome, finished_at, details)
           VALUES ('backfill', 'done', now(), jsonb_build_object('next', jsonb_build_array(:id, :index)))""",
        id=str(first),
        index=1 << 62,
    )
    asked: list[Place] = []
    monkeypatch.setattr(unembedded, "following", following_first(asked))
    assert filled(embedding) == ended(), "and it begins anew at the end"
    assert asked[0] == Place(first, 1 << 62)


def test_maintenance_may_do_it(embedding: Resources, connection: Connection) -> None:
    make_roles(embedding.settings, "fill_")
    name = role_names("fill_")[Role.MAINTENANCE]
    url = driver_url(embedding.settings.database_url).set(username=name)
    mine = SecretStr(url.render_as_string(hide_password=False))
    own = Resources(
        embedding.settings.model_copy(update={"database_url": mine, "maintenance_database_url": mine})
    )
    own.__dict__["embedder"] = embedding.embedder
    assert filled(own) == ended()
    own.close()
