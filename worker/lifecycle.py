"""Signals of a worker's life: what is set up in each process, who is alive, when to stop."""

import gc
import logging
import mmap
import os
import signal
import socket
import threading
from types import FrameType
from typing import Any
from uuid import UUID

import psutil
from billiard.process import current_process
from celery import signals
from celery.exceptions import TimeLimitExceeded, WorkerLostError
from sqlalchemy.exc import SQLAlchemyError

from worker import metricfiles
from worker.db import batches, operations
from worker.db.engine import describe, single_connection_engine, transaction
from worker.logs import bind_contextvars, clear_contextvars
from worker.resources import close_resources
from worker.settings import load_settings
from worker.types import TaskName

log = logging.getLogger(__name__)

_REMARK_SECONDS = 10
_OBJECTS_BETWEEN_COLLECTIONS = 20_000
# A worker is called after the first of these queues that it takes from.
_KINDS = ("ingest", "interactive", "search", "maintenance")

# One byte shared by a worker and the children it forks: the parent says here that it is stopping.
_stopping = mmap.mmap(-1, 1)


def stopping() -> bool:
    """Tell whether this worker has been asked to stop."""
    return _stopping[0] != 0


def collect_garbage_rarely() -> None:
    """Look for garbage rarely, and never among what was loaded before.

    A batch is thousands of small objects that are gone together: nothing is gained by looking through
    them all every 700.
    """
    gc.freeze()
    gc.set_threshold(_OBJECTS_BETWEEN_COLLECTIONS)


def member() -> str:
    """Name this process among those of its worker: its place in the pool, which its successor has, too."""
    place = getattr(current_process(), "index", None)
    return metricfiles.MAIN if place is None else str(place)


@signals.worker_process_init.connect
def _start_child(**_: Any) -> None:
    # A supervisor, or a terminal that closes, may signal the whole process group. The child finishes
    # what it holds, hands back the rest, and leaves when its parent tells it: through `stopping`, since
    # billiard replaces any handler of ours but SIG_IGN. What must die at once gets SIGKILL after that.
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    metricfiles.begin_member(member())
    collect_garbage_rarely()


@signals.task_prerun.connect
def _begin_task(task_id: str, task: Any, **_: Any) -> None:
    """Have every line of this task's say which it is."""
    clear_contextvars()
    bind_contextvars(task=task.name, task_id=task_id, worker=task.request.hostname)


@signals.task_postrun.connect
def _end_task(**_: Any) -> None:
    # What a task leaves in cycles, as each engine does, would stay for two million objects more: 8 MB in 900
    # chores. Between two tasks little is alive but what was frozen: a look takes less than a millisecond.
    gc.collect()
    clear_contextvars()


@signals.worker_process_shutdown.connect
def _stop_child(**_: Any) -> None:
    close_resources()


# Celery sends this one in its answer to SIGTERM, under a lock that waits for itself for ever where the signal
# comes again meanwhile: from who insists, or from the kernel, for each thread of a parent that is killed.
signals.worker_shutting_down.lock = threading.RLock()


@signals.worker_shutting_down.connect
def _stop_worker(**_: Any) -> None:
    _stopping[0] = 1


def _kill_children_on_quit() -> None:
    """Have SIGQUIT end the children at once: Celery would wait for them to obey its SIGTERM.

    Their transactions roll back, their leases run out.
    """
    cold_shutdown = signal.getsignal(signal.SIGQUIT)

    def quit_now(number: int, frame: FrameType | None) -> None:
        for child in psutil.Process().children():
            child.kill()
        if callable(cold_shutdown):
            cold_shutdown(number, frame)

    signal.signal(signal.SIGQUIT, quit_now)


