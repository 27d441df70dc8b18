"""Every benchmark runs, at a tiny scale, and leaves a file of the promised form; times do not count."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import pytest

from tests.forks import Forks

ROOT = Path(__file__).parents[2]


NAMES = [
    "pipeline", "writer", "rerun", "memory", "edits", "sealing", "halfvec", "growth", "million", "hybrid",
    "filtered", "overhead", "vacuum", "recall", "chores", "priority", "exporter", "soak", "hostile",
]  # fmt: skip
SECONDS = 240
Benchmark = Callable[..., CompletedProcess[str]]


@pytest.fixture
def benchmark(forks: Forks, tmp_path: Path) -> Benchmark:
    """Run a benchmark as on a machine without the peers."""

    def run(name: str, **more: str) -> "CompletedProcess[str]":
        usual = {"SCALE": "0.002", "OUT": str(tmp_path), "PEERS_VENV": str(tmp_path / "none")}
        environment = {**os.environ, **usual, **more}
        done = forks.run([name], b"", ROOT, environment, module="benchmarks", timeout=SECONDS)
        return CompletedProcess(done.args, done.returncode, done.stdout.decode(), done.stderr.decode())

    return run


@pytest.mark.parametrize("name", NAMES)
def test_a_benchmark_leaves_its_figures(name: str, tmp_path: Path, benchmark: Benchmark) -> None:
    run = benchmark(name)
    assert run.returncode in (0, 1), run.stderr  # 1: a demand does not hold, as is to be expected here
    assert "Traceback" not in run.stderr, run.stderr
    found = json.loads((tmp_path / f"{name}.json").read_text())
    assert set(found) == {"name", "scale", "machine", "versions", "settings", "figures", "demands"}
    assert found["name"] == name
    assert found["machine"]["cores"] >= 1
    assert {"python", "postgres", "pgvector", "valkey", "celery"} <= set(found["versions"])
    assert found["figures"]
    assert found["demands"] or name == "overhead"
    for demand in found["demands"]:
        assert set(demand) == {"name", "demanded", "measured", "holds"}
        assert demand["measured"] > 0 or name in ("memory", "filtered", "recall", "chores", "soak")
        assert isinstance(demand["holds"], bool)


def test_any_judged_collection_is_measured(tmp_path: Path, benchmark: Benchmark) -> None:
    words = ("apple", "harbour", "telescope", "bread", "galaxy", "captain")
    write(
        tmp_path / "docs.jsonl", [{"id": word, "title": word, "text": f"About the {word}."} for word in words]
    )
    write(tmp_path / "queries.jsonl", [{"id": f"q{word}", "text": word} for word in words])
    (tmp_path / "qrels.tsv").write_text("".join(f"q{word}\t{word}\t1\n" for word in words))
    run = benchmark("quality", JUDGED=str(tmp_path), CORPORA=str(tmp_path), SCALE="1")
    assert run.returncode == 0, run.stderr
    [rows] = json.loads((tmp_path / "quality.json").read_text())["figures"].values()
    assert [row["mode"] for row in rows] == ["vector", "keyword", "hybrid", "hybrid, RRF"]
    assert {row["nDCG@10"] for row in rows if row["mode"] == "keyword"} == {1}
    assert {(row["failed"], row["late"]) for row in rows} == {(0, 0)}


def test_what_a_line_of_the_log_costs_is_measured(tmp_path: Path, benchmark: Benchmark) -> None:
    run = benchmark("logs")
    assert run.returncode in (0, 1), run.stderr
    [rows] = json.loads((tmp_path / "logs.json").read_text())["figures"].values()
    assert len(rows) == 4
    assert "document.settled" not in run.stdout + run.stderr


def write(path: Path, records: list[dict[str, str]]) -> None:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))


def test_without_a_judged_collection_it_says_which_are_meant(tmp_path: Path, benchmark: Benchmark) -> None:
    run = benchmark("quality", CORPORA=str(tmp_path), JUDGED="")
    assert run.returncode == 2
    assert "set CORPORA, which has ir/scifact, or JUDGED" in run.stderr
    run = benchmark("quality", JUDGED=str(tmp_path))
    assert run.returncode == 2
    assert "no docs.jsonl, no queries.jsonl, no qrels_test.tsv or qrels.tsv" in run.stderr


def test_a_benchmark_nobody_wrote_is_refused(benchmark: Benchmark) -> None:
    run = benchmark("nothing")
    assert run.returncode == 2
    assert "pipeline" in run.stderr


def test_without_the_peers_nothing_is_compared_with_them(benchmark: Benchmark) -> None:
    run = benchmark("peers")
    assert run.returncode == 2
    assert run.stderr.splitlines() == [
        "the peers are not installed: run `make bench NAME=peers`, which installs them"
    ]
