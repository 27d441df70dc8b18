"""The log: a record a line in both formats, nothing that forges one, no login, no contents."""

import ast
import json
import logging
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from worker import logs
from worker.errors import IngestError
from worker.steps.traces import LONGEST_TRACE, known_trace, new_trace
from worker.types import LogFormat
from worker.urls import hidden

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/operations/logs.md").read_text()
LEVELS = {"debug", "info", "warning", "error", "exception", "critical", "log"}
EVENT = re.compile(r"[a-z]+(\.[a-z_]+)+")
FORGED = "a\nERROR worker.tasks batch.done batch=forged\r\x1b[2J\u2028\u202e"


def line(log_format: LogFormat, name: str = "worker.some", **record: Any) -> str:
    made = logging.makeLogRecord({"name": name, "levelname": "INFO", "msg": "some.event", **record})
    return logs.formatter(log_format).format(made)


def fail(text: str) -> None:
    raise RuntimeError(text) from ValueError(text)


def raised(text: str) -> Any:
    try:
        fail(text)
    except RuntimeError:
        return sys.exc_info()


@pytest.fixture(autouse=True)
def _nothing_bound() -> Iterator[None]:
    yield
    logs.clear_contextvars()


# -- one record, one line --------------------------------------------------------------------------


def test_record_for_people() -> None:
    logs.bind_contextvars(task="ingest.batch", batch="b1")
    written = line(LogFormat.CONSOLE, path="two words", outcomes={"completed": 2}, error_code=None)
    assert written == (
        'INFO worker.some some.event path="two words" outcomes.completed=2 batch=b1 task=ingest.batch'
    )


def test_record_as_json() -> None:
    logs.bind_contextvars(task="ingest.batch", batch="b1")
    written = json.loads(line(LogFormat.JSON, chunks=3, outcomes={"completed": 2}, error_code=None))
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT[\d:.]+Z", written.pop("time"))
    assert written == {
        "level": "info",
        "logger": "worker.some",
        "event": "some.event",
        "chunks": 3,
        "outcomes": {"completed": 2},
        "task": "ingest.batch",
        "batch": "b1",
    }


@pytest.mark.parametrize("log_format", LogFormat)
@pytest.mark.parametrize("where", ["value", "nested", "message", "library"])
def test_no_name_forges_a_line_or_changes_a_terminal(log_format: LogFormat, where: str) -> None:
    written = {
        "value": lambda: line(log_format, path=FORGED),
        "nested": lambda: line(log_format, paths=[{FORGED: FORGED}]),
        "message": lambda: line(log_format, msg="found %s", args=(FORGED,)),
        "library": lambda: line(log_format, "kombu", msg=FORGED, args=()),
    }[where]()
    assert written.isprintable()
    assert "batch=forged" in written
    assert not re.search(r"^ERROR", written, re.MULTILINE)


@pytest.mark.parametrize("log_format", LogFormat)
def test_traceback_stays_in_its_record(log_format: LogFormat) -> None:
    written = line(log_format, exc_info=raised(FORGED))
    first, *below = written.split("\n")
    assert all(inner.startswith("    ") for inner in below)
    assert bool(below) == (log_format is LogFormat.CONSOLE)
    assert "RuntimeError" in written
    assert "ValueError" in written
    assert "in fail" in written
    assert all(inner.isprintable() for inner in (first, *below))


# -- what it does not say --------------------------------------------------------------------------


@pytest.mark.parametrize("log_format", LogFormat)
def test_exception_within_a_task_is_not_quoted(log_format: LogFormat) -> None:
    assert "whispered" in line(log_format, exc_info=raised("whispered"))
    logs.bind_contextvars(task="ingest.batch")
    written = line(log_format, exc_info=raised("whispered"))
    assert "RuntimeError" in written
    assert written.count("whispered") == 0


@pytest.mark.parametrize("log_format", LogFormat)
@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://:hush@host:6379/0", "redis://host:6379/0"),
        ("postgresql://user:hu/hush@sh@host/db", "postgresql://host/db"),
        ("s3://key:hush@bucket/a.txt", "s3://bucket/a.txt"),
        ("https://host/a?X-Signature=hush", "https://host/a?…"),
        ("https://host/a?id=me@there&Signature=hush", "https://…"),
        ("https://user:hush?@host/a", "https://…"),
    ],
)
def test_urls_are_masked_wherever_they_stand(log_format: LogFormat, url: str, shown: str) -> None:
    said = f"cannot reach {url}"
    for written in (
        line(log_format, path=url),
        line(log_format, "kombu", msg="%s", args=(said,)),
        line(log_format, exc_info=raised(said)),
    ):
        assert "hush" not in written
        assert shown in written.replace("\\u2026", "…")


@pytest.mark.parametrize(
    ("path", "shown"),
    [
        ("a.md", "a.md"),
        ("two words?", "two words?"),
        ("s3://key:hush@bucket/f?signature=hush hush'hush", "s3://bucket/f?…"),
        ("https://user:hush hush@host/a b", "https://host/a b"),
        ("https://user:hush? @host/a", "https://…"),
    ],
)
def test_a_source_path_is_hidden_whole(path: str, shown: str) -> None:
    assert hidden(path) == shown


