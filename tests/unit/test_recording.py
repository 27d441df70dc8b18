"""What is written of a search: enough to judge it by, and never much."""

import json
import math
from typing import Any
from uuid import UUID

import pytest

from worker.queries import LONGEST_QUERY, MOST_RESULTS, read_query
from worker.searching.recording import summed_up
from worker.types import Answer, Hit

ONE, TWO = UUID(int=1), UUID(int=2)


def hit(**values: Any) -> Hit:
    usual: dict[str, Any] = {
        "score": 0.5, "scores": {"vector": 0.25, "keyword": 0.75}, "distance": 0.75, "chunk_id": ONE,
        "document_id": TWO, "filename": "a.md", "source_path": "/docs/a.md", "number": 2, "total": 3,
        "start": 0, "end": 4, "heading_path": (), "text": "long text", "snippet": "text", "highlights": (),
        "metadata": {}, "chunk_metadata": {},
    }  # fmt: skip
    return Hit(**usual | values)


def test_a_search_is_summed_up() -> None:
    query = read_query(
        text="the ship", k=5, tenant="t", filter={"file_type": "code"}, user="ann", record=True
    )
    answer = Answer(
        (hit(),), "hybrid", "cosine", ("keyword",), ("answered exactly",), {"vector": 1.5, "present": 0.25}
    )
    record = summed_up(query, answer)
    assert record.query == "the ship"
    assert record.user == "ann"
    assert record.token_count == 2
    assert record.latency_ms == {"vector": 1.5, "present": 0.25}
    assert record.response == {
        "mode": "hybrid",
        "metric": "cosine",
        "hits": 1,
        "dropped": ["keyword"],
        "notes": ["answered exactly"],
    }
    assert record.sources == [
        {
            "chunk_id": str(ONE),
            "document_id": str(TWO),
            "source_path": "/docs/a.md",
            "number": 2,
            "total": 3,
            "score": 0.5,
            "scores": {"vector": 0.25, "keyword": 0.75},
            "distance": 0.75,
            "snippet": "text",
        }
    ]
    request = record.metadata["request"]
    assert read_query({**request, "text": record.query}) == query


def test_texts_are_not_copied() -> None:
    long = "x" * 100_000
    answer = Answer((hit(text=long, snippet=long, source_path=long),), notes=(long,) * 1000)
    assert len(json.dumps(summed_up(read_query(text="a"), answer).sources)) < 3_000
    assert len(json.dumps(summed_up(read_query(text="a"), answer).response)) < 30_000


def test_vector_is_recorded_by_its_length() -> None:
    record = summed_up(read_query(vector=[0.5] * 256), Answer())
    assert record.query == ""
    assert record.token_count == 0
    assert record.metadata["request"]["vector"] == {"numbers": 256}


def test_request_is_bounded_and_says_what_is_missing() -> None:
    large = read_query(text="a", like=[ONE] * 1000, filter={"metadata": {"key": "x" * 60_000}}, k=7)
    request = summed_up(large, Answer()).metadata["request"]
    assert request == {"k": 7, "mode": "hybrid", "left_out": ["like", "filter"]}


def test_no_more_sources_than_were_asked_for() -> None:
    most = read_query(text="x" * LONGEST_QUERY, k=MOST_RESULTS)
    record = summed_up(most, Answer((hit(),) * (MOST_RESULTS + 5)))
    assert len(record.sources) == MOST_RESULTS


@pytest.mark.parametrize("number", [math.nan, math.inf])
def test_what_json_cannot_hold_is_none(number: float) -> None:
    [source] = summed_up(
        read_query(text="a"), Answer((hit(score=number, scores={"vector": number}, distance=None),))
    ).sources
    assert (source["score"], source["scores"], source["distance"]) == (None, {"vector": None}, None)


@pytest.mark.parametrize(
    ("text", "terms"), [("the ship", 2), ("!?", 0), ("parse_args", 3), ("検索", 3), ("a a", 2)]
)
def test_terms_are_counted_as_they_are_indexed(text: str, terms: int) -> None:
    assert summed_up(read_query(text=text), Answer()).token_count == terms
