"""`ingest` as a user meets it: commands as processes, their output, their exit codes."""

import json
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

import psutil
import pytest
from sqlalchemy import Connection, text
from tenacity import RetryError, Retrying, retry_if_result, stop_after_delay, wait_fixed

from tests.conftest import Run, command
from tests.forks import Fork, Forks
from worker.errors import Exit
from worker.producer import Document, submit
from worker.settings import Settings

NOWHERE = "redis://127.0.0.1:1/0"
LIGHT = """
import sys
from worker.cli.commands import application
application()
print(sorted({"sqlalchemy", "celery", "pydantic", "rich.console", "redis"} & set(sys.modules)))
"""

Drain = Callable[[], dict[str, int]]


@pytest.fixture
def files(tmp_path: Path) -> Path:
    folder = tmp_path / "files"
    folder.mkdir()
    for name, words in {
        "apples.md": "# Apples\n\nApples are red.",
        "bananas.txt": "Bananas are yellow.",
    }.items():
        (folder / name).write_text(words)
    return folder


def until(condition: Callable[[], object], seconds: float = 60) -> None:
    Retrying(
        stop=stop_after_delay(seconds), wait=wait_fixed(0.02), retry=retry_if_result(lambda found: not found)
    )(condition)


def alive(connection: Connection, kind: str) -> bool:
    return bool(
        connection.execute(text("SELECT 1 FROM heartbeats WHERE kind = :kind"), {"kind": kind}).first()
    )


Start = Callable[..., Fork]


@pytest.fixture
def start(settings: Settings, connection: Connection, tmp_path: Path, forks: Forks) -> Iterator[Start]:
    """Start a worker in a session of its own; give it when it is ready."""
    started: list[Fork] = []

    def run(kind: str) -> Fork:
        log = tmp_path / f"{kind}.log"
        process = forks.start(["worker", kind], tmp_path, os.environ, {"stdout": log, "stderr": log})
        started.append(process)
        until(lambda: alive(connection, kind) or process.poll() is not None)
        assert process.poll() is None, log.read_text()
        return process

    yield run
    for process in started:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def answer(done: subprocess.CompletedProcess[bytes]) -> Any:
    return json.loads(done.stdout)


