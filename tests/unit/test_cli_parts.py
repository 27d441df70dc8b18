"""The pure parts of the command: what it parses, judges and writes."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from worker.cli.checks import (
    Server,
    State,
    check_pgvector,
    judge_broker_version,
    judge_database_version,
    judge_disk,
)
from worker.cli.corpus import first_words, queries_of
from worker.cli.flower import flower_environment
from worker.cli.inputs import parse_metadata
from worker.cli.moments import read_moment
from worker.cli.output import age, columns, count, emit, printable
from worker.cli.processes import Kind, worker_options
from worker.cli.vitals import judge
from worker.db.overview import Health, Segments
from worker.db.pauses import Pause
from worker.errors import IngestError, SettingsError
from worker.producer import Document
from worker.settings import Settings, read_settings
from worker.types import Lane, TaskName

DEEP = "[" * 100_000


def settings(**values: Any) -> Settings:
    return read_settings(database_url="postgresql://u:secret@h/d", broker_url="redis://h", **values)


def test_metadata_values_are_json_where_they_parse() -> None:
    given = parse_metadata(["year=2026", "name=a=b", "tags=[1]", "year=2027"], '{"year": 1, "kept": true}')
    assert given == {"year": 2027, "name": "a=b", "tags": [1], "kept": True}


@pytest.mark.parametrize(
    ("pairs", "document"),
    [(["x"], None), (["=1"], None), ([], "[]"), ([], "{"), ([f"a={DEEP}"], None), ([], DEEP)],
)
def test_metadata_that_is_none_is_refused(pairs: list[str], document: str | None) -> None:
    with pytest.raises(IngestError, match="--meta"):
        parse_metadata(pairs, document)


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("30s", timedelta(seconds=30)),
        ("90 min", timedelta(minutes=90)),
        ("2h", timedelta(hours=2)),
        (" 3d", timedelta(days=3)),
        ("2026-11-30T08:00", datetime(2026, 11, 30, 8, tzinfo=UTC)),
        ("2026-11-30 09:00+01:00", datetime(2026, 11, 30, 8, tzinfo=UTC)),
        ("2026-11-30", datetime(2026, 11, 30, tzinfo=UTC)),
        (None, None),
    ],
)
def test_a_moment_is_how_long_ago_or_when(written: str | None, meant: object) -> None:
    assert read_moment("--since", written) == meant


@pytest.mark.parametrize("written", ["", "yesterday", "2m", "-2h", "1e3s", "25:00", "2h ago"])
def test_what_is_no_moment_is_refused(written: str) -> None:
    with pytest.raises(IngestError, match=r"--until .* is no time"):
        read_moment("--until", written)


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("plain ü", "plain ü"),
        ("two\nlines", "two\\nlines"),
        ("\x1b[31m", "\\x1b[31m"),
        ("a\udcff", "a\\udcff"),
    ],
)
def test_names_are_written_on_one_line_without_control(name: str, shown: str) -> None:
    assert printable(name) == shown


def test_numbers_are_written_for_people() -> None:
    assert (count(1, "document"), count(1790, "document")) == ("1 document", "1,790 documents")
    assert [age(seconds) for seconds in (5, 119, 120, 7200, 200_000)] == [
        "5 s",
        "119 s",
        "2 min",
        "2 h",
        "2 d",
    ]


def test_columns_are_aligned_numbers_to_the_right(capsys: pytest.CaptureFixture[str]) -> None:
    columns([("a", 5), ("long", 1000)])
    assert capsys.readouterr().out == "  a         5\n  long  1,000\n"


def test_json_is_one_document_of_ascii(capsys: pytest.CaptureFixture[str]) -> None:
    emit({"path": Path("a"), "name": "ü\udcff"})
    written = capsys.readouterr().out
    assert written.isascii()
    assert json.loads(written) == {"path": "a", "name": "ü\udcff"}


@pytest.mark.parametrize(
    ("head", "words"),
    [
        (b"\n# The first heading\ntext", "The first heading"),
        (b"#!/usr/bin/env python\n# A program. It runs.", "A program"),
        (b"one\ntwo words", "two words"),
        (b"PK\0\0 not text", ""),
        (b"", ""),
    ],
)
def test_question_is_the_first_line_of_words(head: bytes, words: str) -> None:
    assert first_words(head) == words


def test_two_different_questions_are_taken_from_a_corpus(tmp_path: Path) -> None:
    for number, text in enumerate(["same words", "same words", "other words", "third words"]):
        (tmp_path / f"{number}.txt").write_text(text)
    documents = [Document.path(path) for path in sorted(tmp_path.iterdir())]
    assert queries_of(documents) == ("same words", "other words")


def test_worker_takes_what_a_person_waits_for_first() -> None:
    options = worker_options(Kind.INGEST, settings(ingest_concurrency=3))
    assert options["queues"] == ["interactive", "ingest"]
    assert options["concurrency"] == 3
    assert worker_options(Kind.SEARCH, settings(ingest_concurrency=3))["concurrency"] == 1


def test_flower_gets_its_password_by_the_environment() -> None:
    given = {"flower_basic_auth": "user:secret", "flower_port": 5556, "flower_read_only": True}
    assert flower_environment(settings(**given)) == {
        "FLOWER_ADDRESS": "127.0.0.1",
        "FLOWER_PORT": "5556",
        "FLOWER_BASIC_AUTH": "user:secret",
        "FLOWER_READ_ONLY": "true",
        "FLOWER_URL_PREFIX": "",
        "FLOWER_UNAUTHENTICATED_API": "false",
        "FLOWER_PERSISTENT": "false",
    }


def test_flower_without_a_password_is_refused_on_every_address(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FLOWER_BASIC_AUTH", raising=False)
    for address in ("127.0.0.1", "0.0.0.0", "flower.example"):
        with pytest.raises(SettingsError, match="FLOWER_BASIC_AUTH"):
            flower_environment(settings(flower_address=address))


@pytest.mark.parametrize(
    ("version", "state"),
    [
        (None, State.FAILED),
        ((0, 8, 1), State.FAILED),
        ((0, 8, 2), State.WARNING),
        ((0, 8, 4), State.OK),
        ((0, 10, 0), State.OK),
    ],
)
def test_pgvector_versions(version: tuple[int, ...] | None, state: State) -> None:
    assert check_pgvector(Server("18.4", version, None)).state is state


@pytest.mark.parametrize(
    ("version", "hole"),
    [
        ("13.23", True), ("16.11", True), ("16.12", False), ("17.7", True), ("18", True), ("18.1", True),
        ("18.2", False), ("18.10", False), ("19.0", False), ("19beta3", False),
    ],
)  # fmt: skip
def test_a_database_server_with_a_known_hole_is_warned_of(version: str, hole: bool) -> None:
    found = judge_database_version(version)
    assert [(finding.state, "CVE-2026-2006" in finding.seen) for finding in found] == [
        (State.WARNING, True)
    ] * hole


@pytest.mark.parametrize(
    ("said", "hole"),
    [
        ({"redis_version": "6.0.16"}, True),
        ({"redis_version": "6.2.19"}, True),
        ({"redis_version": "6.2.20"}, False),
        ({"redis_version": "7.0.15"}, True),
        ({"redis_version": "7.2.4"}, True),
        ({"redis_version": "8.2.1"}, True),
        ({"redis_version": "8.2.2"}, False),
        ({"redis_version": "8.10.0"}, False),
        ({"redis_version": "7.2.4", "valkey_version": "8.1.3"}, True),
        ({"redis_version": "7.2.4", "valkey_version": "8.1.4"}, False),
        ({"redis_version": "7.2.4", "valkey_version": "9.1.2"}, False),
        ({"redis_version": "unstable"}, False),
        ({}, False),
    ],
)
def test_a_broker_with_a_known_hole_is_warned_of(said: dict[str, Any], hole: bool) -> None:
    found = judge_broker_version(said)
    assert [(finding.state, "CVE-2025-49844" in finding.seen) for finding in found] == [
        (State.WARNING, True)
    ] * hole


@pytest.mark.parametrize(
    ("total", "free", "state"),
    [(100 << 30, 10 << 30, State.OK), (100 << 30, 4 << 30, State.WARNING), (2 << 30, 1 << 29, State.WARNING)],
)
def test_little_disk_space_is_a_warning(total: int, free: int, state: State) -> None:
    assert judge_disk(Path("/data"), total, free).state is state


class Run:
    """A row of the last runs."""

    def __init__(self, chore: str, outcome: str = "done", ago: float = 5, **details: Any) -> None:
        self.chore, self.outcome, self.seconds_ago, self.details = chore, outcome, ago, details
        self.error_message = "it broke" if outcome == "failed" else None


def states(health: Health) -> dict[str, str]:
    return {finding.name: finding.state.value for finding in judge(health, settings())}


ALIVE = {"ingest": 1, "interactive": 1, "search": 1, "maintenance": 1, "beat": 1}


def health(**changed: Any) -> Health:
    sound: dict[str, Any] = {
        "dimension": 256,
        "column_type": "vector",
        "metric": "cosine",
        "alive": ALIVE,
        "runs": [
            *(Run(name.chore) for name in TaskName if name.chore and name.chore != "indexes"),
            Run("indexes", invalid=[], missing=[]),
        ],
        "running": [],
        "beat_seconds": 1e6,
        "oldest_waiting_seconds": None,
        "segments": Segments({"open": 1}, 20_000, []),
        "paused": [],
    }
    return Health(**(sound | changed))


class Build(NamedTuple):
    """A row of the index builds under way."""

    leaf: str
    phase: str
    blocker: int
    done: float | None
    waits_for: str
    since_seconds: float


BLOCKED: Any = Build("chunks_s000003", "waiting for old snapshots", 77, None, "a report", 600.0)


def test_who_keeps_a_build_waiting_is_named() -> None:
    [found] = [
        finding
        for finding in judge(health(segments=Segments({"sealing": 3}, 40_000, [BLOCKED])), settings())
        if finding.name == "sealing"
    ]
    assert found.seen == (
        "40,000 rows without a vector index, at most 33,156; the index of chunks_s000003 waits for session 77"
        " (a report), whose transaction began 10 min ago; ingestion waits"
    )
    assert found.mend == "end that session: `SELECT pg_terminate_backend(77)`"


class Trouble(NamedTuple):
    """A row of the troubles of batches."""

    trouble: str
    batches: int
    documents: int
    seconds: float


def test_what_holds_up_batches_is_said() -> None:
    away = Trouble("the embedding provider does not answer: 429", 2, 300, 600.0)
    [found] = [one for one in judge(health(troubles=[away]), settings()) if one.name == "batches"]
    assert (found.state, found.seen) == (
        State.WARNING,
        "2 batches of 300 documents, claimed 10 min ago: the embedding provider does not answer: 429",
    )


PAUSED = Pause(
    "acme", "a b", Lane.BULK, "disk full", "ann@host", datetime(2026, 11, 30, 12, tzinfo=UTC), 7200.0
)


def test_what_is_paused_is_named_with_what_ends_it() -> None:
    held = health(paused=[PAUSED], oldest_waiting_seconds=700.0)
    [paused, backlog] = [found for found in judge(held, settings()) if found.name in ("paused", "backlog")]
    assert paused.seen == "tenant acme, project a b, queue bulk, for 2 h, by ann@host: disk full"
    assert paused.mend == "`ingest resume --tenant acme --project 'a b' --queue bulk` when that is over"
    assert backlog.mend == "`ingest resume` what is paused, if that is what waits"
    assert str(PAUSED) == (
        "tenant acme, project a b, queue bulk is paused since 2026-11-30 12:00+00:00 by ann@host: disk full;"
        " `ingest resume --tenant acme --project 'a b' --queue bulk` ends it"
    )


def test_sound_system_has_no_findings() -> None:
    assert set(states(health()).values()) == {"ok"}


@pytest.mark.parametrize(
    ("changed", "name", "state"),
    [
        ({"dimension": 1536}, "embedding space", "failed"),
        ({"metric": "l2"}, "embedding space", "failed"),
        ({"alive": {}}, "search worker", "failed"),
        ({"alive": {}}, "beat", "failed"),
        ({"alive": {}}, "interactive worker", "warning"),
        ({"runs": []}, "beat", "warning"),
        ({"runs": [], "beat_seconds": 5.0}, "beat", "ok"),
        ({"runs": [Run("dispatch", ago=1e4)]}, "beat", "warning"),
        ({"runs": [Run("dispatch", ago=1e4)], "beat_seconds": 5.0}, "beat", "ok"),
        ({"runs": [Run("dispatch", ago=1e4)], "beat_seconds": 5.0}, "chores", "warning"),
        ({"runs": [Run("seal", ago=1e4)], "running": ["seal"], "beat_seconds": 5.0}, "chores", "ok"),
        ({"runs": [Run("vacuum", "failed")]}, "chores", "failed"),
        ({"runs": [Run("indexes", invalid=["broken_idx"])]}, "indexes", "failed"),
        ({"runs": [Run("reconcile", left=2)]}, "consistency", "failed"),
        ({"runs": [Run("reconcile", left=0)]}, "consistency", "ok"),
        ({"segments": Segments({"open": 1, "sealing": 3}, 32_000, [])}, "sealing", "warning"),
        ({"segments": Segments({"open": 1, "sealing": 1}, 20_000, [BLOCKED])}, "sealing", "ok"),
        ({"oldest_waiting_seconds": 700.0}, "backlog", "warning"),
        ({"oldest_waiting_seconds": 5.0}, "backlog", "ok"),
        ({"oldest_waiting_seconds": 700.0, "alive": {}}, "backlog", "ok"),
        ({"paused": [PAUSED]}, "paused", "warning"),
        ({"paused": [PAUSED], "oldest_waiting_seconds": 700.0}, "backlog", "warning"),
    ],
)
def test_what_is_wrong_is_found(changed: dict[str, Any], name: str, state: str) -> None:
    assert states(health(**changed))[name] == state
