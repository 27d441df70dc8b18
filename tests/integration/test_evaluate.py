"""`ingest evaluate` on documents that were ingested: figures, names, and every mistake in one line."""

import json
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, text

from tests.conftest import Run, command
from worker import Document, submit
from worker.errors import Exit
from worker.producer import find
from worker.settings import Settings

Drain = Callable[[], dict[str, int]]
Evaluate = Callable[..., Any]

TEXTS = {
    "apples.md": "# Apples\n\nApples grow on trees in the orchard and taste sweet when they are red.",
    "ships.md": "# Ships\n\nThe ship left the harbour under sail and the captain steered her north.",
    "stars.md": "# Stars\n\nAstronomers measured the light of a distant galaxy through the telescope.",
    "bread.md": "# Bread\n\nThe baker kneads dough of flour, water and yeast, and bakes bread at dawn.",
}
QUERIES = {
    "q1": "apples on trees",
    "q2": "captain of the ship",
    "q3": "light of a galaxy",
    "q4": "yeast dough",
}
QRELS = {"q1": "apples", "q2": "ships", "q3": "stars", "q4": "bread"}


@pytest.fixture(autouse=True)
def _corpus(settings: Settings, drain: Drain) -> None:
    documents = [Document.text(words, source_path=f"/corpus/{name}") for name, words in TEXTS.items()]
    documents.append(Document.text(TEXTS["apples.md"], source_path="/corpus/copy.md"))
    submit(documents, tenant="t", project="p")
    assert drain() == {"completed": 4, "duplicate": 1}


@pytest.fixture
def evaluate(ingest: Run, tmp_path: Path) -> Evaluate:
    """Run the command on files of these lines."""

    def run(
        *arguments: str, queries: str | None = None, qrels: str | None = None, tenant: str = "t", **more: str
    ) -> Any:
        (tmp_path / "queries").write_text(json_lines(QUERIES) if queries is None else queries)
        (tmp_path / "qrels").write_text(judgements(QRELS) if qrels is None else qrels)
        files = ("--queries", "queries", "--qrels", "qrels", "--tenant", tenant)
        return ingest("evaluate", *files, *arguments, **more)

    return run


def json_lines(queries: dict[str, str]) -> str:
    return "".join(json.dumps({"_id": name, "text": words}) + "\n" for name, words in queries.items())


def judgements(qrels: dict[str, str]) -> str:
    return "".join(f"{query}\t{document}\t1\n" for query, document in qrels.items())


def measured(done: Any) -> dict[str, Any]:
    assert done.returncode == Exit.OK, done.stderr.decode()
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def refused(done: Any, code: Exit) -> str:
    assert done.returncode == code, done.stderr.decode()
    assert done.stdout == b""
    [line] = done.stderr.decode().splitlines()
    return str(line)


def test_every_mode_is_measured(evaluate: Evaluate) -> None:
    found = measured(evaluate("--json"))
    assert found["queries"] == {"measured": 4, "without_text": 0, "without_relevant": 0}
    assert found["documents"] == {
        "searchable": 4, "unknown": 0, "ambiguous": 0, "unknown_examples": [], "ambiguous_examples": [],
    }  # fmt: skip
    assert [result["mode"] for result in found["results"]] == ["vector", "keyword", "hybrid"]
    for result in found["results"]:
        assert {result[name] for name in ("ndcg", "recall", "mrr")} == {1}
        assert (result["queries"], result["errors"], result["error"], result["incomplete"]) == (4, 0, None, 0)
        assert 0 < result["p50_ms"] <= result["p95_ms"]
    assert found["differences"] == []


def test_people_get_a_table(evaluate: Evaluate) -> None:
    done = evaluate("--modes", "keyword,hybrid", "-k", "3")
    assert done.returncode == Exit.OK
    lines = done.stdout.decode().splitlines()
    assert lines[0] == "queries measured: 4; judged documents searchable: 4 of 4"
    [head] = [line.split() for line in lines if "nDCG@3" in line]
    assert head == ["mode", "nDCG@3", "recall@3", "MRR@3", "errors", "p50", "ms", "p95", "ms"]
    rows = [line.split() for line in lines if "1.0000" in line]
    best = ["1.0000", "1.0000", "1.0000", "0"]
    assert [row[:5] for row in rows] == [["keyword", *best], ["hybrid", *best]]
    assert done.stderr == b""


def test_two_settings_are_compared(evaluate: Evaluate) -> None:
    setting = {"weights": {"vector": 0, "keyword": 1}}
    arguments = ("--modes", "hybrid", "--compare", json.dumps(setting))
    found = measured(evaluate(*arguments, "--json"))
    assert [result["setting"] for result in found["results"]] == [{}, setting]
    assert found["differences"] == [
        {"mode": "hybrid", "ndcg": 0, "recall": 0, "mrr": 0, "better": 0, "worse": 0, "equal": 4}
    ]
    lines = evaluate(*arguments).stdout.decode().splitlines()
    assert lines[1] == 'A: the defaults; B: {"weights": {"vector": 0, "keyword": 1}}'
    assert [line.split()[:2] for line in lines if ".0000" in line] == [["hybrid", name] for name in "AB"] + [
        ["hybrid", "B"]
    ]
    assert lines[-1] == "hybrid: of the queries, B is better in 0, worse in 0, equal in 4"


