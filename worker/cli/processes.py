"""`ingest worker` and `ingest beat`: the processes of the Procfile that are Celery in this process."""

import os
import signal
from collections.abc import Callable
from enum import StrEnum
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

import typer

from worker.errors import StackError
from worker.types import Queue

if TYPE_CHECKING:  # imports cost, and --help must not
    from pydantic import SecretStr

    from worker.settings import Settings


class Kind(StrEnum):
    """Which work a worker takes."""

    INGEST = "ingest"
    INTERACTIVE = "interactive"
    SEARCH = "search"
    MAINTENANCE = "maintenance"


# In this order: what a person waits for is taken first.
QUEUES = {
    Kind.INGEST: (Queue.INTERACTIVE, Queue.INGEST),
    Kind.INTERACTIVE: (Queue.INTERACTIVE,),
    Kind.SEARCH: (Queue.SEARCH,),
    Kind.MAINTENANCE: (Queue.MAINTENANCE,),
}

# Who asks while the one process of these is replaced waits for the new one's model.
_TASKS_A_PROCESS = {Kind.SEARCH: 100_000, Kind.INTERACTIVE: 2_000}


def register(app: typer.Typer) -> None:
    """Add the commands."""
    for command in (worker, beat):
        app.command(command.__name__)(command)


def worker(kind: Annotated[Kind, typer.Argument(help="Which work it takes.")]) -> None:
    """Run a worker in the foreground. SIGTERM and Ctrl-C stop it; what it has not begun goes back."""
    from worker.cli.startup import as_role, prepare

    settings = prepare()
    settings = as_role(own_database(kind, settings))
    from celery.worker import state

    from worker.app import app
    from worker.lifecycle import member
    from worker.metricfiles import share

    share(settings, kind.value, _concurrency(kind, settings), member)

    # not app.worker_main: that imports every command of Celery and Flower, which takes longer than our own
    process = app.Worker(**worker_options(kind, settings))
    process.install_platform_tweaks = partial(_install_signals, process.install_platform_tweaks)
    process.start()
    if process.exitcode and state.should_stop is None:  # Celery gives Ctrl-C, too, the code of a failure
        raise StackError("the worker could not go on", "its log says why; start it again")


def own_database(kind: Kind, settings: "Settings") -> "SecretStr | None":
    """Give the URL of the role that a worker of this kind has to itself, where it is set."""
    return {
        Kind.INGEST: None,
        Kind.INTERACTIVE: None,
        Kind.SEARCH: settings.search_database_url,
        Kind.MAINTENANCE: settings.maintenance_database_url,
    }[kind]


def _install_signals(celerys: Callable[[Any], None], process: Any) -> None:
    """Set up signals as Celery does, but stop at SIGHUP: without a terminal Celery would start anew."""
    ignored = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    celerys(process)
    signal.signal(signal.SIGHUP, signal.SIG_IGN if ignored else signal.getsignal(signal.SIGTERM))


def worker_options(kind: Kind, settings: "Settings") -> dict[str, Any]:
    """Give Celery's options. The name holds our pid: two workers may run on one host."""
    from celery.utils.nodenames import default_nodename, host_format

    return {
        "hostname": host_format(default_nodename(f"{kind.value}-{os.getpid()}@%h")),
        "queues": [queue.value for queue in QUEUES[kind]],
        "concurrency": _concurrency(kind, settings),
        **_recycling(kind),
        "loglevel": settings.log_level,
        "optimization": "fair",
        "quiet": True,  # no banner
        # workers have nothing to tell each other; Flower hears them all the same
        "without_gossip": True,
        "without_mingle": True,
    }


def _concurrency(kind: Kind, settings: "Settings") -> int:
    """Give the pool processes of a worker. A long chore (seal, vacuum) must not keep rescue from its turn."""
    return {
        Kind.INGEST: settings.ingest_concurrency,
        Kind.INTERACTIVE: settings.interactive_concurrency,
        Kind.SEARCH: 1,
        Kind.MAINTENANCE: 4,
    }[kind]


def _recycling(kind: Kind) -> dict[str, int]:
    """Replace the processes of some workers more rarely than those of the others."""
    return {"max_tasks_per_child": _TASKS_A_PROCESS[kind]} if kind in _TASKS_A_PROCESS else {}


def beat() -> None:
    """Run the schedule in the foreground. One is enough; a second does no harm."""
    from worker.cli.startup import prepare

    settings = prepare()
    settings.data_dir.mkdir(parents=True, exist_ok=True)
    from worker.app import app

    app.Beat(loglevel=settings.log_level, quiet=True).run()
