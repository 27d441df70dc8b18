"""Hostile searches: refused in one line, or answered with why there is nothing; never with another's row.

A second tenant holds bait: the same words, and every naughty string, each beside the word SECRET.
"""

import json
import math
import os
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from celery import current_app
from sqlalchemy import Connection, text

from tests.conftest import Run
from worker import Document, GivenChunk, producer, submit
from worker.answers import read_answer
from worker.db import keyword
from worker.errors import Exit, IngestError, NoAnswerError
from worker.queries import read_query
from worker.resources import Resources
from worker.searching import search
from worker.settings import Settings
from worker.tasks import ProcessMemoryError, answer_query
from worker.types import Answer, TaskName

Drain = Callable[[], dict[str, int]]
# (answer, None), or (None, (what is said, what to do)).
Told = tuple[Answer | None, tuple[str, str] | None]
Ask = Callable[..., Told]

CORPORA = os.environ.get("CORPORA", "")
SECRET = "SECRET"
WORDS = "The ship left the harbour under sail, as it was wont to."
PUNCTUATION = "&|!:*'\"\\"
NAUGHTY = [
    *PUNCTUATION, PUNCTUATION, '"', '""', '" "', '"&"', "''", "\\", "'; DROP TABLE chunks; --", "1' OR 1=1",
    "$$ $1 :k :tenant_id %s %(k)s {} {0}", "\x1b[31mred\x1b[0m", "#english", "#", "a\0b", "\0", "\ud800",
    "\udfff\ud800", "\u202e\u2066", "\ufeff", "\u0300" * 500, "\u00ad", "(" * 1000, "[" * 1000, "\\" * 999,
    "a" * 5000, "'" * 999, "null", "NaN", "-1", "1e999", "../../etc/passwd", "<script>alert(1)</script>",
    "\U0001f468\u200d\U0001f469",
]  # fmt: skip
# What only our statements, our drivers and Python itself have in them.
INTERNAL = re.compile(
    r"psycopg|sqlalchemy|Traceback|File \"|app\.tenant|filter_\d|c\.segment|[cd]\.tenant|chunks_s0|LATERAL"
)


def naughty_strings() -> list[str]:
    """Every line of the list, those that JSON alone can hold, and what was made for attacks."""
    folder = Path(CORPORA, "nasty")
    found: list[str] = json.loads((folder / "blns/blns.json").read_text())
    for name in ("blns/blns.txt", "derived/sql-injection.txt", "derived/control-chars.txt"):
        found += (folder / name).read_text(errors="surrogateescape").splitlines()
    return list(dict.fromkeys(found))


if CORPORA:
    NAUGHTY = list(dict.fromkeys(NAUGHTY + naughty_strings()))
else:
    warnings.warn("CORPORA is not set: of the naughty strings, a few of ours are searched for", stacklevel=1)


@pytest.fixture(autouse=True)
def _use_settings(settings: Settings) -> None:
    """The producer's calls use the process's settings: those of this test."""


@pytest.fixture
def bait(drain: Drain) -> None:
    """Ours has a text and half of the strings, the other tenant the same text and all of them."""
    strings = [found for line in NAUGHTY if (found := line.replace("\0", "").strip())]
    chunks = [GivenChunk(f"{line} {SECRET}") for line in strings]
    bait = Document.chunks(chunks, source_path=SECRET, metadata={"kind": SECRET})
    submit([bait, Document.text(f"{WORDS} {SECRET}", source_path="ship")], tenant="theirs", project="vault")
    ours = [GivenChunk(line) for line in strings[::2]]
    submit([Document.text(WORDS, source_path="ship"), Document.chunks(ours, source_path="strings")])
    assert drain() == {"completed": 4}


def by_call(resources: Resources, given: dict[str, Any]) -> Told:
    try:
        return search(resources, read_query(given)), None
    except IngestError as error:
        return None, (error.message, error.hint)


def by_task(given: dict[str, Any]) -> Told:
    """Ask the task, through JSON as Celery writes it."""
    told = json.loads(json.dumps(answer_query(**json.loads(json.dumps({"query": given}))), allow_nan=False))
    assert not told.get("outage"), told
    return (read_answer(told["answer"]), None) if "answer" in told else (None, (told["error"], told["hint"]))


in_one_way = pytest.mark.parametrize("ask", ["task"], indirect=True)  # of what asks a thousand times


@pytest.fixture(params=["call", "task"])
def ask(request: pytest.FixtureRequest, resources: Resources) -> Ask:
    """Search on one of two ways. What comes back is ours, or says why there is nothing."""

    def run(**given: Any) -> Told:
        found = by_call(resources, given) if request.param == "call" else by_task(given)
        assert_safe(*found)
        return found

    return run


