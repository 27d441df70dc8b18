"""docs/search.md against the code: every field is there, every example is a query, and is answered."""

import json
import re
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from uuid import UUID

import pytest

from worker import Document, GivenChunk, submit
from worker.db.nearest import MOST_COMPARED
from worker.filtering import MOST_KEYS, MOST_NAMED, Condition, Filter
from worker.queries import LONGEST_QUERY, MOST_NEIGHBOURS, MOST_RESULTS, Fusion, Mode, Query, read_query
from worker.settings import Settings
from worker.steps import bm25
from worker.steps.fusion import DEPTH, WEIGHTS
from worker.steps.question import MOST_PHRASES, MOST_WORDS
from worker.tasks import answer_query
from worker.types import Answer, Hit

TEXT = (Path(__file__).parents[2] / "docs/search.md").read_text()
PROSE = re.sub(r"^```.*?^```", "", TEXT, flags=re.MULTILINE | re.DOTALL)
CODE = {" ".join(found.split()) for found in re.findall(r"`([^`]+)`", PROSE)}
QUERIES = [json.loads(body) for body in re.findall(r"^```json\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL)]
FILTERS = [
    json.loads(found)
    for found in sorted(CODE)
    if found.startswith("{") and "…" not in found and not {"vector", "keyword"} & json.loads(found).keys()
]


@pytest.mark.parametrize(
    "names",
    [
        Query.model_fields,
        Filter.model_fields,
        Condition.model_fields,
        [field.name for field in fields(Answer)],
        [field.name for field in fields(Hit)],
        list(Mode),
        list(Fusion),
    ],
)
def test_every_field_is_explained(names: list[str]) -> None:
    assert set(map(str, names)) - CODE == set()


@pytest.mark.parametrize(
    ("limit", "said"),
    [
        (MOST_RESULTS, "1 to {:,}"),
        (LONGEST_QUERY, "{:,} characters"),
        (MOST_WORDS, "{} different words"),
        (MOST_PHRASES, "{} phrases"),
        (MOST_NAMED, "{:,} ids or names"),
        (MOST_KEYS, "{} keys each"),
        (MOST_NEIGHBOURS, "0 to {} each way"),
        (MOST_COMPARED, "more than {:,} are refused"),
        (bm25._SMALL, "among more than {:,} chunks"),
        (DEPTH, "its {} best"),
        (WEIGHTS["vector"], "vectors counting {:g} and words 1"),
    ],
)
def test_every_limit_is_what_it_is(limit: float, said: str) -> None:
    assert said.format(limit) in " ".join(TEXT.split())


def test_every_stage_is_named(settings: Settings) -> None:
    submit([Document.text("We open at nine.", source_path="a")])
    answer = answer_query({"text": "open", "record": True})["answer"]
    assert set(answer["latency_ms"]) - CODE == set()


@pytest.fixture
def _there(settings: Settings, drain: Callable[[], dict[str, int]]) -> None:
    for project in ("handbooks", "faq"):
        chunk = GivenChunk(f"We open at nine, says {project}.")
        submit([Document.chunks([chunk], source_path=f"{project}.md")], tenant="acme", project=project)
    drain()


@pytest.mark.usefixtures("_there")
def test_every_example_is_answered() -> None:
    assert QUERIES
    assert {name for given in FILTERS for name in given} >= Filter.model_fields.keys() - {"updated"}
    for query in [*QUERIES, *({"text": "open", "tenant": "acme", "filter": given} for given in FILTERS)]:
        told = answer_query(json.loads(json.dumps(query)))
        if "like" in query:
            assert told["error"] == f"there is no chunk or document {UUID(query['like'][0])}"
        else:
            assert "answer" in told, (query, told)
            assert read_query(query).as_json()
