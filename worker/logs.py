"""The log: a record a line, for people or as JSON, with the ids of what is being done.

Our records have an event, which never changes, and fields; docs/operations/logs.md lists them. Those of
libraries have their message. None holds what documents, queries or metadata say, nor a password: names are
made printable, URLs masked, and of an exception within a task the frames and types are written, not what it
says.
"""

import json
import logging
import os
import re
import sys
import threading
import traceback
from collections.abc import Iterator, Mapping, MutableMapping
from contextlib import suppress
from types import TracebackType
from typing import Any

from structlog.contextvars import bind_contextvars, bound_contextvars, clear_contextvars, get_contextvars
from structlog.processors import LogfmtRenderer, TimeStamper
from structlog.stdlib import ExtraAdder, ProcessorFormatter

from worker.types import LogFormat
from worker.urls import hidden

__all__ = [
    "bind_contextvars", "bound_contextvars", "catch_crashes", "clear_contextvars", "is_json", "say_safely",
    "set_up",
]  # fmt: skip

log = logging.getLogger(__name__)

Fields = MutableMapping[str, Any]

_OURS = "worker"
# The pool is SQLAlchemy's, though the class is ours.
_NOISY = ("httpx", "httpcore", "urllib3", "filelock", "huggingface_hub", "worker.db.pooling")
# What a collector takes as one line (Docker cuts at 16 KiB).
_LONGEST_VALUE, _LONGEST_TRACEBACK, _MOST_CAUSES, _MOST_FRAMES = 1_000, 8_000, 10, 50
_WORD = re.compile(r"[^\s'\"<>]+")

_add_fields = ExtraAdder()
_META = {"event", "exc_info", "stack_info", "_record", "_from_structlog"}
_pairs = LogfmtRenderer(bool_as_flag=False)
_encode = json.JSONEncoder(default=str).encode
_stamp = TimeStamper(fmt="iso", utc=True, key="time")


def set_up(log_format: LogFormat, level: str) -> None:
    """Have this process, and those it forks, log to standard error in one format.

    `level` is that of our own records. Libraries stay at INFO at least: below it they write down what they
    are given, which is what people ask and what documents say.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(formatter(log_format))
    root, ours = logging.getLogger(), logging.getLogger(_OURS)
    root.handlers[:] = [handler]
    ours.setLevel(level)
    root.setLevel(max(ours.level, logging.INFO))
    for name in _NOISY:
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.captureWarnings(capture=True)


def catch_crashes() -> None:
    """Have what ends this process, or a thread of it, be a record of the log, too."""
    sys.excepthook = _crashed
    threading.excepthook = _thread_crashed


def formatter(log_format: LogFormat) -> logging.Formatter:
    """Give the formatter of a format."""
    render = _as_json if log_format is LogFormat.JSON else _for_people
    return ProcessorFormatter(processors=[_read, _place, _clean, render])


def is_json() -> bool:
    """Tell whether this process logs, and as JSON."""
    return any(
        isinstance(handler.formatter, ProcessorFormatter) and _as_json in handler.formatter.processors
        for handler in logging.getLogger().handlers
    )


def refused(error: object, code: int) -> bool:
    """Log what ends this process, where it logs as JSON; False where a person is to read it."""
    if sys.excepthook is not _crashed or not is_json():
        return False
    log.error("process.refused", extra={"reason": error, "code": code})
    return True


def say_safely(message: str, *_: Any) -> None:
    """Log what Celery says in a signal's handler: in one write, past the stream it may have interrupted."""
    for handler in logging.getLogger().handlers:
        record = log.makeRecord("celery.apps.worker", logging.INFO, "", 0, message, (), None)
        with suppress(OSError):
            os.write(2, f"{handler.format(record)}\n".encode(errors="backslashreplace"))


def _crashed(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    log.critical("process.crashed", exc_info=(kind, error, trace))


def _thread_crashed(crash: threading.ExceptHookArgs) -> None:
    if crash.exc_value is not None:
        log.critical("thread.crashed", exc_info=(crash.exc_type, crash.exc_value, crash.exc_traceback))


def _read(_logger: Any, level: str, event: Fields) -> Fields:
    """Take from a record what belongs to its line: of a library's, the message and no more."""
    record: logging.LogRecord = event["_record"]
    error = event.get("exc_info")
    found: dict[str, Any] = {"level": level, "logger": record.name, "event": " ".join(event["event"].split())}
    if record.name.partition(".")[0] == _OURS:
        found |= {name: value for name, value in _add_fields(log, level, event).items() if name not in _META}
    if error and error[1] is not None:
        found["exception"] = error[1]
    return found


def _place(_logger: Any, _level: str, event: Fields) -> Fields:
    """Add the ids of what the record belongs to, in one order."""
    context = get_contextvars()
    return {**event, **{name: context[name] for name in sorted(context) if name not in event}}


def _clean(_logger: Any, _level: str, event: Fields) -> Fields:
    error = event.pop("exception", None)
    cleaned = {name: _fit(value) for name, value in event.items() if value is not None}
    if error is not None:
        # within a task what an exception says may quote a document or a query
        cleaned["exception"] = _masked(_traceback(error, said="task" not in event))[-_LONGEST_TRACEBACK:]
    return cleaned


def _fit(value: Any) -> Any:
    """Make a value one that changes no terminal, forges no line and shows no login."""
    if isinstance(value, int | float):
        return value
    if isinstance(value, dict):
        return {str(name): _fit(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_fit(inner) for inner in value]
    text = _masked(str(value))
    text = text if len(text) <= _LONGEST_VALUE else f"{text[:_LONGEST_VALUE]}…"
    return text if text.isprintable() else _escaped(text)


def _masked(text: str) -> str:
    """Take logins and queries out of URLs, each character read once: a path may be megabytes of `://`.

    In a message a URL ends where its word does. Who logs one that may hold a space hides it whole.
    """
    return _WORD.sub(lambda word: hidden(word[0]), text) if "://" in text else text


def _escaped(text: str) -> str:
    return "".join(
        one if one.isprintable() else one.encode("unicode_escape", "surrogatepass").decode("ascii")
        for one in text
    )


def _traceback(error: BaseException, *, said: bool) -> str:
    """Write an exception and its causes, the first of them first; what they say only where that is `said`."""
    parts: list[str] = []
    cause: BaseException | None = error
    while cause is not None and len(parts) < _MOST_CAUSES:
        frames = "".join(traceback.format_tb(cause.__traceback__, limit=-_MOST_FRAMES))
        parts.append(f"{frames}{type(cause).__name__}{f': {cause}' if said else ''}")
        cause = cause.__cause__ or (None if cause.__suppress_context__ else cause.__context__)
    return "\n".join(reversed(parts))


def _as_json(_logger: Any, level: str, event: Fields) -> str:
    return _encode({**_stamp(log, level, {}), **event})


def _for_people(_logger: Any, _level: str, event: Fields) -> str:
    """Write level, logger and event, then the fields; a traceback below, indented: it is no line of its own.

    Without the time: whoever keeps the log (`ingest up`, journald, a container engine) has it.
    """
    level, logger, name = event.pop("level").upper(), event.pop("logger"), event.pop("event")
    below = event.pop("exception", "")
    line = f"{level} {logger} {name} {_pairs(log, '', dict(_flat(event)))}".rstrip()
    return "".join([line, *(f"\n    {_escaped(inner)}" for inner in below.splitlines())])


def _flat(fields: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in fields.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{name.replace(' ', '_')}.")
        else:
            listed = ",".join(map(str, value)) if isinstance(value, list) else value
            yield f"{prefix}{name.replace(' ', '_')}", listed