@pytest.mark.parametrize("log_format", LogFormat)
def test_fields_of_a_library_are_left_out(log_format: LogFormat) -> None:
    assert "whispered" not in line(log_format, "celery.app.trace", data={"kwargs": "whispered"})
    assert "said" in line(log_format, "worker.tasks", kind="said")


@pytest.mark.parametrize("log_format", LogFormat)
def test_a_line_is_bounded(log_format: LogFormat) -> None:
    def deep(depth: int) -> None:
        if depth:
            deep(depth - 1)
        raise RuntimeError("x" * 100_000)

    try:
        deep(900)
    except RuntimeError:
        logs.bind_contextvars(path="://p" * 1_000_000)
        assert len(line(log_format, exc_info=sys.exc_info())) < 16_000


def test_level_is_that_of_our_own_records_and_libraries_stay_at_info() -> None:
    program = (
        "import logging; from worker import logs; from worker.types import LogFormat\n"
        "logs.set_up(LogFormat.CONSOLE, {level!r})\n"
        "for name in ('worker.x', 'celery.pool'):\n"
        "    for level in ('debug', 'info', 'warning'): getattr(logging.getLogger(name), level)(level)\n"
    )

    def said(level: str) -> list[str]:
        command = [sys.executable, "-c", program.format(level=level)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        return [" ".join(written.split()[1:]) for written in done.stderr.splitlines()]

    ours = [f"worker.x {level}" for level in ("debug", "info", "warning")]
    assert said("DEBUG") == [*ours, "celery.pool info", "celery.pool warning"]
    assert said("WARNING") == [ours[-1], "celery.pool warning"]


@pytest.mark.parametrize(
    "crash", ["fail()", "import threading; t = threading.Thread(target=fail); t.start()"]
)
def test_what_ends_a_process_or_a_thread_is_one_record(crash: str) -> None:
    program = (
        "from worker import logs; from worker.types import LogFormat\n"
        "logs.set_up(LogFormat.JSON, 'ERROR'); logs.catch_crashes()\n"
        "def fail(): raise RuntimeError('two\\nlines')\n"
    )
    command = [sys.executable, "-c", program + crash]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    [record] = [json.loads(written) for written in done.stderr.splitlines()]
    assert record["event"].endswith(".crashed")
    assert record["exception"].endswith("RuntimeError: two\nlines")


# -- the events ------------------------------------------------------------------------------------


def calls() -> Iterator[tuple[str, ast.Call]]:
    """Every call of a logger in worker/."""
    for path in sorted((ROOT / "worker").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Attribute)
                and node.func.attr in LEVELS
            ):
                of = node.func.value
                if isinstance(of, ast.Name) and of.id in {"log", "logger", "logging"}:
                    yield f"{path.relative_to(ROOT)}:{node.lineno}", node


def event_of(call: ast.Call) -> ast.expr:
    assert isinstance(call.func, ast.Attribute)
    return call.args[1 if call.func.attr == "log" else 0]


def fields_of(call: ast.Call) -> set[str]:
    extra = next((keyword.value for keyword in call.keywords if keyword.arg == "extra"), None)
    if extra is None:
        return set()
    assert isinstance(extra, ast.Dict), "the fields stand in the call"
    assert all(isinstance(key, ast.Constant) for key in extra.keys)
    return {str(key.value) for key in extra.keys if isinstance(key, ast.Constant)}


def documented() -> dict[str, set[str]]:
    rows = re.findall(r"^\| `([a-z_.]+)` \| [a-z, ]+ \|(.*?)\| \S.*\|$", PAGE, re.MULTILINE)
    assert len(rows) == len(dict(rows)), "an event has two rows"
    return {event: set(re.findall(r"`(\w+)`", fields)) for event, fields in rows}


@pytest.mark.parametrize(
    ("where", "call"), list(calls()), ids=lambda value: value if isinstance(value, str) else ""
)
def test_event_is_constant_and_values_are_fields(where: str, call: ast.Call) -> None:
    event = event_of(call)
    assert isinstance(event, ast.Constant), where
    assert EVENT.fullmatch(str(event.value)), where
    assert call.args[-1] is event, f"{where}: a value is a field, not part of the message"
    taken = set(logging.makeLogRecord({}).__dict__) | {
        "message",
        "asctime",
        "event",
        "level",
        "logger",
        "time",
    }
    assert not fields_of(call) & taken, where


def test_every_event_and_its_fields_are_on_the_page() -> None:
    found: dict[str, set[str]] = {}
    for _, call in calls():
        event = event_of(call)
        assert isinstance(event, ast.Constant)
        found.setdefault(str(event.value), set()).update(fields_of(call))
    assert documented() == found


def test_every_module_logs_by_its_own_name() -> None:
    for path in (ROOT / "worker").rglob("*.py"):
        text = path.read_text()
        if re.search(r"^log = ", text, re.MULTILINE):
            assert "\nlog = logging.getLogger(__name__)\n" in text, path


# -- traces ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("trace", ["", "a\nb", "\x1b", "a\0", "x" * (LONGEST_TRACE + 1), "\udcff"])
def test_trace_that_could_forge_a_line_is_refused(trace: str) -> None:
    with pytest.raises(IngestError, match="1 to 200 printable characters"):
        known_trace(trace)


def test_traces_people_have_are_taken() -> None:
    for trace in ("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", "Root=1-2;Parent=3", "ü 7"):
        assert known_trace(trace) == trace
    assert known_trace(made := new_trace()) == made != new_trace()
