"""The command `ingest`: a module a family of commands; every foreseeable mistake ends in one line."""

import os
import signal
import sys

from worker.cli.commands import application
from worker.cli.output import note
from worker.errors import BrokerUnavailableError, DocumentError, Exit, IngestError, SchemaError

_AGAIN_SECONDS = 0.05


def main() -> None:
    """Run the command line given to this process; ends it with one of `errors.Exit`."""
    for stream in (sys.stdout, sys.stderr):
        # a terminal of another encoding gets escapes, not a traceback
        stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr] # None only under pythonw
    interruptible()
    try:
        code = _run()
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = Exit.FINDINGS
    sys.exit(code)


def interruptible() -> None:
    """Make SIGTERM and SIGHUP what Ctrl-C is, and none of them lost; what needs another answer sets its own.

    An interruption is an exception wherever the program happens to be. In a destructor or a weak
    reference's callback (the import system has some) Python prints and drops it: then it comes again.
    """
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGALRM):
        signal.signal(number, signal.default_int_handler)
    sys.unraisablehook = _dropped


def _dropped(what: "sys.UnraisableHookArgs") -> None:
    if issubclass(what.exc_type, KeyboardInterrupt):
        signal.setitimer(signal.ITIMER_REAL, _AGAIN_SECONDS)
    else:
        sys.__unraisablehook__(what)


def _run() -> int:
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
    if code == Exit.INTERRUPTED:
        note("interrupted; what was submitted is safe and goes on")
    return code if isinstance(code, int) else Exit.OK


def _failed(error: IngestError | str, code: Exit = Exit.USAGE) -> int:
    note(f"error: {error}")
    return error.exit_code if isinstance(error, IngestError) else code


def _server_errors() -> tuple[type[Exception], ...]:
    """Name what a server's trouble raises: looked up only after something was raised, imports cost."""
    from kombu.exceptions import OperationalError
    from redis import RedisError
    from sqlalchemy.exc import DBAPIError

    return DBAPIError, OperationalError, RedisError


def _explained(error: Exception) -> IngestError:
    from sqlalchemy.exc import DBAPIError

    if not isinstance(error, DBAPIError):
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
