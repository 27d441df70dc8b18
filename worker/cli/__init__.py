"""The command `ingest`: a module a family of commands; every foreseeable mistake ends in one line.

Until main() answers it, Ctrl-C is a traceback: what takes long to import is imported below, when needed.
"""

import errno
import gc
import os
import signal
import sys
import time
from types import FrameType
from typing import NoReturn

from worker.errors import (
    BrokerUnavailableError,
    DocumentError,
    Exit,
    IngestError,
    Interrupted,
    SchemaError,
)

_OUTPUTS = {1: "stdout", 2: "stderr"}
_STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_BURST_SECONDS = 0.5
_AGAIN_SECONDS = 0.05
# What a write is refused with: a full disk, a terminal that is gone, a stream opened for reading.
_UNWRITABLE = frozenset({errno.EPIPE, errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EBADF})


def main() -> None:
    """Run the command line given to this process; ends it with one of `errors.Exit`."""
    try:
        code = _command()
        _ignore_signals()  # in here: what comes until then has an answer
    except KeyboardInterrupt:  # before the command began, or again after its end
        code = Exit.INTERRUPTED
        _ignore_signals()
    _end(code)


def _command() -> int:
    try:
        _open_streams()
        interruptible()
        code = _run()
        sys.stdout.flush()
    except OSError as error:
        return _unwritten(error)
    return code


def _open_streams() -> None:
    """Put the null device where a standard stream is closed: the next file or socket would become it."""
    while (handle := os.open(os.devnull, os.O_RDWR)) <= max(_OUTPUTS):
        os.set_inheritable(handle, True)
    os.close(handle)
    sys.stdin = sys.stdin or os.fdopen(0)
    for number, name in _OUTPUTS.items():
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(number, "w"))
            setattr(sys, f"__{name}__", getattr(sys, name))  # Celery logs to this one
    for stream in (sys.stdout, sys.stderr):
        # a terminal of another encoding gets escapes, not a traceback
        stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr] # another's TextIO


def interruptible() -> None:
    """Make SIGTERM and SIGHUP what Ctrl-C is, and none of them lost; what needs another answer sets its own.

    What our parent ignores stays ignored: `nohup` asks for it.
    """
    interruption = _Interruption()
    for number in (*_STOPPING, signal.SIGALRM):
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, interruption.raised)
    sys.unraisablehook = interruption.dropped


class _Interruption:
    """A KeyboardInterrupt wherever the program happens to be: one for signals in quick succession.

    The second of an impatient user would fall into the answer to the first. In a destructor or a weak
    reference's callback (the import system has some) Python prints and drops it: then it comes again.
    """

    def __init__(self) -> None:
        self._deaf_until = 0.0

    def raised(self, number: int, _frame: FrameType | None) -> None:
        now = time.monotonic()
        if now >= self._deaf_until or number == signal.SIGALRM:
            self._deaf_until = now + _BURST_SECONDS
            raise KeyboardInterrupt

    def dropped(self, what: "sys.UnraisableHookArgs") -> None:
        if issubclass(what.exc_type, KeyboardInterrupt):
            signal.setitimer(signal.ITIMER_REAL, _AGAIN_SECONDS)
        elif "ignored due to race" not in str(what.exc_value):  # a signal while they became ignored
            sys.__unraisablehook__(what)


def _unwritten(error: OSError) -> Exit:
    """Say that there is no room for the output. Who closes a pipe knows; another error is our fault."""
    if error.filename is not None or error.errno not in _UNWRITABLE:
        raise error
    if error.errno != errno.EPIPE:
        _failed(f"the output cannot be written: {error.strerror} → write it elsewhere")
    return Exit.FINDINGS


def _ignore_signals() -> None:
    """Begin the end: an interruption comes too late."""
    for number in (*_STOPPING, signal.SIGALRM):
        signal.signal(number, signal.SIG_IGN)


def _end(code: int) -> NoReturn:
    """End this process. What cannot be written is dropped."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    gc.freeze()  # else Python looks, for a tenth of a second, at every object of every library once more
    sys.exit(code)


def _run() -> int:
    from worker.cli.commands import application
    from worker.cli.firstrecord import log_when_needed

    log_when_needed()
    try:
        application()()
    except SystemExit as end:
        return _ended(end.code)
    except KeyboardInterrupt:
        return _ended(Exit.INTERRUPTED)
    except IngestError as error:
        return _failed(error)
    except DocumentError as error:
        return _failed(error.message, Exit.SOURCE)
    except _server_errors() as error:
        return _failed(_explained(error))
    return Exit.OK


def _ended(code: object) -> int:
    from worker.cli.output import note

    if code == Exit.INTERRUPTED:
        note("interrupted; what was submitted is safe and goes on")
    return code if isinstance(code, int) else Exit.OK


def _failed(error: IngestError | str, code: Exit = Exit.USAGE) -> int:
    from worker.cli.output import note

    code = error.exit_code if isinstance(error, IngestError) else code
    if not _logged(error, code):
        note(str(error) if isinstance(error, Interrupted) else f"error: {error}")
    return code


def _logged(error: IngestError | str, code: Exit) -> bool:
    """Say it in the log of a process, where that is JSON, which a line for people would spoil."""
    if "worker.logs" not in sys.modules:
        return False
    from worker import logs

    return logs.refused(error, code)


def _server_errors() -> tuple[type[Exception], ...]:
    """Name what a server's trouble raises: looked up only after something was raised, imports cost."""
    from kombu.exceptions import OperationalError
    from redis import RedisError
    from sqlalchemy.exc import DBAPIError

    from worker.db.pooling import NoFreeConnectionError

    return DBAPIError, NoFreeConnectionError, OperationalError, RedisError


def _explained(error: Exception) -> IngestError:
    from sqlalchemy.exc import SQLAlchemyError

    if not isinstance(error, SQLAlchemyError):
        return BrokerUnavailableError(f"the broker does not answer: {error}", "run `ingest doctor`")
    from worker.db.engine import describe, is_retryable, unavailable
    from worker.db.schema import require_schema
    from worker.settings import load_settings

    settings = load_settings()
    if is_retryable(error):
        return unavailable(settings.database_url, error)
    try:
        require_schema(settings)  # a table that is missing: the reason is here, not in the statement
    except IngestError as reason:
        return reason
    return SchemaError(f"the database refused: {describe(error)}", "run `ingest doctor`")