def test_worse_setting_is_worse(evaluate: Evaluate) -> None:
    nothing = json.dumps({"filter": {"source_path": "**/apples.md"}})
    [difference] = measured(evaluate("--modes", "keyword", "--compare", nothing, "--json"))["differences"]
    assert (difference["better"], difference["worse"], difference["equal"]) == (0, 3, 1)
    assert difference["ndcg"] == -0.75


def test_filter_limits_what_is_found(evaluate: Evaluate) -> None:
    limit = json.dumps({"source_path": "**/ships.md"})
    [result] = measured(evaluate("--modes", "keyword", "--filter", limit, "--json"))["results"]
    assert result["recall"] == 0.25


@pytest.mark.parametrize("name", ["/corpus/apples.md", "apples.md", "apples", "copy", "{id}"])
def test_documents_have_several_names_and_a_duplicate_is_its_owner(evaluate: Evaluate, name: str) -> None:
    [row] = find(["/corpus/apples.md"], tenant="t")
    qrels = f"q1\t{name.format(id=row.document_id)}\t1\n"
    found = measured(evaluate("--modes", "keyword", "--json", qrels=qrels))
    assert found["documents"]["searchable"] == 1
    assert found["results"][0]["ndcg"] == 1


def test_files_have_many_forms(evaluate: Evaluate) -> None:
    lines = "".join(f"{name}\t{words}\r\n" for name, words in QUERIES.items())
    queries = f"\ufeffid\ttext\r\n{lines}\r\n\r\n"
    trec = "".join(f"{query} 0 {document} 1\n" for query, document in QRELS.items())
    beir = "query-id\tcorpus-id\tscore\n" + judgements(QRELS)
    for qrels in (trec, beir):
        found = measured(evaluate("--modes", "keyword", "--json", queries=queries, qrels=qrels))
        assert found["results"][0]["ndcg"] == 1


def test_what_is_not_there_counts_and_is_named(evaluate: Evaluate) -> None:
    more = "q1\tpears\t1\nq1\tplums\t0\nq5\tships\t0\nq6\tships\t1\n"
    done = evaluate("--modes", "keyword", qrels=judgements(QRELS) + more)
    assert done.returncode == Exit.OK
    assert done.stdout.decode().startswith("queries measured: 4; judged documents searchable: 4 of 6\n")
    assert done.stderr.decode().splitlines() == [
        "judged documents not there or not searchable, counted as not found: 2 (pears, plums)",
        "judged queries without text, left out: 1",
        "judged queries without a relevant document, left out: 1",
    ]
    found = measured(evaluate("--modes", "keyword", "--json", qrels=judgements(QRELS) + more))
    assert found["queries"] == {"measured": 4, "without_text": 1, "without_relevant": 1}
    assert found["documents"]["unknown_examples"] == ["pears", "plums"]
    assert found["results"][0]["recall"] == 0.875
    assert found["results"][0]["mrr"] == 1


def test_name_of_several_documents_is_told_from_one(evaluate: Evaluate, drain: Drain) -> None:
    submit([Document.text("Other ships.", source_path="/elsewhere/ships.md")], tenant="t", project="q")
    drain()
    done = evaluate("--modes", "keyword")
    said = "judged documents whose name fits several, counted as not found: 1 (ships); name the project"
    assert done.stderr.decode().splitlines() == [said]
    found = measured(evaluate("--modes", "keyword", "--project", "p", "--json"))
    assert (found["documents"]["ambiguous"], found["results"][0]["ndcg"]) == (0, 1)


def test_query_that_fails_is_named_and_has_found_nothing(evaluate: Evaluate) -> None:
    failing = json_lines(QUERIES | {"q1": "x" * 20_001, "q2": ""})
    done = evaluate("--modes", "keyword", "--json", queries=failing)
    assert done.returncode == Exit.FINDINGS
    [result] = json.loads(done.stdout)["results"]
    assert (result["errors"], result["queries"], result["ndcg"]) == (2, 4, 0.5)
    assert result["error"].startswith("the query has 20,001 characters")


def test_query_the_database_is_late_for_is_one_that_fails(evaluate: Evaluate, other: Connection) -> None:
    other.execute(text("LOCK TABLE postings IN ACCESS EXCLUSIVE MODE"))
    done = evaluate("--modes", "keyword", "--json", SEARCH_TIMEOUT_SECONDS="1")
    assert done.returncode == Exit.FINDINGS, done.stderr
    [result] = json.loads(done.stdout)["results"]
    assert result["errors"] == len(QUERIES)
    assert result["error"].startswith("the search took too long: ")


