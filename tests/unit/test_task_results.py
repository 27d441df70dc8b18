"""What tasks give: stored in full, shown in a line."""

import json
from typing import Any

import kombu.serialization
import pytest
from celery.utils.saferepr import saferepr

from worker.tasks import Told, _chore_did, _searched

LEAVES = ["chunks_s000001", "chunks_s000002"]


def test_a_result_is_stored_whole_and_shown_by_its_line() -> None:
    told = Told({"answer": {"hits": [{"text": "hush"}]}}, "1 hit")
    _, _, body = kombu.serialization.dumps({"result": told}, serializer="json")  # type: ignore[no-untyped-call] # kombu's
    assert json.loads(body) == {"result": {"answer": {"hits": [{"text": "hush"}]}}}
    assert saferepr(told, 1024) == "1 hit"


@pytest.mark.parametrize(
    ("did", "line"),
    [
        ({"outcome": "locked"}, "locked"),
        ({"outcome": "done", "published": 0, "freed": [], "held_by": None}, "done"),
        (
            {"outcome": "done", "sealed": LEAVES, "unsealed_rows": 7},
            f"done: sealed {' '.join(LEAVES)}, unsealed rows 7",
        ),
        ({"outcome": "done", "segments": [{"leaf": "a"}, {"leaf": "b"}]}, "done: segments 2"),
        ({"outcome": "done", "oldest": {"name": "tenants", "age": 3}}, "done: oldest name tenants age 3"),
    ],
)
def test_a_chore_says_what_it_did_and_not_what_was_nothing(did: dict[str, Any], line: str) -> None:
    assert _chore_did(did) == line


@pytest.mark.parametrize(
    ("answered", "line"),
    [
        ({"answer": {"hits": [{}, {}], "mode": "hybrid", "dropped": []}}, "2 hits, hybrid"),
        ({"answer": {"hits": [], "mode": "hybrid", "dropped": ["vector"]}}, "0 hits, hybrid, without vector"),
        ({"error": "filter has no field 'secret'", "hint": ""}, "refused"),
        ({"error": "late", "hint": "", "late": True}, "no answer"),
    ],
)
def test_a_search_says_how_it_went_and_nothing_of_what_was_asked(answered: dict[str, Any], line: str) -> None:
    assert _searched(answered) == line