def assert_safe(answer: Answer | None, error: tuple[str, str] | None) -> None:
    if error is not None:
        assert all(part.isprintable() for part in error), error
        assert not INTERNAL.search(" ".join(error)), error
        assert len(" ".join(error)) < 1000
        return
    assert answer is not None
    assert not [hit for hit in answer.hits if SECRET in f"{hit.text} {hit.source_path} {hit.metadata}"]
    assert answer.hits or answer.notes or answer.dropped, "nothing, and nobody says why"
    assert not INTERNAL.search(" ".join(answer.notes)), answer.notes


def refusal(ask: Ask, **given: Any) -> str:
    answer, error = ask(**given)
    assert error is not None, answer
    return error[0]


def nothing(ask: Ask, **given: Any) -> tuple[str, ...]:
    """What is said where nothing was found."""
    answer, error = ask(**given)
    assert answer is not None, error
    assert answer.hits == ()
    return answer.notes


# -- the text --------------------------------------------------------------------------------------


def test_every_naughty_string_is_searched_for_as_it_is_and_in_quotes(
    bait: None, resources: Resources
) -> None:
    for line in NAUGHTY:
        quoted = {"text": f'"{line}"', "mode": "keyword"}
        for answer, error in (by_call(resources, {"text": line}), by_task(quoted)):
            assert_safe(answer, error)
            if error is not None:
                assert error[0] == "the query is empty", (line, error)


def test_queries_without_a_text_are_refused(bait: None, ask: Ask) -> None:
    for empty in ("", " ", "\n\t", "\0", " \0\0 "):
        for mode in (None, "hybrid", "vector", "keyword"):
            assert refusal(ask, text=empty, mode=mode) in {
                "the query is empty",
                "mode must be vector where there is no text",
            }
    assert refusal(ask) == "a query needs text, vector or like"


@pytest.mark.parametrize("mode", ["hybrid", "vector", "keyword"])
def test_megabyte_of_query_is_refused(ask: Ask, mode: str) -> None:
    said = "the query has 1,000,000 characters; 20,000 are allowed"
    assert refusal(ask, text="ship " * 199_999 + "storm", mode=mode) == said
    assert refusal(ask, text="\0" * 1_000_000, mode=mode) == "the query is empty"


LONGEST = ("ship " * 4000, "x" * 20_000, '"' * 20_000, '"a" ' * 5000, "\U0001f6a2" * 20_000)


@pytest.mark.parametrize("mode", ["hybrid", "vector", "keyword"])
def test_longest_query_is_answered(bait: None, ask: Ask, mode: str) -> None:
    for longest in LONGEST:
        answer, error = ask(text=longest, mode=mode)
        assert answer is not None, error
        assert answer.dropped == ()


def test_common_words_alone_are_looked_for_and_words_of_nobody_say_so(bait: None, ask: Ask) -> None:
    answer, _ = ask(text="the it was to as", mode="keyword")
    assert answer is not None
    assert answer.hits[0].source_path == "ship"
    assert nothing(ask, text="zeppelin", mode="keyword") == ("none of the words is in any chunk",)
    assert nothing(ask, text=PUNCTUATION, mode="keyword") == ("the query has no words to look for",)
    assert nothing(ask, text=SECRET, mode="keyword") == ("none of the words is in any chunk",)
    assert nothing(ask, text='"ship the"') == ("nothing has the quoted words",)


# -- names and ids of others -----------------------------------------------------------------------


def test_names_that_nobody_has_are_named(bait: None, ask: Ask) -> None:
    for name in NAUGHTY[:40]:
        if name.replace("\0", ""):
            assert refusal(ask, text="ship", tenant=name).startswith("there is no tenant ")
            assert refusal(ask, text="ship", project=name).startswith("there is no project ")
    assert refusal(ask, text="ship", project="vault") == "there is no project 'vault'"
    assert refusal(ask, text="ship", filter={"project": ["vault"]}) == "there is no project 'vault'"
    assert refusal(ask, text="ship", language="klingon") == "language 'klingon' is not known"


@pytest.mark.parametrize("name", ["tenant\0", "\0tenant", "ten\0ant", "tenant\ud800"])
def test_name_with_a_nul_is_no_other_name(bait: None, ask: Ask, name: str) -> None:
    """What a gateway puts into `tenant` stays what is asked, whatever else a caller's object has."""
    said = refusal(ask, **{"text": "ship", "tenant": "ours", name: "theirs"})
    assert said.startswith(f"a query has no field {name.replace(chr(0), chr(0xFFFD))[:3]!r}"[:-1])
    hidden = {"project": "mine", name.replace("tenant", "project").replace("ten\0ant", "pro\0ject"): "vault"}
    assert "has no field" in refusal(ask, text="ship", filter=hidden)


