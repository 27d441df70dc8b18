"""Processes beside the one that measures."""

import multiprocessing
from multiprocessing.context import ForkServerContext


def context() -> ForkServerContext:
    """Give what starts them: each is forked from a process that has done nothing but load the libraries.

    They have the environment of the time when the first was started.
    """
    found = multiprocessing.get_context("forkserver")
    found.set_forkserver_preload(["benchmarks.company"])
    return found
