"""`ingest search` and `ingest project` as a user sees them, answered by a real search worker."""

import base64
import json
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psutil
import pytest
from celery import Celery
from sqlalchemy import Connection, text

from tests.conftest import Run
from tests.workers.conftest import StartWorker, Until
from worker import Document, GivenChunk, rate, submit
from worker.broker import connect
from worker.errors import Exit
from worker.settings import Settings

Drain = Callable[[], dict[str, int]]
Show = Callable[..., str]
Find = Callable[..., dict[str, Any]]

GUIDE = [
    GivenChunk("Ships leave the harbour at dawn.", heading_path=("Sailing", "When")),
    GivenChunk("A storm holds every ship back.", heading_path=("Sailing", "Weather"), metadata={"page": 2}),
    GivenChunk("Bread is baked ashore.", heading_path=("Food",)),
]
# What would change a terminal: colour, title, cursor, bell, a C1 control, the direction of writing.
EVIL = "\x1b[31mred\x1b]0;title\x07\x1b[2J\x9b31m\u202eship\r\b"


@pytest.fixture
def _searchable(drain: Drain, start: StartWorker) -> None:
    submit(
        [
            Document.chunks(GUIDE, source_path="guide/sailing.pdf", metadata={"year": 2026}),
            Document.text("The ship of state.", source_path="notes/politics.txt", metadata={"year": 1999}),
        ],
        project="handbook",
    )
    evil = [GivenChunk(f"before {EVIL}"), GivenChunk(f"evil {EVIL}", heading_path=(EVIL,)), GivenChunk(EVIL)]
    submit([Document.chunks(evil, source_path=f"{EVIL}.txt", metadata={EVIL: EVIL})], tenant="evil")
    assert drain() == {"completed": 3}
    start("search")


@pytest.fixture
def show(_searchable: None, ingest: Run) -> Show:
    def run(*arguments: str, **environment: str) -> str:
        done = ingest("search", *arguments, **environment)
        assert done.returncode == Exit.OK, done.stderr
        return str(done.stdout.decode() + done.stderr.decode())

    return run


