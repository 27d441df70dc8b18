"""What a process of the Procfile does before its work: readable logs, patience, and refusals."""

import logging
import warnings
from collections.abc import Callable
from typing import Any, TypeVar

from pydantic import SecretStr
from tenacity import RetryCallState, Retrying, retry_if_exception_type, stop_after_delay, wait_exponential

from worker.broker import require_broker
from worker.db.engine import reach
from worker.db.schema import is_replica, require_schema
from worker.errors import BrokerUnavailableError, DatabaseUnavailableError
from worker.settings import Settings, export, load_settings

T = TypeVar("T")

log = logging.getLogger("ingest")

_NOISY = ("httpx", "httpcore", "urllib3", "filelock", "huggingface_hub")
_FORMAT = "%(levelname)s %(name)s %(message)s"
_KNOWN = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName", "data"}


class OneLine(logging.Formatter):
    """A record as one line: its message, folded, then the fields given with it."""

    def format(self, record: logging.LogRecord) -> str:
        """Add the fields behind the message; a traceback keeps its lines."""
        fields = " ".join(f"{name}={value}" for name, value in record.__dict__.items() if name not in _KNOWN)
        line = super().format(record)
        return line if record.exc_info else " ".join(f"{line} {fields}".split())


def prepare() -> Settings:
    """Give the settings, once database, schema and broker are there.

    Raises SettingsError and SchemaError at once, DatabaseUnavailableError and BrokerUnavailableError
    when STARTUP_PATIENCE_SECONDS are over.
    """
    settings = load_settings()
    _quiet_logs(settings.log_level)
    _patiently(lambda: require_schema(settings), settings.startup_patience_seconds)
    _patiently(lambda: require_broker(settings), settings.startup_patience_seconds)
    return settings


def as_role(url: SecretStr | None) -> Settings:
    """Have this process, and those it forks, connect as one role: its DATABASE_URL becomes `url`.

    Not where `url` leads to a replica, which takes no heartbeat. Raises as `prepare` does.
    """
    settings = load_settings()
    if url is None or _patiently(
        lambda: reach(url, is_replica, settings.setting_of(url)), settings.startup_patience_seconds
    ):
        return settings
    export({"DATABASE_URL": url.get_secret_value()})
    return load_settings()


def _patiently(check: Callable[[], T], seconds: int) -> T:
    return Retrying(
        retry=retry_if_exception_type((DatabaseUnavailableError, BrokerUnavailableError)),
        wait=wait_exponential(multiplier=0.5, max=10),
        stop=stop_after_delay(seconds),
        before_sleep=_log_attempt,
        reraise=True,
    )(check)


def _log_attempt(state: RetryCallState) -> None:
    outcome, pause = state.outcome, state.next_action
    assert outcome is not None
    assert pause is not None
    log.warning("not ready, again in %.1f s: %s", pause.sleep, outcome.exception())


def _quiet_logs(level: str) -> None:
    from celery import signals
    from celery.app import trace
    from celery.platforms import SecurityWarning

    logging.basicConfig(level=level, format=_FORMAT)
    for name in _NOISY:
        logging.getLogger(name).setLevel(logging.WARNING)
    # it warns root of pickled messages; only JSON is accepted here
    warnings.simplefilter("ignore", SecurityWarning)
    logging.getLogger("flower.inspector").setLevel(logging.ERROR)  # a worker that is starting is no trouble
    # a search's result is documents' text, which does not belong into a log; batches log their counts
    trace.LOG_SUCCESS = "Task %(name)s[%(id)s] succeeded in %(runtime)ss"
    signals.after_setup_logger.connect(_format, weak=False)


def _format(logger: logging.Logger, **_: Any) -> None:
    """Put our format on the handlers that Celery has made."""
    for handler in logger.handlers:
        handler.setFormatter(OneLine(_FORMAT))
