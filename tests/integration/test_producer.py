"""The producer's calls: many at once, odd documents, names, waiting, servers that are away."""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy import Connection, event, text

from worker import Document, Receipt, submit, wait
from worker.broker import connect, queue_length
from worker.db import changes
from worker.db.backlog import form, lock_dispatch
from worker.db.engine import transaction
from worker.errors import DatabaseUnavailableError, IngestError, NoAnswerError, SourceError
from worker.producer import below, cancel, delete, find, restore, retry, status
from worker.resources import Resources, resources
from worker.settings import Settings
from worker.types import Lane, Queue, Status

Drain = Callable[[], dict[str, int]]
PARALLEL = 20


@pytest.fixture(autouse=True)
def _use_settings(settings: Settings) -> None:
    """The producer's calls use the process's settings: those of this test."""


def note(name: str, content: str = "words", **options: Any) -> Document:
    return Document.text(content, source_path=name, **options)


def paths(connection: Connection) -> dict[str, int]:
    """The version of each live document, by its path."""
    found = connection.execute(
        text("SELECT source_path, requested_version FROM documents WHERE deleted_at IS NULL")
    )
    return {row.source_path: row.requested_version for row in found}


def at_once(call: Callable[[int], Receipt]) -> list[Receipt]:
    """Run a call in twenty threads that start together."""
    barrier = threading.Barrier(PARALLEL)

    def run(number: int) -> Receipt:
        barrier.wait()
        return call(number)

    with ThreadPoolExecutor(PARALLEL) as pool:
        return list(pool.map(run, range(PARALLEL)))


# -- many at once ----------------------------------------------------------------------------------


def test_same_document_submitted_at_once_is_one_row_and_one_version(connection: Connection) -> None:
    receipts = at_once(lambda _: submit([note("a.txt")], tenant="new", project="new"))
    assert paths(connection) == {"a.txt": 1}
    assert sorted((len(r.new), len(r.changed), r.unchanged) for r in receipts) == [
        *[(0, 0, 1)] * (PARALLEL - 1),
        (1, 0, 0),
    ]
    assert status(tenant="new", project="new").counts[Status.PENDING] == 1


def test_different_contents_at_once_are_a_version_each_and_one_row(
    connection: Connection, drain: Drain
) -> None:
    receipts = at_once(lambda number: submit([note("a.txt", f"words {number}")]))
    assert paths(connection) == {"a.txt": PARALLEL}
    assert sum(len(r.new) for r in receipts) == 1
    assert sum(len(r.changed) for r in receipts) == PARALLEL - 1
    assert drain() == {"completed": 1}
    [stored] = connection.execute(text("SELECT text FROM chunks")).scalars()
    last = connection.execute(text("SELECT convert_from(content, 'UTF8') FROM documents")).scalar_one()
    assert stored == last


def test_overlapping_folders_in_opposite_order_do_not_deadlock(connection: Connection) -> None:
    names = [f"{n}.txt" for n in range(100)]

    def call(number: int) -> Receipt:
        order = names if number % 2 else names[::-1]
        return submit([note(name, f"{name} {number}") for name in order])

    receipts = at_once(call)
    assert paths(connection) == dict.fromkeys(names, PARALLEL)
    assert sum(len(r.document_ids) for r in receipts) == PARALLEL * len(names)


def test_submitting_and_deleting_at_once_ends_in_one_live_row(connection: Connection) -> None:
    def call(number: int) -> Receipt:
        submit([note("a.txt", f"words {number}")])
        delete(["a.txt"])
        return submit([note("a.txt", f"other words {number}")])

    at_once(call)
    assert list(paths(connection)) == ["a.txt"]