def test_help_imports_nothing_heavy() -> None:
    done = subprocess.run([sys.executable, "-c", LIGHT], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_folder_is_recorded_and_a_second_time_unchanged(ingest: Run, files: Path, drain: Drain) -> None:
    first = ingest("add", files, "--project", "fruit", "--json")
    assert first.returncode == Exit.OK
    assert (answer(first)["new"], len(answer(first)["document_ids"])) == (2, 2)
    assert b"no ingest worker" not in first.stderr
    assert drain() == {"completed": 2}
    second = ingest("add", files, "--project", "fruit")
    assert second.stdout == b"0 new, 0 changed, 2 unchanged, 0 refused\n"
    shown = answer(ingest("status", "--json"))
    assert shown["counts"]["completed"] == 2
    assert [(p["tenant"], p["project"], p["documents"]) for p in shown["projects"]] == [
        ("default", "fruit", 2)
    ]


def test_lost_files_are_reported_and_pruned_only_when_asked(ingest: Run, files: Path, drain: Drain) -> None:
    (files / ".hidden").write_text("hidden words")
    ingest("add", files, "--hidden")
    assert drain() == {"completed": 3}
    (files / "apples.md").unlink()
    reported = ingest("add", files)
    assert b"1 file gone; --prune deletes the documents" in reported.stdout
    pruned = answer(ingest("add", files, "--prune", "--json"))
    assert (pruned["gone"], pruned["pruned"]) == ([str(files / "apples.md")], 1)
    left = answer(ingest("status", "--json"))["counts"]
    assert left["completed"] == 2, "the hidden file is there: its document stays"
    (files / "bananas.txt").unlink()
    assert answer(ingest("add", files, "--prune", "--json"))["pruned"] == 1


def test_names_beyond_utf8_and_lines_go_through(ingest: Run, files: Path, drain: Drain) -> None:
    (files / os.fsdecode(b"caf\xe9.txt")).write_text("coffee")
    (files / "two\nlines.txt").write_text("lines")
    assert answer(ingest("add", files, "--json"))["new"] == 4
    assert drain() == {"completed": 4}
    assert ingest("add", files).stdout == b"0 new, 0 changed, 4 unchanged, 0 refused\n"
    shown = ingest("status", files / os.fsdecode(b"caf\xe9.txt"))
    assert b"caf%E9.txt" in shown.stdout


def test_a_terminated_wait_ends_like_an_interrupted_one(
    ingest: Run, files: Path, connection: Connection, settings: Settings
) -> None:
    waiting = subprocess.Popen(
        command("add", str(files), "--wait"), stderr=subprocess.PIPE, cwd=files.parent, env=dict(os.environ)
    )
    recorded = text("SELECT count(*) FROM documents")
    Retrying(
        stop=stop_after_delay(60), wait=wait_fixed(0.05), retry=retry_if_result(lambda found: not found)
    )(lambda: connection.execute(recorded).scalar_one())
    waiting.terminate()
    _, said = waiting.communicate(timeout=60)
    assert (waiting.returncode, said.splitlines()[-1][:11]) == (Exit.INTERRUPTED, b"interrupted")


DROPPED = """
import signal, weakref
from worker.cli import interruptible
interruptible()
class Thing: pass
thing = Thing()
watching = weakref.ref(thing, lambda _: signal.raise_signal(signal.SIGTERM))
del thing  # what the signal raises in here is dropped
signal.pause()
"""


def test_an_interruption_that_python_drops_comes_again() -> None:
    ended = subprocess.run([sys.executable, "-c", DROPPED], capture_output=True, timeout=60, check=False)
    assert (ended.returncode, ended.stderr.splitlines()[-1]) == (-signal.SIGINT, b"KeyboardInterrupt")


HOOKED = """
import signal, sys
from worker.cli import interruptible
interruptible()
class Dropped(KeyboardInterrupt): pass
class Reading:
    def __init__(self, what): self.what = what
    @property
    def exc_type(self):
        signal.raise_signal(signal.SIGTERM)  # the next one comes while the first is seen to
        return KeyboardInterrupt
try:
    signal.raise_signal(signal.SIGTERM)
except KeyboardInterrupt as first:
    sys.unraisablehook(Reading(first))
try:
    signal.pause()
except KeyboardInterrupt:
    print("again")
"""


def test_a_burst_of_signals_is_one_interruption() -> None:
    ended = subprocess.run([sys.executable, "-c", HOOKED], capture_output=True, timeout=60, check=False)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, b"again\n", b"")


def test_signals_one_after_the_other_end_a_command_quietly(settings: Settings) -> None:
    process = subprocess.Popen(
        command("worker", "search"), stderr=subprocess.PIPE, env={**os.environ, "BROKER_URL": NOWHERE}
    )
    assert process.stderr is not None
    assert b"servers.awaited" in process.stderr.readline()
    while process.poll() is None:
        process.send_signal(signal.SIGINT)
    said = [line for line in process.stderr.read().splitlines() if b"servers.awaited" not in line]
    assert process.returncode == Exit.INTERRUPTED, said
    assert [line[:11] for line in said] in ([b"interrupted"], [])


