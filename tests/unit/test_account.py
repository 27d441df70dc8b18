"""The account that servers run as, where root starts them."""

import fcntl
import os

import pytest

from worker.embedded import account


def test_stacks_that_start_at_once_make_the_account_one_after_the_other() -> None:
    """Two useradd at once gave it one uid after the other: one of 20 starts of four failed."""
    other = os.open("/etc", os.O_RDONLY)
    try:
        with account._one_at_a_time(), pytest.raises(BlockingIOError):
            fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
    finally:
        os.close(other)