def test_path_that_is_taken_in_the_moment_of_restoring_stays_the_newer_ones(connection: Connection) -> None:
    (old,) = submit([note("a.txt", "old words")]).new
    delete(["a.txt"])
    new: list[UUID] = []

    def look(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        if "deleted_at = NULL" in statement and not new:
            new.extend(submit([note("a.txt", "new words")]).new)

    event.listen(resources().engine, "before_cursor_execute", look)
    assert restore([old]) == 0
    assert len(new) == 1
    assert [row.deleted_at is None for row in find([*new, old])] == [True, False]


def test_submission_waits_for_a_lock_no_longer_than_it_says(connection: Connection) -> None:
    submit([note("a.txt")])
    with connection.engine.connect() as other:
        other.execute(text("SELECT * FROM documents FOR UPDATE"))
        released = threading.Timer(0.3, other.rollback)
        released.start()
        assert submit([note("a.txt", "new words")]).changed
        released.join()


# -- streams ---------------------------------------------------------------------------------------


def test_stream_is_taken_in_slices_and_each_is_safe_at_once(connection: Connection) -> None:
    seen: list[int] = []

    def stream() -> Iterable[Document]:
        for n in range(5001):
            yield note(f"{n}.txt", f"words {n}")
        seen.append(len(paths(connection)))
        yield note("last.txt")

    told: list[int] = []
    receipt = submit(stream(), progress=told.append)
    assert (len(receipt.new), told, seen) == (5002, [5000, 2], [5000])


def test_inline_bytes_bound_a_slice_too(connection: Connection) -> None:
    seen: list[int] = []

    def stream() -> Iterable[Document]:
        for n in range(3):
            seen.append(len(paths(connection)))
            yield note(f"{n}.txt", str(n) * (9 << 20))

    told: list[int] = []
    assert len(submit(stream(), progress=told.append).new) == 3
    assert (told, seen) == ([1, 1, 1], [0, 0, 1])


def test_stream_that_breaks_keeps_what_came_before(connection: Connection) -> None:
    def stream() -> Iterable[Document]:
        yield from (note(f"{n}.txt") for n in range(5000))
        yield note("lost.txt")
        raise OSError("the disk is gone")

    with pytest.raises(OSError, match="the disk is gone"):
        submit(stream())
    assert len(paths(connection)) == 5000


def test_no_documents_are_no_work() -> None:
    assert submit([]) == Receipt()
    assert status().oldest_waiting_seconds is None


def test_path_twice_in_a_slice_counts_once_and_the_last_wins(connection: Connection) -> None:
    receipt = submit([note("a.txt", "old"), note("b.txt"), note("a.txt", "new")])
    assert (len(receipt.new), receipt.unchanged) == (2, 0)
    content = "SELECT convert_from(content, 'UTF8') FROM documents WHERE source_path = 'a.txt'"
    assert connection.execute(text(content)).scalar_one() == "new"


# -- odd documents ---------------------------------------------------------------------------------


def test_refused_documents_are_listed_and_their_neighbours_recorded(
    settings: Settings, connection: Connection
) -> None:
    odd: Any = ["not an object"]
    receipt = submit(
        [
            note("good.txt"),
            note("nan.txt", metadata={"a": float("nan")}),
            note("\0"),
            note("list.txt", metadata=odd),
            Document.text(b"x" * (settings.max_document_bytes + 1), source_path="large.txt"),
            note("set.txt", metadata={"a": {1}}),
            note("fine.txt", metadata={"a": "\0b\ud800", "n": [1, None, {"é": 1.5}]}),
        ]
    )
    assert [name for name, _ in receipt.refused] == ["nan.txt", "\0", "list.txt", "large.txt", "set.txt"]
    assert all(reason and "\n" not in reason for _, reason in receipt.refused)
    assert set(paths(connection)) == {"good.txt", "fine.txt"}
    assert find(["fine.txt"])[0].metadata == {"a": "b\ufffd", "n": [1, None, {"é": 1.5}]}


def test_file_of_an_impossible_time_is_recorded_with_its_neighbours(connection: Connection) -> None:
    early, late = (Document.found(Path(f"/{n}.txt"), 1, n * 10**27) for n in (-1, 1))
    assert len(submit([early, note("good.txt"), late]).new) == 3
    assert len(submit([early, late]).changed) == 2, "what has no time to compare is read again"


def test_long_paths_and_names_are_recorded(connection: Connection, drain: Drain) -> None:
    long = "folder/" * 20_000 + "é" * 5_000
    (document_id,) = submit([note(long)]).new
    assert find([long])[0].document_id == document_id
    assert submit([note(long)]).unchanged == 1
    assert drain() == {"completed": 1}


def test_changed_metadata_is_a_change_and_reaches_the_row_alone(connection: Connection, drain: Drain) -> None:
    submit([note("a.txt", metadata={"a": 1, "b": 2})])
    drain()
    assert submit([note("a.txt", metadata={"b": 2, "a": 1})]).unchanged == 1
    rows = text("SELECT array_agg(xmin::text || ctid::text) FROM chunks")
    before = connection.execute(rows).scalar_one()
    assert len(submit([note("a.txt", metadata={"a": 3})]).changed) == 1
    assert drain() == {"completed": 1}
    assert find(["a.txt"])[0].metadata == {"a": 3}
    assert connection.execute(rows).scalar_one() == before


@pytest.mark.parametrize("name", ["", "x" * 201])
def test_names_of_tenants_and_projects_are_bounded(name: str) -> None:
    for options in ({"tenant": name}, {"tenant": "t", "project": name}):
        with pytest.raises(IngestError, match="1 to 200 characters"):
            submit([note("a.txt")], **options)
    assert len(submit([note("a.txt")], tenant="é" * 200, project="'; --").new) == 1


def test_interactive_submission_moves_a_waiting_document_up(connection: Connection) -> None:
    submit([note("a.txt")])
    assert submit([note("a.txt")], lane=Lane.INTERACTIVE).changed
    lanes = connection.execute(text("SELECT lane FROM documents")).scalars()
    assert list(lanes) == ["interactive"]
    assert submit([note("a.txt")]).unchanged == 1, "and nothing moves it down again"


# -- finding ---------------------------------------------------------------------------------------


def test_document_is_found_by_id_path_relative_path_and_uri(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sub").mkdir()
    file = tmp_path / "sub" / "a.txt"
    file.write_text("words")
    ids = submit([Document.path(file), note("inline/name"), Document.uri("s3://b/k")]).new
    monkeypatch.chdir(tmp_path)
    for names in (["sub/a.txt"], [str(file)], [f"{find(['sub/a.txt'])[0].document_id}"]):
        assert [row.source_path for row in find(names)] == [str(file)]
    assert find(["inline/name"])[0].filename == "name"
    assert find(["s3://b/k"])[0].filename == "k"
    assert {row.document_id for row in find(ids)} == set(ids)
    assert find([]) == find(["nothing", uuid4(), "\0", "\ud800"]) == []


def test_local_path_that_is_not_utf8_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    odd = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9"))
    odd.write_text("coffee")
    submit([Document.path(odd)])
    monkeypatch.chdir(tmp_path)
    for spelled in (find([str(odd)]), find([odd.name])):
        assert [row.filename for row in spelled] == ["caf%E9"]


def test_newest_is_found_first_and_deleted_ones_too() -> None:
    (old,) = submit([note("a.txt")]).new
    delete(["a.txt"])
    (new,) = submit([note("a.txt")]).new
    found = find(["a.txt"])
    assert [row.document_id for row in found] == [new, old]
    assert [row.deleted_at is None for row in found] == [True, False]


def test_path_that_looks_like_an_id_is_found() -> None:
    name = "d41d8cd98f00b204e9800998ecf8427e"
    submit([note(name)])
    assert [row.source_path for row in find([name])] == [name]


def test_without_a_project_those_of_every_project_are_meant() -> None:
    submit([note("a.txt")])
    submit([note("a.txt")], project="p")
    assert len(find(["a.txt"])) == 2
    assert len(find(["a.txt"], project="p")) == 1
    with pytest.raises(IngestError, match="several projects"):
        delete(["a.txt"])
    assert (delete(["a.txt"], project="p"), delete(["a.txt"])) == (1, 1)
    with pytest.raises(IngestError, match="several projects"):
        restore(["a.txt"])
    assert restore(["a.txt"], project="p") == 1


def test_all_means_one_project_or_what_is_in_none() -> None:
    submit([note("a.txt"), note("b.txt")])
    submit([note("a.txt")], project="p")
    assert (cancel(project="p"), retry(), cancel(), retry(project="p")) == (1, 0, 2, 1)
    assert status(tenant="default", project="p").counts[Status.PENDING] == 1
    assert status(tenant="default").counts[Status.CANCELLED] == 2


def test_one_name_is_not_a_list_of_letters() -> None:
    submit([note("ab"), note("a"), note("b")])
    assert [row.source_path for row in find("ab")] == ["ab"]
    assert (cancel("ab"), retry("ab"), delete("ab"), restore("ab")) == (1, 1, 1, 1)


def test_a_project_without_its_tenant_is_refused() -> None:
    with pytest.raises(IngestError, match="whose project"):
        status(project="p")


def test_what_an_earlier_submission_left_waiting_is_waited_for(drain: Drain) -> None:
    first = submit([note("a.txt"), note("b.txt", "other words")])
    again = submit([note("a.txt"), note("c.txt", "new words")])
    assert (again.unchanged, again.waiting) == (1, first.new[:1])
    assert set(again.document_ids) == {*first.new[:1], *again.new}
    with pytest.raises(NoAnswerError, match="2 documents were not settled"):
        wait(again.document_ids, timeout_seconds=0)
    drain()
    assert wait([str(document_id) for document_id in again.document_ids]).completed == 2
    assert submit([note("a.txt")]).document_ids == ()


def test_an_empty_path_is_no_document() -> None:
    with pytest.raises(SourceError, match="empty path"):
        Document.path("")


def test_documents_of_others_are_not_found_nor_changed() -> None:
    (theirs,) = submit([note("a.txt")], tenant="theirs").new
    submit([note("b.txt")])
    assert find([theirs]) == []
    assert (delete([theirs]), cancel([theirs]), retry([theirs]), restore([theirs])) == (0, 0, 0, 0)
    assert find([theirs], tenant="theirs")[0].status == "pending"


Call = Callable[..., object]


@pytest.mark.parametrize(
    "call",
    [
        status,
        lambda **scope: find(["a"], **scope),
        cancel,
        retry,
        lambda **scope: delete(["a"], **scope),
        lambda **scope: restore(["a"], **scope),
    ],
)
@pytest.mark.parametrize("name", ["nobody", "a\0b", "\ud800"])
def test_unknown_tenant_or_project_is_said_in_one_line(call: Call, name: str) -> None:
    submit([note("a.txt")])
    for scope in ({"tenant": name}, {"tenant": "default", "project": name}):
        with pytest.raises(IngestError) as caught:
            call(**scope)
        assert str(caught.value).startswith("there is no tenant")
        assert "\n" not in str(caught.value)


def test_status_counts_reasons_and_age(drain: Drain, tmp_path: Path) -> None:
    gone = [Document.found(tmp_path / f"{n}.txt", 1, 1) for n in range(3)]
    submit([*gone, note("empty.txt", "")], project="p")
    submit([note("a.txt")])
    assert drain() == {"completed": 1, "failed": 3, "skipped": 1}
    submit([note("b.txt")])
    overview = status()
    assert {state: count for state, count in overview.counts.items() if count} == {
        Status.COMPLETED: 1,
        Status.FAILED: 3,
        Status.SKIPPED: 1,
        Status.PENDING: 1,
    }
    assert [(row.error_code, row.documents) for row in overview.reasons] == [("not_found", 3), ("empty", 1)]
    assert overview.oldest_waiting_seconds is not None
    assert 0 <= overview.oldest_waiting_seconds < 60
    assert status(tenant="default", project="p", most_reasons=1).reasons[0].documents == 3
    assert status(tenant="default").oldest_waiting_seconds is not None
    assert status(tenant="default", project="p").oldest_waiting_seconds is None


def test_below_a_folder_are_its_live_documents_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("box/a.txt", "box/in/b.txt", "box%/c.txt", "boxes/d.txt", "box_/e.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
        submit([Document.path(tmp_path / name)])
    submit([note(f"{tmp_path}/box/inline.txt")])
    submit([Document.path(tmp_path / "box/a.txt")], project="p")
    monkeypatch.chdir(tmp_path)
    everything = [f"{tmp_path}/box/{name}" for name in ("a.txt", "in/b.txt", "inline.txt")]
    for spelled in ("box", "box/", tmp_path / "box"):
        assert [path for _, path in below(spelled)] == everything
    assert [path for _, path in below("box%")] == [f"{tmp_path}/box%/c.txt"]
    assert [path for _, path in below("box", project="p")] == [f"{tmp_path}/box/a.txt"]
    delete(["box/a.txt"], project="p")
    assert [path for _, path in below("box")] == everything
    delete(["box/a.txt"])
    assert [path for _, path in below("box")] == everything[1:]
    assert below("box", tenant="nobody") == below("box", project="none") == below("nothing") == []


# -- trying again ----------------------------------------------------------------------------------


def test_retry_by_code_takes_only_those_with_all_their_attempts(
    drain: Drain, connection: Connection, tmp_path: Path
) -> None:
    submit(
        [
            Document.found(tmp_path / "late.txt", 1, 1),
            Document.found(Path("/etc/passwd"), 1, 1),
            note("empty", ""),
        ]
    )
    assert drain() == {"failed": 2, "skipped": 1}
    assert retry(error_code="no_such_code") == 0
    assert retry(error_code="no text of a database \0\udcff") == 0
    assert not any(status(trace="no text of a database \0\udcff").counts.values())
    (tmp_path / "late.txt").write_text("here it is")
    assert retry(error_code="not_found") == 1
    found = connection.execute(
        text("SELECT attempts, error_code FROM documents WHERE status = 'pending'")
    ).one()
    assert tuple(found) == (0, None)
    assert drain() == {"completed": 1}
    assert retry(["/etc/passwd"], error_code="not_found") == 0
    assert retry(["/etc/passwd"], error_code="outside_roots") == 1


def test_retry_by_time_takes_what_ended_then(drain: Drain, connection: Connection, tmp_path: Path) -> None:
    submit([Document.found(tmp_path / name, 1, 1) for name in ("a", "b", "c")])
    submit([Document.found(tmp_path / "d", 1, 1)], project="p")
    assert drain() == {"failed": 4}
    connection.execute(
        text("UPDATE documents SET settled_at = settled_at - interval '2 days' WHERE filename = 'a'")
    )
    connection.execute(
        text("UPDATE documents SET settled_at = settled_at - interval '2 hours' WHERE filename = 'b'")
    )
    ended = {row.filename: row.settled_at for row in find([str(tmp_path / name) for name in "abc"])}

    def waiting() -> set[str]:
        return set(
            connection.execute(text("SELECT filename FROM documents WHERE status = 'pending'")).scalars()
        )

    assert retry(since=timedelta(days=3), until=timedelta(days=2, seconds=-60)) == 1
    assert waiting() == {"a"}
    assert retry(since=ended["b"], until=ended["c"], error_code="outside_roots") == 0
    assert retry(since=ended["b"], until=ended["c"], error_code="not_found") == 1
    assert waiting() == {"a", "b"}
    assert retry(since=ended["b"], until=ended["c"]) == 0
    assert retry([str(tmp_path / "c")], since=timedelta(0)) == 0
    assert retry(project="p", since=timedelta(hours=1)) == 1
    assert waiting() == {"a", "b", "d"}
    with pytest.raises(IngestError, match="until has no time zone"):
        retry(until=ended["c"].replace(tzinfo=None))


def test_what_fails_again_at_once_is_tried_once_a_call(
    drain: Drain, connection: Connection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(changes, "SLICE", 2)
    submit([Document.found(tmp_path / f"{number}", 1, 1) for number in range(5)])
    assert drain() == {"failed": 5}
    connection.execute(
        text("""
            CREATE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
                NEW.status := 'failed'; NEW.error_code := 'x'; NEW.error_message := 'x';
                NEW.settled_at := now(); RETURN NEW; END $$;
            CREATE TRIGGER fail BEFORE UPDATE ON documents FOR EACH ROW EXECUTE FUNCTION fail()""")
    )
    assert retry() == 5


def test_what_needs_no_retry_is_left_alone(drain: Drain) -> None:
    submit([note("a.txt"), note("empty", "")])
    drain()
    assert retry() == retry(["a.txt"]) == 0
    submit([note("b.txt")])
    assert retry(["b.txt"]) == 0


# -- waiting ---------------------------------------------------------------------------------------


def test_wait_gives_up_in_time_and_the_documents_go_on(drain: Drain) -> None:
    ids = submit([note("a.txt"), note("b.txt", "other words")]).new
    left: list[int] = []
    began = time.monotonic()
    with pytest.raises(NoAnswerError, match=r"2 documents were not settled within 0\.3 s"):
        wait(ids, timeout_seconds=0.3, poll_seconds=0.05, progress=left.append)
    assert time.monotonic() - began < 5
    assert len(left) > 2
    assert set(left) == {2}
    assert drain() == {"completed": 2}


def test_wait_sums_up_what_became_of_them(drain: Drain) -> None:
    ids = submit([note("a.txt"), note("b.txt", ""), note("c.txt"), note("d.txt", "more")]).new
    cancel(["d.txt"])
    drain()
    outcome = wait(ids, timeout_seconds=0)
    assert (outcome.completed, outcome.duplicate, outcome.skipped) == (1, 1, 1)
    assert (outcome.cancelled, outcome.failed, outcome.waiting) == (1, 0, 0)
    assert (outcome.chunks, outcome.embedded, outcome.reused) == (1, 1, 0)


def test_wait_ends_when_they_are_settled_meanwhile(drain: Drain) -> None:
    ids = submit([note("a.txt")]).new
    assert wait(ids, timeout_seconds=60, progress=lambda left: left and drain() and None).completed == 1


def test_wait_does_not_wait_for_the_deleted_and_the_unknown() -> None:
    ids = submit([note("a.txt")]).new
    delete(["a.txt"])
    assert wait([*ids, uuid4()], timeout_seconds=0).waiting == 0
    assert wait([], timeout_seconds=0).completed == 0


# -- the broker and the database -------------------------------------------------------------------


def test_messages_are_ids_and_few(settings: Settings, resources: Resources) -> None:
    submit([note(f"{n}", f"words {n}") for n in range(1000)])
    client = connect(settings)
    waiting = queue_length(client, Queue.INGEST)
    bodies: Any = client.lrange(Queue.INGEST.value, 0, -1)
    client.close()
    assert 0 < waiting <= 2
    assert all(len(body) < 2000 and b"words" not in body for body in bodies)


AWAY = """
import sys, time
from worker import Document, submit
began = time.monotonic()
receipt = submit([Document.text(f"words {n}", source_path=f"{n}.txt") for n in range(500)])
print(len(receipt.new), time.monotonic() - began)
"""


def test_broker_that_is_away_costs_a_producer_seconds_and_no_document(
    settings: Settings, connection: Connection, drain: Drain, tmp_path: Path
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", AWAY],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={
            **os.environ,
            "BROKER_URL": "redis://127.0.0.1:1/0",
            "PYTHONPATH": str(Path(__file__).parents[2]),
        },
        timeout=60,
        check=True,
    )
    recorded, seconds = done.stdout.split()
    assert int(recorded) == len(paths(connection)) == 500
    assert float(seconds) < 30
    assert "Traceback" not in done.stderr
    assert drain() == {"completed": 500}


def test_database_that_is_away_is_said_in_one_line_and_in_bounded_time(
    monkeypatch: pytest.MonkeyPatch, settings: Settings
) -> None:
    from worker import resources as module

    away = settings.model_copy(
        update={"database_url": type(settings.database_url)("postgresql://u:hush@127.0.0.1:1/d")}
    )
    monkeypatch.setitem(module._mine, os.getpid(), Resources(away))
    began = time.monotonic()
    with pytest.raises(DatabaseUnavailableError) as caught:
        submit([note("a.txt")])
    assert time.monotonic() - began < 30
    assert "127.0.0.1:1/d is not usable" in str(caught.value)
    assert "hush" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_submission_does_not_wait_for_a_dispatcher_that_died(
    resources: Resources, settings: Settings, connection: Connection
) -> None:
    other = resources.engine.connect()
    lock_dispatch(other)
    pid = other.execute(text("SELECT pg_backend_pid()")).scalar_one()
    connection.execute(text("SELECT pg_terminate_backend(:pid, 10000)"), {"pid": pid})
    assert len(submit([note("a.txt")]).new) == 1
    other.invalidate()
    other.close()
    with transaction(resources.engine) as mine:
        assert form(mine, Lane.BULK, settings) is None, "it is in a batch already"


def test_ids_are_those_of_the_rows(connection: Connection) -> None:
    receipt = submit([note("a.txt"), note("b.txt", "more words")])
    found: list[UUID] = list(connection.execute(text("SELECT document_id FROM documents")).scalars())
    assert sorted(receipt.document_ids) == sorted(found)
