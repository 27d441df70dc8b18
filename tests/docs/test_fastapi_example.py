"""docs/examples/fastapi_app.py, run: real servers, real workers, every status code it promises."""

import json
import runpy
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import Connection, text

from tests.forks import Forks
from tests.workers.nodes import start_broker, start_worker
from worker import delete
from worker.embedded import RunningValkey
from worker.resources import close_resources
from worker.settings import Settings, load_settings

EXAMPLE = Path(__file__).parents[2] / "docs/examples/fastapi_app.py"
JSON = {"Content-Type": "application/json"}
ACME, OTHER = {"X-Tenant": "acme"}, {"X-Tenant": "other"}

Drain = Callable[[], dict[str, int]]
Submit = Callable[..., dict[str, Any]]


@pytest.fixture
def environment() -> dict[str, str]:
    return {"SEARCH_TIMEOUT_SECONDS": "5"}


@pytest.fixture
def client(settings: Settings) -> Iterator[TestClient]:
    with TestClient(runpy.run_path(str(EXAMPLE))["app"]) as client:
        yield client


@pytest.fixture
def put(client: TestClient) -> Submit:
    def run(name: str, words: str, headers: dict[str, str] = ACME, **fields: Any) -> dict[str, Any]:
        answer = client.post(
            "/documents", json={"source_path": name, "text": words, **fields}, headers=headers
        )
        assert answer.status_code == 202, answer.text
        found: dict[str, Any] = answer.json()
        return found

    return run


@pytest.fixture
def _search_worker(settings: Settings, tmp_path: Path, forks: Forks) -> Iterator[None]:
    node = start_worker(forks, "search", tmp_path)
    yield
    node.teardown()


def names(answer: Any) -> set[str]:
    assert answer.status_code == 200, answer.text
    return {hit["source_path"] for hit in answer.json()["hits"]}


@pytest.mark.usefixtures("_search_worker")
def test_document_is_submitted_followed_found_and_its_answer_rated(
    client: TestClient, put: Submit, drain: Drain, connection: Connection
) -> None:
    ship = put("ship.txt", "The ship left the harbour.", metadata={"year": 2026})
    assert ship.items() >= {"source_path": "ship.txt", "status": "pending", "searchable": False}.items()
    put("bait.txt", "The ship of another.", OTHER)
    assert drain() == {"completed": 2}
    followed = client.get(f"/documents/{ship['document_id']}", headers=ACME).json()
    assert followed.items() >= {"status": "completed", "searchable": True, "error_code": None}.items()
    again = put("ship.txt", "The ship left the harbour.", metadata={"year": 2026})
    assert (again["document_id"], again["status"]) == (ship["document_id"], "completed")

    query = {"text": "ship", "record": True, "filter": {"metadata": {"year": 2026}}}
    answer = client.post("/search", json=query, headers=ACME)
    assert names(answer) == {"ship.txt"}
    [hit] = answer.json()["hits"]
    assert [hit["snippet"][start:end] for start, end in hit["highlights"]] == ["ship"]
    assert names(client.post("/search", json={"text": "ship", "tenant": "other"}, headers=ACME)) == {
        "ship.txt"
    }

    rating = f"/searches/{answer.json()['run_id']}/rating"
    assert client.post(rating, json={"thumbs": 1, "comment": "good"}, headers=ACME).status_code == 204
    assert client.post(rating, json={"thumbs": -1}, headers=OTHER).status_code == 404
    assert client.post(rating, json={"thumbs": 5}, headers=ACME).status_code == 400
    assert connection.execute(text("SELECT thumbs FROM evaluation_runs")).scalar_one() == 1


@pytest.mark.usefixtures("_search_worker")
def test_many_search_at_once_and_each_gets_its_own_answer(
    client: TestClient, put: Submit, drain: Drain
) -> None:
    words = [f"word{number}x" for number in range(20)]
    for word in words:
        put(word, f"a text with {word} in it")
    drain()

    def ask(word: str) -> set[str]:
        return names(client.post("/search", json={"text": f'"{word}"'}, headers=ACME))

    with ThreadPoolExecutor(8) as threads:
        assert list(threads.map(ask, words * 3)) == [{word} for word in words * 3]


def test_errors_have_codes(client: TestClient, put: Submit, drain: Drain) -> None:
    ship = put("ship.txt", "The ship left the harbour.")
    nobody = client.get(f"/documents/{uuid4()}", headers=ACME)
    assert (nobody.status_code, "there is no document" in nobody.text) == (404, True)
    put("bait.txt", "x", OTHER)
    assert client.get(f"/documents/{ship['document_id']}", headers=OTHER).status_code == 404
    assert client.get(f"/documents/{ship['document_id']}").status_code == 422, "no tenant"
    for body, said in (
        ({"text": ""}, "the query is empty"),
        ({"text": "ship", "k": 0}, "k is 0; it must be a whole number between 1 and 1000"),
        ({"text": "ship", "colour": "red"}, "a query has no field 'colour'; it has "),
        ({"text": "ship", "tenant\0": "other"}, "a query has no field 'tenant\ufffd'; it has "),
        (
            {"text": "ship", "tenant": "other", "tenant\0": "other"},
            "a query has no field 'tenant\ufffd'; it has ",
        ),
        ({"text": "ship", "\ud800": 1}, "a query has no field '\ufffd'; it has "),
        ({"vector": [float("nan")]}, "vector is nan; it must be a list of up to 4,000 numbers"),
    ):
        refused = client.post("/search", content=json.dumps(body), headers=ACME | JSON)
        assert refused.status_code == 400, refused.text
        assert refused.json()["error"].startswith(said)
    bad = {"source_path": "a", "text": "x", "language": "klingon"}
    assert client.post("/documents", json=bad, headers=ACME).status_code == 400
    late = client.post("/search", json={"text": "ship"}, headers=ACME)
    assert (late.status_code, late.json()["hint"]) == (
        504,
        "start one, `ingest worker search`; where one runs, `ingest doctor` says what is wrong",
    )
    drain()
    delete([ship["document_id"]], tenant="acme")
    assert client.get(f"/documents/{ship['document_id']}", headers=ACME).status_code == 404


@pytest.mark.usefixtures("_search_worker")
def test_service_outlives_its_broker(
    client: TestClient, put: Submit, drain: Drain, valkey: RunningValkey
) -> None:
    put("ship.txt", "The ship left the harbour.")
    drain()
    query = {"text": "ship"}
    assert names(client.post("/search", json=query, headers=ACME)) == {"ship.txt"}
    node = start_broker(valkey)
    node.kill(signal.SIGKILL)
    try:
        assert client.post("/search", json=query, headers=ACME).status_code == 503
        assert put("later.txt", "Documents need no broker to be safe.")["status"] == "pending"
    finally:
        node.restart()
    for _ in range(20):
        answer = client.post("/search", json=query, headers=ACME)
        if answer.status_code != 504:  # the worker has not found its broker again
            break
    assert names(answer) == {"ship.txt"}


def test_database_that_is_away_is_503(
    client: TestClient, put: Submit, monkeypatch: pytest.MonkeyPatch
) -> None:
    ship = put("ship.txt", "The ship left the harbour.")
    monkeypatch.setenv("DATABASE_URL", "postgresql://u:hush@127.0.0.1:1/d")
    load_settings.cache_clear()
    close_resources()
    away = client.get(f"/documents/{ship['document_id']}", headers=ACME)
    assert away.status_code == 503
    assert "hush" not in away.text