def test_ctrl_c_before_the_command_is_loaded_is_quiet(tmp_path: Path) -> None:
    (tmp_path / "typer.py").write_text("import signal; print('loading', flush=True); signal.pause()")
    loading = subprocess.Popen(
        command("--help"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
    )
    assert loading.stdout is not None
    assert loading.stdout.readline() == b"loading\n"
    loading.send_signal(signal.SIGINT)
    assert loading.communicate(timeout=60) == (b"", b"")
    assert loading.returncode == Exit.INTERRUPTED


def test_what_nohup_ignores_stays_ignored() -> None:
    script = "import signal as s, worker.cli as c; c.interruptible(); s.raise_signal(s.SIGHUP); print('on')"
    ended = subprocess.run(["nohup", sys.executable, "-c", script], capture_output=True, check=False)
    assert ended.stdout == b"on\n"


@pytest.mark.parametrize(
    ("line", "code", "said"),
    [
        ("add - <&-", Exit.SOURCE, "error: standard input is closed"),
        ("add - 0> written", Exit.SOURCE, "error: standard input cannot be read"),
        ("status >&-", Exit.OK, ""),
        ("status 2>&-", Exit.OK, ""),
        ("status <&- >&- 2>&-", Exit.OK, ""),
        ("status > /dev/full", Exit.FINDINGS, "error: the output cannot be written: No space left"),
        ("search x --json 2> /dev/full", Exit.TIMEOUT, ""),
        ("--help > /dev/full", Exit.FINDINGS, "error: the output cannot be written: No space left"),
        ("--help | true", Exit.OK, ""),
    ],
)
def test_standard_streams_that_are_broken_are_no_traceback(
    settings: Settings, tmp_path: Path, line: str, code: Exit, said: str
) -> None:
    environment = {**os.environ, "SEARCH_TIMEOUT_SECONDS": "1", "PYTHONUNBUFFERED": ""}
    done = subprocess.run(
        ["sh", "-c", f"{shlex.join(command())} {line}"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=environment,
        timeout=60,
        check=False,
    )
    assert done.returncode == code, done.stderr
    assert done.stderr.startswith(said)
    assert len(done.stderr.splitlines()) == bool(said)


def test_standard_input_keeps_its_bytes_and_metadata(ingest: Run, drain: Drain) -> None:
    added = ingest(
        "add", "-", "--name", "note.md", "--meta", "year=2026", "--meta", "by=me", stdin=b"# Hi\n\xff"
    )
    assert added.returncode == Exit.OK
    assert drain() == {"completed": 1}
    [document] = answer(ingest("status", "note.md", "--json"))
    assert document["metadata"] == {"year": 2026, "by": "me"}
    assert document["size_bytes"] == 6


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["add", "missing"], Exit.SOURCE, "there is no file or folder"),
        (["add", "/dev/null"], Exit.SOURCE, "outside ALLOWED_ROOTS"),
        (["add", "/etc"], Exit.SOURCE, "add /etc to ALLOWED_ROOTS"),
        (["add", "data"], Exit.SOURCE, "/data is ours: "),
        (["add", "empty"], Exit.SOURCE, "no files in"),
        (["add", ""], Exit.SOURCE, "an empty path names nothing"),
        (["add", "empty", "--wait", "--timeout", "nan"], Exit.USAGE, "--timeout nan"),
        (["add", "pipe"], Exit.SOURCE, "neither a file nor a folder"),
        (["add", "s3://bucket/key"], Exit.SOURCE, "ALLOWED_URI_SCHEMES"),
        (["add", "empty", "--meta", "x"], Exit.USAGE, "KEY=VALUE"),
        (["add", "empty", "--metadata", "[" * 100_000], Exit.USAGE, "nested so deep"),
        (["add", "https://evil.test/a"], Exit.SOURCE, "evil.test is not in ALLOWED_URI_HOSTS → "),
        (["retry"], Exit.USAGE, "name documents"),
        (["retry", "a", "--all"], Exit.USAGE, "not both"),
        (["retry", "--since", "yesterday"], Exit.USAGE, "is no time"),
        (["cancel", "a", "--all"], Exit.USAGE, "not both"),
        (["maintain", "cats"], Exit.USAGE, "one of dispatch"),
        (["nonsense"], Exit.USAGE, "No such command"),
        (["status", "nothing"], Exit.USAGE, "there is no tenant"),
    ],
)
def test_mistakes_end_in_one_line_and_a_code(
    ingest: Run, tmp_path: Path, arguments: list[str], code: Exit, said: str
) -> None:
    for folder in ("data", "empty"):
        (tmp_path / folder).mkdir(exist_ok=True)
    os.mkfifo(tmp_path / "pipe")
    done = ingest(*arguments, ALLOWED_URI_SCHEMES="https", ALLOWED_URI_HOSTS="docs.test")
    assert (done.returncode, done.stdout) == (code, b"")
    assert said in done.stderr.decode()