def test_searches_of_an_evaluation_are_not_recorded(evaluate: Evaluate, connection: Connection) -> None:
    measured(evaluate("--modes", "keyword", "--json", SEARCH_RECORD_ALL="true"))
    assert connection.execute(text("SELECT count(*) FROM evaluation_runs")).scalar_one() == 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--modes", "fast"], "--modes 'fast' is not of vector, keyword, hybrid"),
        (["--modes", ","], "--modes ',' is not of"),
        (["--filter", "{"], "--filter is not JSON"),
        (["--filter", "[]"], "--filter is not a JSON object"),
        (["--filter", '{"colour": 1}'], "filter has no field 'colour'"),
        (["--compare", "rrf"], "--compare is not JSON"),
        (["--compare", '{"k": 3}'], "'k' is no setting to measure"),
        (["--compare", '{"fusion": "best"}'], "fusion is 'best'; it must be one of minmax, rrf"),
        (["--project", "nothing"], "there is no tenant 't' with a project 'nothing'"),
        (["--tenant", "nobody"], "there is no tenant 'nobody'"),
    ],
)
def test_what_cannot_be_asked_is_refused_before_anything_is(
    evaluate: Evaluate, arguments: list[str], said: str
) -> None:
    assert refused(evaluate(*arguments), Exit.USAGE).startswith(f"error: {said}")


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({"qrels": ""}, "qrels has no judgement"),
        ({"qrels": "query-id\tcorpus-id\tscore\n"}, "qrels has no judgement"),
        ({"qrels": "q1\tnothing\t1\n"}, "none of the 1 judged documents is searchable in tenant 't'"),
        ({"qrels": "q1\tships\0\t1\n"}, "none of the 1 judged documents is searchable in tenant 't'"),
        ({"qrels": "q1\tships\t0\n"}, "no judgement says that a document answers its query"),
        ({"queries": ""}, "none of the 4 judged queries is in queries"),
        ({"queries": json_lines({"other": "x"})}, "none of the 4 judged queries is in queries"),
    ],
)
def test_judgements_without_use_are_named(evaluate: Evaluate, files: dict[str, str], said: str) -> None:
    assert refused(evaluate(**files), Exit.USAGE).startswith(f"error: {said}")


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({"queries": "q1\tok\n{broken\n"}, "queries, line 2: no JSON"),
        ({"queries": "\n\nq1 no tab\n"}, "queries, line 3: a query is"),
        ({"queries": "q1\t" + "x" * (1 << 20)}, "queries, line 1: over 1,048,576 bytes"),
        ({"qrels": "q1\tships\t1\nq2\tships\n"}, "qrels, line 2: a judgement is"),
        ({"qrels": "q1\tships\thigh\n"}, "qrels, line 1: the grade 'high' is no whole number"),
    ],
)
def test_line_that_cannot_be_read_is_named(evaluate: Evaluate, files: dict[str, str], said: str) -> None:
    assert refused(evaluate(**files), Exit.SOURCE).startswith(f"error: {said}")


def test_file_that_cannot_be_read_is_named(ingest: Run, tmp_path: Path) -> None:
    good, latin = tmp_path / "good", tmp_path / "latin"
    good.write_text(judgements(QRELS))
    latin.write_bytes(b"q1\tcaf\xe9\t1\n")
    for queries, qrels, said in (
        ("missing", "good", "there is no file missing"),
        ("good", "missing", "there is no file missing"),
        ("good", ".", ". cannot be read: Is a directory"),
        (".", "good", ". cannot be read: Is a directory"),
        ("good", "latin", "latin, line 1: no UTF-8"),
        ("good", "a\x1b", "there is no file a\\x1b"),
    ):
        done = ingest("evaluate", "--queries", queries, "--qrels", qrels, "--tenant", "t")
        assert refused(done, Exit.SOURCE).startswith(f"error: {said}")


def test_interruption_says_how_far_it_came(settings: Settings, tmp_path: Path, other: Connection) -> None:
    """A search waits for a lock meanwhile."""
    (tmp_path / "queries").write_text(json_lines(QUERIES))
    (tmp_path / "qrels").write_text(judgements(QRELS))
    other.execute(text("LOCK TABLE chunks IN ACCESS EXCLUSIVE MODE"))
    process = subprocess.Popen(
        command("evaluate", "--queries", "queries", "--qrels", "qrels", "--tenant", "t"),
        cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    waits = text("SELECT count(*) FROM pg_locks WHERE NOT granted")
    while not other.execute(waits).scalar_one():
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    other.rollback()
    out, err = process.communicate(timeout=60)
    assert process.returncode == Exit.INTERRUPTED, err.decode()
    assert (out, err) == (b"", b"interrupted: 0 of 4 queries were measured\n")