def test_ids_of_another_tenant_are_ids_of_nobody(bait: None, ask: Ask, connection: Connection) -> None:
    found = "SELECT {0}_id FROM {0}s JOIN tenants USING (tenant_id) WHERE name = 'theirs' LIMIT 3"
    for kind in ("document", "chunk"):
        for one in connection.execute(text(found.format(kind))).scalars():
            assert refusal(ask, like=str(one)) == f"there is no chunk or document {one}"
            assert nothing(ask, text="ship", filter={"documents": str(one)}) == ("nothing fits the filter",)
    nobody = str(uuid4())
    assert refusal(ask, like=nobody) == f"there is no chunk or document {nobody}"


def test_like_all_there_is_finds_nothing_and_says_so(ask: Ask, drain: Drain) -> None:
    receipt = submit([Document.text(WORDS, source_path="ship")])
    drain()
    assert nothing(ask, like=[str(one) for one in receipt.new]) == ("nothing else has a vector to compare",)


# -- filters ---------------------------------------------------------------------------------------


FITS_NOTHING = {("nothing fits the filter",), ("nothing that fits the filter was found",)}


def slices(strings: Sequence[str], size: int = 30) -> Iterator[list[str]]:
    return (list(strings[start : start + size]) for start in range(0, len(strings), size))


@in_one_way
def test_naughty_strings_as_conditions_fit_nothing(bait: None, ask: Ask) -> None:
    names = [line for line in NAUGHTY if line.replace("\0", "") and len(line) < 1000 and "*" not in line]
    for part in slices(names):
        assert nothing(ask, text="ship", filter={"source_path": part}) in FITS_NOTHING
        for key in part[::10]:
            for condition in ({"any": part}, {"gte": key}, {"exists": True}, {"contains": {key: part}}):
                for field in ("metadata", "chunk_metadata"):
                    keys = {**dict.fromkeys(part, key), key: condition}
                    assert nothing(ask, text="ship", filter={field: keys}) in FITS_NOTHING


@in_one_way
def test_naughty_strings_as_patterns_are_no_regular_expressions(bait: None, ask: Ask) -> None:
    wild = [
        f"**{line}*" for line in NAUGHTY if line.replace("\0", "") and len(re.findall(r"[*?]+", line)) < 90
    ]
    for part in slices([pattern for pattern in wild if len(pattern) < 2000]):
        answer, error = ask(text="ship", filter={"source_path": part}, mode="keyword")
        assert answer is not None, error


MALFORMED: list[tuple[Any, str]] = [
    ("x", "filter is 'x'; it must be an object of conditions"),
    ([], "filter is a list of 0; it must be an object of conditions"),
    ({"colour": 1}, "filter has no field 'colour'; it has project, documents, source_path, file_type, "),
    ({"tenant": "theirs"}, "filter has no field 'tenant'; it has "),
    ({"source_path": ""}, "filter.source_path is ''; it must be a pattern of 1 to 2,000 characters "),
    ({"source_path": "*a" * 101}, "filter.source_path is '*a*a"),
    ({"documents": "no id"}, "filter.documents is 'no id'; it must be the id of a document, or a list of "),
    ({"file_type": "pdf"}, "filter.file_type is 'pdf'; it must be one or several of markdown, code, "),
    ({"created": {}}, 'filter.created is an object of 0; it must be {"after": time, "before": time}'),
    ({"created": {"after": "2026"}}, "filter.created.after is '2026'; it must be a date or time"),
    ({"created": {"after": "20260101"}}, "filter.created.after is '20260101'; it must be a date or time"),
    ({"source_path": ["a*"] * 31}, "filter.source_path is a list of 31; it must be a pattern of 1 to 2,000 "),
    ({"created": {"after": 5}}, "filter.created.after is 5; it must be a date or time as in ISO 8601"),
    ({"created": {"since": "2026"}}, "filter.created has no field 'since'; it has after, before"),
    ({"metadata": "x"}, "filter.metadata is 'x'; it must be an object of up to 50 keys"),
    ({"metadata": {"a": [1]}}, "filter.metadata.'a' is a list of 1; it must be a value, or an object of "),
    ({"metadata": {"a": {}}}, "filter.metadata.'a' is an object of 0; it must be a value, or an object of "),
    ({"metadata": {"a": {"gte": None}}}, "filter.metadata.'a' is an object of 1; it must be a value, or "),
    ({"metadata": {"a": {"near": 1}}}, "filter.metadata.'a' has no field 'near'; it has equals, any, all, "),
    ({"metadata": {"a": {"gte": math.nan}}}, "filter.metadata.'a'.gte is nan; it must be a finite number"),
    ({"metadata": {"a": {"any": []}}}, "filter.metadata.'a'.any is a list of 0; it must be a list of 1 to "),
    ({"metadata": {"a": "x" * 70_000}}, "filter.metadata has 70,032 characters of JSON; 65,536 are allowed"),
    ({"metadata": {"a" * 3000: 1}}, "a name in filter.metadata has 3,000 characters; 2,000 are allowed"),
    ({"metadata": {str(n): 1 for n in range(51)}}, "filter.metadata is an object of 51; it must be "),
]  # fmt: skip