@pytest.mark.parametrize(
    ("wrong", "code", "said"),
    [
        ({"DATABASE_URL": "mysql://h/d"}, Exit.SETTINGS, "DATABASE_URL: must be a PostgreSQL URL"),
        ({"DATABASE_URL": "postgresql://u:hush@127.0.0.1:1/d"}, Exit.DATABASE, "127.0.0.1:1/d is not usable"),
        ({"CHUNK_SIZE": "many"}, Exit.SETTINGS, "CHUNK_SIZE"),
    ],
)
def test_bad_settings_and_servers_are_named_without_secrets(
    ingest: Run, wrong: dict[str, str], code: Exit, said: str
) -> None:
    done = ingest("status", **wrong)
    assert (done.returncode, done.stdout) == (code, b"")
    assert said in done.stderr.decode()
    assert b"hush" not in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_unmigrated_database_is_named_then_migrated(
    ingest: Run, new_database: Callable[[str | None], str], files: Path
) -> None:
    url = new_database(None)
    for arguments in (["status"], ["add", str(files)], ["worker", "ingest"]):
        done = ingest(*arguments, DATABASE_URL=url)
        assert done.returncode == Exit.SCHEMA, done.stderr
        assert b"run `ingest migrate`" in done.stderr
    assert ingest("migrate", DATABASE_URL=url).stdout.startswith("migrated: base → ".encode())
    assert ingest("migrate", DATABASE_URL=url).stdout.startswith(b"nothing to do")
    refused = ingest("migrate", "--to", "base", DATABASE_URL=url)
    assert refused.returncode != Exit.OK
    assert answer(ingest("migrate", "--to", "base", "--yes", "--json", DATABASE_URL=url))["to"] is None


def test_broker_that_is_away_delays_and_loses_nothing(ingest: Run, files: Path, drain: Drain) -> None:
    added = ingest("add", files, BROKER_URL=NOWHERE)
    assert added.returncode == Exit.OK
    assert b"2 documents recorded, waiting for the broker" in added.stderr
    waited = ingest("add", files, "--checksum", "--wait", BROKER_URL=NOWHERE)
    assert waited.returncode == Exit.BROKER
    assert ingest("search", "apples", BROKER_URL=NOWHERE).returncode == Exit.BROKER
    assert drain() == {"completed": 2}


def test_worker_that_finds_no_broker_gives_up_after_its_patience(ingest: Run) -> None:
    done = ingest("worker", "search", BROKER_URL=NOWHERE, STARTUP_PATIENCE_SECONDS="1")
    assert done.returncode == Exit.BROKER
    assert b"servers.awaited" in done.stderr


def test_search_without_a_worker_ends_in_time(ingest: Run) -> None:
    done = ingest("search", "apples", SEARCH_TIMEOUT_SECONDS="1")
    assert (done.returncode, done.stdout) == (Exit.TIMEOUT, b"")
    assert done.stderr.splitlines() == [
        (
            "error: no search worker answered within 1 s → start one, `ingest worker search`; "
            "where one runs, `ingest doctor` says what is wrong"
        ).encode()
    ]


def test_waiting_without_a_worker_says_so_and_ends_in_time(ingest: Run, files: Path) -> None:
    done = ingest("add", files, "--wait", "--timeout", "6")
    assert done.returncode == Exit.TIMEOUT
    assert b"no ingest worker is running" in done.stderr