@pytest.fixture
def find(show: Show) -> Find:
    def run(*arguments: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(show(*arguments, "--json"))
        return found

    return run


def lines(shown: str) -> list[str]:
    """The lines, without the scores: these are another test's."""
    return [re.sub(r"-?\d+\.\d{3}", "0.5", line) for line in shown.splitlines()]


def test_hits_are_shown_with_their_place_and_what_was_asked_for(show: Show) -> None:
    assert lines(show("ship", "-k", "2")) == [
        "0.5  notes/politics.txt  chunk 1 of 1  vector 0.5 keyword 0.5",
        "       The ship of state.",
        "0.5  guide/sailing.pdf  chunk 2 of 3  vector 0.5 keyword 0.5",
        "       Sailing > Weather",
        "       A storm holds every ship back.",
    ]
    assert lines(show("storm", "--mode", "keyword", "--neighbours", "1")) == [
        "0.5  guide/sailing.pdf  chunk 2 of 3",
        "       Sailing > Weather",
        "       Ships leave the harbour at dawn.",
        "       A storm holds every ship back.",
        "       Bread is baked ashore.",
    ]
    assert show("ship", "--by-document").count("guide/sailing.pdf") == 1
    assert show("zeppelin", "--mode", "keyword") == "nothing found; none of the words is in any chunk\n"
    assert "note: compared one by one: 4 chunks; the index is for cosine, not l2\n" in show(
        "x", "--metric", "l2"
    )
    explained = show("ships", "--explain")
    assert "\ntime by stage, in ms\n  embed " in explained
    assert "\n    - word ships, terms ship, chunks 3, read True\n" in explained
    assert "\n  found: compared one by one: 4 chunks\n  exact: True\n" in explained
    run_id = (
        show("ship", "-k", "1", "--record", "--user", "ann").splitlines()[-1].removeprefix("recorded as ")
    )
    assert rate(run_id, thumbs=1).user == "ann"


def test_json_has_all_of_the_answer_and_options_are_those_of_a_query(find: Find) -> None:
    found = find("ship")
    assert {
        "hits",
        "mode",
        "metric",
        "dropped",
        "notes",
        "latency_ms",
        "run_id",
        "explanation",
    } == found.keys()
    assert (found["mode"], found["metric"], found["explanation"]) == ("hybrid", "cosine", None)
    [politics] = [hit for hit in found["hits"] if hit["filename"] == "politics.txt"]
    assert [politics["snippet"][start:end] for start, end in politics["highlights"]] == ["ship"]
    assert politics["metadata"] == {"year": 1999}
    for arguments, expected in (
        (["--path", "guide/*"], {"sailing.pdf"}),
        (["--path", "**/*.txt", "--path", "nowhere"], {"politics.txt"}),
        (["--filter", '{"metadata": {"year": {"gte": 2000}}}'], {"sailing.pdf"}),
        (["--filter", '{"chunk_metadata": {"page": 2}}', "--path", "**"], {"sailing.pdf"}),
        (["--like", politics["chunk_id"], "--mode", "vector"], {"sailing.pdf"}),
        (["--project", "handbook", "--fusion", "rrf"], {"sailing.pdf", "politics.txt"}),
        (["--weights", '{"vector": 0, "keyword": 1}', "--language", "none", "-k", "1"], {"politics.txt"}),
    ):
        assert {hit["filename"] for hit in find("ship", *arguments)["hits"]} == expected, arguments
    [near] = find("--like", politics["document_id"], "-k", "1")["hits"]
    assert near["filename"] == "sailing.pdf"
    assert find("ship", "--explain")["explanation"]["corpus"]["chunks"] == 4


@pytest.mark.usefixtures("_searchable")
def test_refusals_of_the_worker_are_one_line_each(ingest: Run) -> None:
    for arguments, said in (
        (["--tenant", EVIL], "there is no tenant "),
        (["--project", "evil"], "there is no project 'evil'"),
        (["--language", "klingon"], "language 'klingon' is not known → it may be one of "),
    ):
        done = ingest("search", "ship", *arguments)
        assert (done.returncode, done.stdout) == (Exit.USAGE, b"")
        [line] = done.stderr.decode().splitlines()
        assert line.startswith(f"error: {said}")
        assert line.isprintable()


def test_nothing_in_a_text_reaches_the_terminal(show: Show, find: Find) -> None:
    asked = ("evil ship", "--tenant", "evil", "--neighbours", "2", "--explain")
    plain = show(*asked)
    assert all(line.isprintable() for line in plain.split("\n"))
    assert "\\x1b[31mred\\x1b]0;title\\x07\\x1b[2J\\x9b31m\\u202eship" in plain
    coloured = show(*asked, FORCE_COLOR="1")
    ours = re.compile("\x1b\\[(0|1|2|36|1;33)m")
    assert ours.search(coloured)
    assert ours.sub("", coloured).splitlines()[0] == plain.splitlines()[0]
    assert all(line.isprintable() for line in ours.sub("", coloured).split("\n"))
    assert {hit["source_path"] for hit in find("evil", "--tenant", "evil")["hits"]} == {f"{EVIL}.txt"}


@pytest.mark.usefixtures("_searchable")
def test_any_celery_application_may_ask(settings: Settings) -> None:
    url = settings.broker_url.get_secret_value()
    app = Celery(broker=url, backend=url, set_as_current=False)

    def told(**query: Any) -> Any:
        sent = app.send_task("search.query", kwargs={"query": query}, queue="search", expires=10)
        return sent.get(timeout=60)

    assert told(text="ship", k=1)["answer"]["hits"][0]["filename"] == "politics.txt"
    assert told(text="")["error"] == "the query is empty"


def test_language_of_a_project_is_said_and_kept(ingest: Run, connection: Connection) -> None:
    done = ingest("project", "häfen\x1b[31m", "--language", "german", "--tenant", "acme")
    assert (
        done.stdout.decode() == "documents of häfen\\x1b[31m are in german, from their next submission on\n"
    )
    kept = connection.execute(text("SELECT t.name, language FROM projects JOIN tenants t USING (tenant_id)"))
    assert kept.all() == [("acme", "german")]
    refused = ingest("project", "x", "--language", "klingon")
    assert (refused.returncode, refused.stdout) == (Exit.USAGE, b"")
    assert refused.stderr.decode().startswith("error: language 'klingon' is not known → it may be one of ")
    assert ingest("project", "x").returncode == Exit.USAGE


# what no filter may be, and the worker outlives


def nested(depth: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(depth):
        value = [value]
    return value


def raw(depth: int) -> dict[str, Any]:
    return {"text": "ship", "filter": {"metadata": {"year": {"equals": nested(depth)}}}}


@pytest.mark.parametrize("depth", [100, 400, 480, 700])
def test_a_request_that_is_nested_too_deeply_is_refused_and_the_next_one_answered(
    find: Find, settings: Settings, depth: int
) -> None:
    url = settings.broker_url.get_secret_value()
    app = Celery(broker=url, backend=url, set_as_current=False)
    result = app.send_task("search.query", kwargs={"query": raw(depth)}, queue="search")
    answer = result.get(timeout=60)
    assert "error" in answer, answer
    assert find("storm")["hits"]


def test_a_message_that_python_cannot_read_is_thrown_away(find: Find, settings: Settings) -> None:
    """It would be delivered to the next worker, for good."""
    url = settings.broker_url.get_secret_value()
    app = Celery(broker=url, backend=url, set_as_current=False)
    app.send_task("search.query", kwargs={"query": {"text": "ship", "filter": "DEEP"}}, queue="paper")
    client = connect(settings)
    [written] = client.lrange("paper", 0, -1)
    message = json.loads(written)
    body = base64.b64decode(message["body"]).decode()
    deep = body.replace('"DEEP"', "[" * 100_000 + "]" * 100_000)
    message["body"] = base64.b64encode(deep.encode()).decode()
    message["properties"]["delivery_info"]["routing_key"] = "search"
    client.lpush("search", json.dumps(message))
    assert find("storm")["hits"]
    assert client.llen("search") == 0
    assert client.hlen("unacked") == 0


def test_a_search_whose_process_dies_is_said_in_a_line_and_the_next_one_answered(
    drain: Drain, start: StartWorker, ingest: Run, other: Connection, connection: Connection, until: Until
) -> None:
    submit([Document.text("a ship", source_path="a.txt")])
    drain()
    worker = start("search")
    other.execute(text("LOCK TABLE documents"))
    hangs = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
    with ThreadPoolExecutor(1) as beside:
        asking = beside.submit(lambda: ingest("search", "ship", SEARCH_TIMEOUT_SECONDS="60"))
        until(lambda: connection.execute(text(hangs)).scalar_one())
        [child] = psutil.Process(worker.container.process.pid).children()
        child.kill()
        done = asking.result(60)
    other.rollback()
    assert done.returncode == Exit.TIMEOUT
    assert done.stderr == "error: the process that searched died → ask again; its log says why\n".encode()
    assert json.loads(ingest("search", "ship", "--json", SEARCH_TIMEOUT_SECONDS="60").stdout)["hits"]
