"""Trying again what may pass, most of all the database's trouble."""

import logging
import random
from collections.abc import Callable
from typing import TypeVar

from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DBAPIError
from tenacity import RetryCallState, Retrying, retry_if_exception, wait_exponential_jitter

from worker.db.engine import describe, is_forbidden, is_retryable, transaction
from worker.settings import Settings

log = logging.getLogger(__name__)

T = TypeVar("T")

BRIEF_SECONDS = 1


def may_pass(error: BaseException) -> bool:
    """Tell whether it is no document's fault, and may pass: a right that was taken away is given back."""
    return is_retryable(error) or is_forbidden(error)


def patiently(work: Callable[[], T], must_stop: Callable[[], bool]) -> T:
    """Do the work, again and again while what undoes it is passing, until `must_stop` says so.

    Raises what the last try raised. The work is one transaction, or reads only.
    """
    return Retrying(
        retry=retry_if_exception(may_pass),
        wait=wait_exponential_jitter(multiplier=0.2, max=5),
        stop=lambda _: must_stop(),
        before_sleep=_say,
        reraise=True,
    )(work)


def _say(state: RetryCallState) -> None:
    error = state.outcome.exception() if state.outcome else None
    assert error is not None  # that is why it is tried again
    log.warning("database.retried", extra={"attempt": state.attempt_number, "reason": describe(error)})


def briefly(engine: Engine, work: Callable[[Connection], None]) -> bool:
    """Do work that takes heavy locks in one transaction, which waits a second for them.

    Who waits for a lock makes others wait. False where the moment was too busy: nothing was done then.
    """
    try:
        with transaction(engine, lock_seconds=BRIEF_SECONDS) as connection:
            work(connection)
    except DBAPIError as error:
        if is_retryable(error):
            return False
        raise
    return True


def backoff(attempts: int, settings: Settings) -> float:
    """Give the seconds to wait after this many attempts: doubling, bounded, with half of it jitter."""
    most = min(settings.retry_max_seconds, settings.retry_base_seconds * 2 ** (attempts - 1))
    return float(most * random.uniform(0.5, 1))  # noqa: S311 -- jitter, not a secret