def test_malformed_filter_is_named(ask: Ask) -> None:
    for given, said in MALFORMED:
        assert refusal(ask, text="ship", filter=given).startswith(said)


def test_filter_nested_without_end_is_refused(ask: Ask) -> None:
    deep: Any = 1
    for _ in range(500):
        deep = {"contains": deep}
    assert refusal(ask, text="ship", filter={"metadata": {"a": deep}}) == "'filter' is nested over 20 deep"


# -- numbers and vectors ---------------------------------------------------------------------------


def test_number_of_results_is_bounded(ask: Ask) -> None:
    allowed = "it must be a whole number between 1 and 1000"
    for k in (0, -1, 10_000_000, 2.5, "10", True, math.nan, math.inf):
        assert refusal(ask, text="ship", k=k) == f"k is {k!r}; {allowed}"
    assert refusal(ask, text="ship", k=10**40) == f"k is a number too large; {allowed}"


NUMBERS = "it must be a list of up to 4,000 numbers, none of them NaN or infinity"
UNFIT = "the query cannot be searched for: "
VECTORS: list[tuple[Any, str]] = [
    ([1.0] * 255, f"{UNFIT}vectors have 255 dimensions, the database holds 256"),
    ([1.0] * 257, f"{UNFIT}vectors have 257 dimensions, the database holds 256"),
    ([1.0] * 4001, f"vector is a list of 4,001; {NUMBERS}"),
    ([], f"vector is a list of 0; {NUMBERS}"),
    ([0.0] * 256, f"{UNFIT}a vector is zero, or nearly: it has no direction to compare"),
    ([1e-30] * 256, f"{UNFIT}a vector is zero, or nearly: it has no direction to compare"),
    ([1e30] * 256, f"{UNFIT}a vector is too long: its square is no single-precision number"),
    ([1e300] * 256, f"{UNFIT}a vector has NaN, infinity or a number too large for vector"),
    ([math.nan] * 256, f"vector is nan; {NUMBERS}"),
    ([math.inf] * 256, f"vector is inf; {NUMBERS}"),
    (["1"] * 256, f"vector is '1'; {NUMBERS}"),
    ([None] * 256, f"vector is None; {NUMBERS}"),
    ([[1.0] * 256], f"vector is a list of 256; {NUMBERS}"),
    ("1" * 256, f"vector is '{'1' * 59}… (256 characters); {NUMBERS}"),
    ({"0": 1.0}, f"vector is an object of 1; {NUMBERS}"),
]


@pytest.mark.parametrize("metric", ["cosine", "l2", "inner_product"])
def test_vector_that_does_not_fit_is_refused(bait: None, ask: Ask, metric: str) -> None:
    for vector, said in VECTORS:
        for fields in ({"vector": vector}, {"vector": vector, "text": "ship", "mode": "hybrid"}):
            assert refusal(ask, metric=metric, **fields) == said


# -- the model -------------------------------------------------------------------------------------


def breaking(error: Exception) -> Any:
    class Broken:
        model = "broken"

        def embed(self, _texts: Sequence[str]) -> Any:
            raise error

    return Broken()


def giving(vectors: Any) -> Any:
    class Odd:
        model = "odd"

        def embed(self, _texts: Sequence[str]) -> Any:
            return vectors

    return Odd()