def test_documents_are_changed_by_id_and_by_path(ingest: Run, files: Path, drain: Drain) -> None:
    (files / "broken").symlink_to(files / "nowhere")
    ids = answer(ingest("add", files, "--json"))["document_ids"]
    assert ingest("cancel", "files/apples.md").stdout == b"1 document cancelled\n"
    assert drain() == {"completed": 1, "failed": 1}
    assert ingest("retry", "--until", "1h").returncode == Exit.FINDINGS
    narrowed = ingest("retry", "--since", "1h", "--code", "not_found", "--project", "none")
    assert b"with a project" in narrowed.stderr
    assert ingest("retry", "--code", "not_found", "--since", "1h").stdout == b"1 document tried again\n"
    assert answer(ingest("retry", files / "apples.md", "--json")) == {"documents": 1}
    assert drain() == {"completed": 1, "failed": 1}
    assert ingest("delete", *ids).stdout == b"3 documents deleted\n"
    assert ingest("restore", "./files/../files/apples.md").stdout == b"1 document restored\n"
    for verb in ("cancel", "delete", "restore", "retry"):
        nothing = ingest(verb, str(uuid4()))
        assert (nothing.returncode, nothing.stdout) == (Exit.FINDINGS, b"")


def test_doctor_names_what_is_missing_and_mends(ingest: Run, settings: Settings) -> None:
    done = ingest("doctor", "--json")
    assert done.returncode == Exit.FINDINGS
    found = {finding["name"]: finding for finding in answer(done)["findings"]}
    assert [found[name]["state"] for name in ("settings", "database", "migrations", "broker")] == ["ok"] * 4
    assert found["ingest worker"]["mend"] == "run `ingest worker ingest`"
    away = ingest("doctor", DATABASE_URL="postgresql://u:hush@127.0.0.1:1/d", BROKER_URL=NOWHERE)
    assert away.returncode == Exit.FINDINGS
    assert "✘ database" in away.stdout.decode()
    assert "✘ broker" in away.stdout.decode()
    assert b"not checked" in away.stdout
    assert b"hush" not in away.stdout + away.stderr


def test_chore_runs_now_and_tells_what_it_did(ingest: Run) -> None:
    did = answer(ingest("maintain", "indexes", "--json"))
    assert (did["outcome"], did["invalid"], did["missing"], did["made"]) == ("done", [], [], [])


def test_files_become_searchable_and_failures_are_findings(ingest: Run, files: Path, start: Start) -> None:
    start("ingest")
    start("search")
    (files / "empty.txt").touch()
    (files / "broken").symlink_to(files / "nowhere")
    added = ingest("add", files, "--wait", "--interactive", "--json")
    assert added.returncode == Exit.FINDINGS
    settled = answer(added)["settled"]
    assert settled["documents"] | {"duplicate": 0} == {
        "completed": 2,
        "duplicate": 0,
        "skipped": 1,
        "failed": 1,
        "cancelled": 0,
    }
    assert {reason["error_code"] for reason in settled["reasons"]} == {"empty", "not_found"}
    assert (settled["chunks"], settled["embeddings_computed"]) == (2, 2)
    shown = ingest("search", "yellow fruit", "-k", "1").stdout.decode()
    assert f"{files / 'bananas.txt'}  chunk 1 of 1  vector " in shown
    assert "\n       Bananas are yellow.\n" in shown
    [hit] = answer(ingest("search", "red apples", "-k", "1", "--json"))["hits"]
    assert (hit["filename"], hit["number"], hit["total"]) == ("apples.md", 1, 1)
    assert ingest("search", "x", "--project", "none").returncode == Exit.USAGE


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_signal_to_the_group_stops_a_busy_worker_in_time(
    start: Start, connection: Connection, tmp_path: Path, number: signal.Signals
) -> None:
    words = " ".join(f"word{n}" for n in range(60_000))
    submit([Document.text(f"{n} {words}", source_path=f"{n}.txt") for n in range(40)])
    worker = start("ingest")
    until(lambda: connection.execute(text("SELECT 1 FROM batches WHERE state = 'running'")).first())
    os.killpg(worker.pid, number)
    # honcho and compose kill what has not ended 5 s and 10 s after they asked
    assert worker.wait(timeout=5) == 0, (tmp_path / "ingest.log").read_text()
    assert "Restarting" not in (tmp_path / "ingest.log").read_text()
    left = connection.execute(text("SELECT status, count(*) AS documents FROM documents GROUP BY status"))
    counts = {row.status: row.documents for row in left}
    assert counts.get("pending", 0) > 0, "what was not begun went back"
    assert set(counts) <= {"pending", "completed"}, (tmp_path / "ingest.log").read_text()
    assert connection.execute(text("SELECT 1 FROM batches WHERE state = 'running'")).first() is None
    assert (
        connection.execute(text("SELECT max(attempts) FROM documents WHERE status = 'pending'")).scalar() == 0
    )


