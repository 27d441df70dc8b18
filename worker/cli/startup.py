"""What a process of the Procfile does before its work: its log, patience, and refusals."""

import logging
import warnings
from collections.abc import Callable
from typing import Any, TypeVar

from pydantic import SecretStr
from tenacity import RetryCallState, Retrying, retry_if_exception_type, stop_after_delay, wait_exponential

from worker import logs
from worker.broker import require_broker
from worker.db.engine import reach
from worker.db.schema import is_replica, require_schema
from worker.errors import BrokerUnavailableError, DatabaseUnavailableError
from worker.settings import Settings, export, load_settings

T = TypeVar("T")

log = logging.getLogger(__name__)


def prepare() -> Settings:
    """Give the settings, once database, schema and broker are there.

    Raises SettingsError and SchemaError at once, DatabaseUnavailableError and BrokerUnavailableError
    when STARTUP_PATIENCE_SECONDS are over.
    """
    settings = load_settings()
    _set_up_logs(settings)
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
    log.warning("servers.awaited", extra={"again_s": round(pause.sleep, 1), "reason": outcome.exception()})


def _set_up_logs(settings: Settings) -> None:
    """Have Celery, Flower and what they use log as we do, and keep what people asked and wrote out of it."""
    from celery import signals
    from celery.app import trace
    from celery.apps import worker
    from celery.platforms import SecurityWarning
    from celery.worker.consumer import consumer

    logs.set_up(settings.log_format, settings.log_level)
    logs.catch_crashes()
    signals.setup_logging.connect(_keep_logs, weak=False)
    worker.safe_say = logs.say_safely
    # it warns root of pickled messages; only JSON is accepted here
    warnings.simplefilter("ignore", SecurityWarning)
    logging.getLogger("flower.inspector").setLevel(logging.ERROR)  # a worker that is starting is no trouble
    # `%.0s` writes nothing of its argument: results and exceptions quote documents, and a message that cannot
    # be read may be a query
    trace.LOG_SUCCESS = "Task %(name)s[%(id)s] succeeded in %(runtime)ss"
    trace.LOG_RETRY = "Task %(name)s[%(id)s] retry"
    for policy in ("internal", "expected", "unexpected", "reject"):
        name = f"log_policy_{policy}"
        silent = getattr(trace, name)._replace(format="Task %(name)s[%(id)s] %(description)s")
        setattr(trace, name, silent)
    consumer.UNKNOWN_FORMAT = "Received and deleted unknown message%.0s"
    consumer.UNKNOWN_TASK_ERROR = "Received unregistered task of type %s; it is discarded%.0s%.0s%.0s"
    consumer.INVALID_TASK_ERROR = "Received invalid task message: %s; it is discarded%.0s"
    consumer.MESSAGE_DECODE_ERROR = "Can't decode message body: %r [type:%r encoding:%r]%.0s%.0s"


def _keep_logs(**_: Any) -> None:
    """Celery sets up no log of its own where somebody answers its signal; its pool's goes into ours."""
    from billiard.util import get_logger

    pool = get_logger()
    pool.propagate = True
    pool.setLevel(logging.ERROR)
