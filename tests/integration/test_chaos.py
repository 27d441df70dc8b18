"""The chaos run, tiny: some faults of a seed, nothing lost, nothing twice; times do not count."""

import json
import os
import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from celery import signals

from benchmarks.chaos.answers import wrong_answers
from benchmarks.chaos.compare import Holdings, difference
from benchmarks.chaos.embedded import Embedded
from benchmarks.chaos.faults import deck, kinds
from benchmarks.chaos.ofworkers import STAGES
from benchmarks.chaos.process import note_stages
from benchmarks.chaos.script import Operation, Script, paragraph
from tests.forks import Forks
from worker import metrics

ROOT = Path(__file__).parents[2]
NONE_OF = {
    "lost", "duplicated", "stuck", "not as undisturbed", "failed", "invariants violated", "wrong answers",
    "embedded twice by one attempt", "findings of verify", "processes that ended by themselves",
}  # fmt: skip


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory, forks: Forks) -> dict[str, Any]:
    out = tmp_path_factory.mktemp("chaos")
    environment = {**os.environ, "OUT": str(out), "SEED": "12", "MINUTES": "0.4", "FAULTS": "4"}
    run = forks.run(["chaos"], b"", ROOT, environment, module="benchmarks", timeout=240)
    assert b"Traceback" not in run.stderr, run.stderr.decode()
    assert run.returncode == 1, run.stderr.decode()  # so few faults are not of as many kinds as is demanded
    record: dict[str, Any] = json.loads((out / "chaos.json").read_text())
    return record


def test_after_some_faults_nothing_is_lost_and_nothing_is_twice(found: dict[str, Any]) -> None:
    demands = {demand["name"]: demand for demand in found["demands"]}
    assert demands.keys() >= NONE_OF
    assert {name: demands[name]["measured"] for name in NONE_OF} == dict.fromkeys(NONE_OF, 0)


def test_what_was_compared_is_not_nothing(found: dict[str, Any]) -> None:
    figures = {row["what"]: row["count"] for row in found["figures"]["what was found"]}
    assert figures["faults"] == 4
    assert figures["documents in the end"] > 0
    assert figures["chunks embedded"] > 0
    assert figures["invariants asked"] > 10
    assert figures["most attempts of a document"] > 0


def test_where_in_a_batch_a_kill_struck_is_told(found: dict[str, Any]) -> None:
    stages = found["figures"]["kills by stage"]
    assert {row["fault"] for row in stages} == {"worker: child kill -9", "worker: parent kill -9"}
    assert {row["stage of the batch"] for row in stages} <= {"no batch", "wait", *STAGES}


def test_a_seed_gives_the_same_faults_and_the_same_operations_again() -> None:
    assert [kind.name for kind in deck(random.Random(5))] == [kind.name for kind in deck(random.Random(5))]
    first, second = (Script(5, "north", Path("/files")).operations() for _ in range(2))
    for _ in range(200):
        operation = next(first)
        assert operation == next(second)
        assert Operation.read(json.loads(json.dumps(operation.record()))) == operation


def test_there_are_fifteen_kinds_and_more() -> None:
    names = [kind.name for kind in kinds()]
    assert len(set(names)) == len(names) >= 15


def holdings(documents: dict[str, str], chunks: dict[str, str]) -> Holdings:
    return Holdings(
        {path: (status, "hash") for path, status in documents.items()},
        Counter(),
        {("p", content): found for content, found in chunks.items()},
        len(chunks),
        {},
    )


def test_whatever_differs_is_told() -> None:
    meant = holdings({"a": "completed", "b": "skipped"}, {"x": "1", "y": "2"})
    assert difference(meant, meant).total == 0
    less = difference(holdings({"a": "failed"}, {"x": "1"}), meant)
    assert (len(less.lost), len(less.extra), len(less.other)) == (2, 0, 1)
    beside = holdings({"a": "completed", "b": "skipped", "c": "completed"}, {"x": "3", "y": "2"})
    more = difference(beside, meant)
    assert (len(more.lost), len(more.extra), len(more.other)) == (0, 1, 1)


def test_what_is_embedded_again_is_counted(tmp_path: Path) -> None:
    (tmp_path / "1.embedded").write_text("batch-1 aa bb\nbatch-1 cc\n")
    (tmp_path / "2.embedded").write_text("batch-2 aa bb\nbatch-2 aa\n")
    assert Embedded.read(tmp_path) == Embedded(texts=6, again=3, within=1)


def test_an_answer_that_was_never_submitted_there_is_found(tmp_path: Path) -> None:
    submitted = Operation("submit", "library", (("a.txt", (5_000, 6_000)),))
    (tmp_path / "north.journal").write_text(json.dumps(submitted.record()) + "\n")
    right = paragraph(6_000)
    answers = [
        ["library", "a.txt", right],
        ["harbour", "a.txt", right],
        ["library", "b.txt", right],
        ["library", "a.txt", paragraph(7_000)],
    ]
    (tmp_path / "north.answers").write_text("".join(json.dumps(answer) + "\n" for answer in answers))
    assert len(wrong_answers(tmp_path, ["north"])) == 3


def test_a_file_is_written_anew_before_it_is_submitted(tmp_path: Path) -> None:
    path = tmp_path / "north" / "1.txt"
    for number in (5_000, 6_000):
        [document] = Operation("submit", "library", ((str(path), (number,)),)).made()
        assert document.content is None
        assert path.read_text() == paragraph(number)


def test_a_process_writes_down_the_stage_of_its_batch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metrics.stage_seconds, "labels", metrics.stage_seconds.labels)
    for signal in (signals.task_prerun, signals.task_postrun):
        monkeypatch.setattr(signal, "receivers", [])
    note_stages(tmp_path)
    file = tmp_path / f"{os.getpid()}.stage"
    signals.task_prerun.send(None)
    assert file.read_text().strip() == "claim"
    with metrics.stage("load"):
        assert file.read_text().strip() == "load"
    signals.task_postrun.send(None)
    assert not file.exists()