class Heart:
    """Tells the database that this process lives, from a thread, over a connection of its own.

    And what ended those of its pool that had a batch, which nobody else knows.
    """

    def __init__(self, name: str, kind: str, slots: int) -> None:
        self._name, self._kind, self._slots = name, kind, slots
        self._settings = load_settings()
        self._engine = single_connection_engine(self._settings.database_url, "ingest heartbeat")
        self._deaths: dict[UUID, str] = {}
        self._stopped, self._wake = False, threading.Event()
        self._thread = threading.Thread(target=self._run, name="heart", daemon=True)

    def start(self) -> None:
        """Begin to beat."""
        self._thread.start()

    def stop(self) -> None:
        """End, and take the heartbeat away."""
        self._stopped = True
        self._wake.set()
        self._thread.join(1)  # a beat under way must not come after our leaving
        try:
            with transaction(self._engine, 1) as connection:
                operations.stop_heart(connection, self._name)
        except SQLAlchemyError as error:
            log.warning("heartbeat.left", extra={"worker": self._name, "reason": describe(error)})

    def tell(self, batch_id: UUID, cause: str) -> None:
        """Have it noted soon what ended the process that had this batch."""
        self._deaths[batch_id] = cause
        self._wake.set()

    def _run(self) -> None:
        while not self._stopped:
            try:
                with transaction(self._engine, self._settings.heartbeat_seconds) as connection:
                    operations.beat_heart(connection, self._name, self._kind, self._slots, os.getpid())
                self._tell_deaths()
            except SQLAlchemyError as error:
                log.warning("heartbeat.unwritten", extra={"worker": self._name, "reason": describe(error)})
            self._wake.wait(self._settings.heartbeat_seconds)
            self._wake.clear()

    def _tell_deaths(self) -> None:
        """Note each, at every beat until its batch is over.

        A process that is about to be killed may renew its lease once more, which takes the note away. And the
        session of the dead may hold the batch's row a moment: then the next beat notes it.
        """
        for batch_id, cause in list(self._deaths.items()):
            with transaction(self._engine, _REMARK_SECONDS) as connection:
                if not batches.remark(connection, batch_id, self._name, cause):
                    del self._deaths[batch_id]


_hearts: list[Heart] = []


@signals.task_failure.connect
def _say_what_ended_it(sender: Any, exception: BaseException, args: Any, **_: Any) -> None:
    """Note what ended the process that had a batch: Celery tells it to the main process alone."""
    if sender.name == TaskName.INGEST_BATCH and isinstance(exception, WorkerLostError | TimeLimitExceeded):
        batch_id, cause = UUID(args[0]), cause_of_death(exception)
        log.warning("process.died", extra={"batch": batch_id, "reason": cause})
        for heart in _hearts:
            heart.tell(batch_id, cause)


def cause_of_death(error: WorkerLostError | TimeLimitExceeded) -> str:
    """Say what ended a process of the pool, as far as its parent knows it."""
    if isinstance(error, TimeLimitExceeded):
        return f"killed after TASK_TIME_LIMIT, {load_settings().task_time_limit} s"
    # billiard writes "Worker exited prematurely: signal 9 (SIGKILL) Job: 4."
    ended = str(error).removeprefix("Worker exited prematurely: ").partition(" Job:")[0]
    perhaps = ", as the system does where memory runs out" if "SIGKILL" in ended else ""
    return f"ended by {ended}{perhaps}"


def _begin(name: str, kind: str, slots: int) -> None:
    heart = Heart(name, kind, slots)
    _hearts.append(heart)
    heart.start()


@signals.worker_ready.connect
def _worker_is_ready(sender: Any, **_: Any) -> None:
    queues = set(sender.app.amqp.queues.consume_from)
    kind = next((name for name in _KINDS if name in queues), "other")
    _begin(sender.hostname, kind, sender.controller.concurrency)
    _kill_children_on_quit()


@signals.beat_init.connect
def _beat_is_ready(**_: Any) -> None:
    _begin(f"beat-{os.getpid()}@{socket.gethostname()}", "beat", 0)


@signals.worker_shutdown.connect
def _worker_is_gone(**_: Any) -> None:
    while _hearts:
        _hearts.pop().stop()
    close_resources()