def processes_of(folder: Path) -> list[str]:
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("DATA_DIR") == str(folder) and process.pid != os.getpid():
                found.append(" ".join(process.cmdline()))
        except psutil.Error:
            continue
    return found


def test_demo_shows_a_corpus_and_leaves_no_process(
    ingest: Run, settings: Settings, files: Path, free_port: str
) -> None:
    first = ingest("demo", files, FLOWER_PORT=free_port)
    assert first.returncode == Exit.OK, first.stderr
    shown = first.stdout.decode()
    assert "2 new, 0 changed, 0 unchanged" in shown
    assert "2 chunks; embeddings: 2 computed, 0 reused" in shown
    assert "search: Apples\n" not in shown, "one word is no question"
    assert f"{files / 'bananas.txt'}  chunk 1 of 1" in shown
    assert "ingest up" in shown
    second = ingest("demo", files, FLOWER_PORT=free_port)
    assert "all 2 documents unchanged" in second.stdout.decode()
    assert processes_of(settings.data_dir) == []


def start_up(folder: Path, port: str) -> "subprocess.Popen[bytes]":
    """Run `ingest up`; what it says goes into up.log."""
    with (folder / "up.log").open("wb") as log:
        return subprocess.Popen(
            command("up"), cwd=folder, stdout=log, stderr=log, env={**os.environ, "FLOWER_PORT": port}
        )


def test_up_runs_until_it_is_interrupted(
    settings: Settings, connection: Connection, tmp_path: Path, free_port: str
) -> None:
    up = start_up(tmp_path, free_port)
    kinds = ("ingest", "search", "maintenance", "beat")
    until(lambda: up.poll() is not None or all(alive(connection, kind) for kind in kinds))
    up.send_signal(signal.SIGINT)
    assert up.wait(timeout=30) == Exit.OK, (tmp_path / "up.log").read_text()
    assert f"http://127.0.0.1:{free_port}" in (tmp_path / "up.log").read_text()
    assert processes_of(settings.data_dir) == []


def test_worker_without_standard_streams_works(settings: Settings, connection: Connection) -> None:
    line = f"exec {shlex.join(command('worker', 'search'))} <&- >&- 2>&-"
    worker = subprocess.Popen(["sh", "-c", line])
    until(lambda: worker.poll() is not None or alive(connection, "search"))
    worker.terminate()
    assert worker.wait(timeout=30) == Exit.OK


def test_up_whose_runner_is_killed_says_so(
    settings: Settings, connection: Connection, tmp_path: Path, free_port: str
) -> None:
    up = start_up(tmp_path, free_port)
    until(lambda: up.poll() is not None or alive(connection, "ingest"))
    os.kill(int((settings.data_dir / "log" / "processes.pid").read_text()), signal.SIGKILL)
    assert up.wait(timeout=30) == Exit.STACK, (tmp_path / "up.log").read_text()
    assert "the runner of the Procfile's processes died" in (tmp_path / "up.log").read_text()
    with suppress(RetryError):
        until(lambda: processes_of(settings.data_dir) == [])
    assert processes_of(settings.data_dir) == []


@pytest.mark.parametrize(("name", "said"), [("beat", "Sending due task"), ("flower", "Connected to redis")])
def test_beat_and_flower_stop_when_their_terminal_closes(
    settings: Settings, tmp_path: Path, free_port: str, name: str, said: str
) -> None:
    log = tmp_path / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            command(name),
            stdout=output,
            stderr=output,
            env={**os.environ, "FLOWER_PORT": free_port, "FLOWER_BASIC_AUTH": "user:password"},
        )
    until(lambda: process.poll() is not None or said in log.read_text())
    process.send_signal(signal.SIGHUP)
    assert process.wait(timeout=30) == Exit.OK, log.read_text()


@pytest.fixture
def free_port() -> str:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])
