"""Trying database work again while its trouble passes."""

from collections.abc import Callable
from typing import TypeVar

from tenacity import Retrying, retry_if_exception, wait_exponential_jitter

from worker.db.engine import is_retryable

T = TypeVar("T")


def patiently(work: Callable[[], T], must_stop: Callable[[], bool]) -> T:
    """Do the work, again and again while what undoes it is passing, until `must_stop` says so.

    Raises what the last try raised. The work is one transaction, or reads only.
    """
    return Retrying(
        retry=retry_if_exception(is_retryable),
        wait=wait_exponential_jitter(multiplier=0.2, max=5),
        stop=lambda _: must_stop(),
        reraise=True,
    )(work)