@pytest.mark.parametrize(
    ("model", "said"),
    [
        (breaking(RuntimeError("SELECT key FROM secrets")), "the query could not be embedded: RuntimeError"),
        (breaking(TimeoutError()), "the query could not be embedded: TimeoutError"),
        (giving([[math.nan] * 256]), f"{UNFIT}a vector has NaN, infinity or a number too large for vector"),
        (giving([[1.0] * 3]), f"{UNFIT}vectors have 3 dimensions, the database holds 256"),
        (giving([[0.0] * 256]), f"{UNFIT}a vector is zero, or nearly: it has no direction to compare"),
        (giving([]), "the query could not be embedded: IndexError"),
    ],
)
def test_model_that_fails_leaves_the_words_or_says_so(
    bait: None, resources: Resources, model: Any, said: str
) -> None:
    resources.__dict__["embedder"] = model

    def ask(**given: Any) -> Told:
        return by_call(resources, given)

    assert refusal(ask, text="ship", mode="vector") == said
    for mode, dropped in (("hybrid", ("embed",)), ("keyword", ())):
        answer, error = ask(text="ship", mode=mode)
        assert answer is not None, error
        assert answer.dropped == dropped
        assert {hit.source_path for hit in answer.hits} >= {"ship"}
        assert_safe(answer, error)
    answer, _ = ask(text="zeppelin")
    assert answer is not None
    assert (answer.hits, answer.dropped) == ((), ("embed",))


# -- the time --------------------------------------------------------------------------------------


class TestLate:
    @pytest.fixture
    def environment(self) -> dict[str, str]:
        return {"SEARCH_TIMEOUT_SECONDS": "1"}

    @pytest.mark.usefixtures("bait", "late_postings")
    def test_search_without_an_answer_in_time_is_told_from_one_that_cannot_be_answered(self) -> None:
        told = answer_query({"text": "ship", "mode": "keyword"})
        assert told["error"] == "the search took too long: keyword"
        assert producer._kind_of(told) is NoAnswerError
        assert producer._kind_of(answer_query({"text": ""})) is IngestError


@pytest.mark.usefixtures("settings")
def test_a_search_that_is_given_no_memory_ends_no_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worker.tasks.search", out_of_memory)
    told = answer_query({"text": "ship"})
    assert told["error"] == "the search worker was given no more memory"
    assert producer._kind_of(told) is NoAnswerError


@pytest.mark.usefixtures("settings")
def test_a_chore_that_is_given_no_memory_ends_no_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worker.tasks.run_chore", out_of_memory)
    with pytest.raises(ProcessMemoryError):
        current_app.tasks[TaskName.PURGE.value].apply(throw=True)


def out_of_memory(*_: object, **__: object) -> None:
    raise MemoryError


@pytest.fixture
def late_postings(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the statement that reads postings take longer than a search may."""
    late = keyword.POSTINGS.replace("SELECT term", "SELECT pg_sleep(60)::text, term")
    monkeypatch.setattr(keyword, "POSTINGS", late)


# -- the record ------------------------------------------------------------------------------------


def test_hostile_search_is_recorded_as_ours_and_bounded(bait: None, ask: Ask, connection: Connection) -> None:
    for line in NAUGHTY[:30]:
        answer, error = ask(text=f"{line} ship", user=line[:200], record=True)
        assert answer is not None, error
        assert isinstance(answer.run_id, UUID)
        assert answer.dropped == ()
    found = connection.execute(
        text(
            """SELECT DISTINCT name, pg_column_size(e) < 20000
               FROM evaluation_runs e JOIN tenants USING (tenant_id)"""
        )
    )
    assert found.all() == [("default", True)]


# -- the command -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "the query is empty → give some words to look for"),
        (
            ["x" * 100_000],
            "the query has 100,000 characters; 20,000 are allowed → give the words that matter",
        ),
        (["ship", "-k", "10000000"], "k is 10000000; it must be a whole number between 1 and 1000"),
        (["ship", "--mode", "\x1b[31m"], "mode is '\\x1b[31m'; it must be one of hybrid, vector, keyword"),
        (["ship", "--filter", "[" * 50_000], "--filter is nested too deeply"),
        (["ship", "--filter", '{"colour": 1}'], "filter has no field 'colour'; it has "),
        (["ship", "--filter", '{"source_path": "a"}', "--path", "b"], "source paths are given twice → "),
        (
            ["ship", "--weights", '{"vector": NaN}'],
            "weights.vector is nan; it must be a number from 0 to 1,000,000",
        ),
        (
            ["--like", "\u202e"],
            "like is '\\u202e'; it must be the id of a chunk or document, or a list of up to 1,000",
        ),
    ],
)
def test_command_refuses_before_it_asks_anybody(ingest: Run, arguments: list[str], said: str) -> None:
    done = ingest("search", *arguments, BROKER_URL="redis://127.0.0.1:1/0")
    assert (done.returncode, done.stdout) == (Exit.USAGE, b"")
    [line] = done.stderr.decode().splitlines()
    assert line.startswith(f"error: {said}")
