"""Celery tasks: shells that decode arguments, call one service and map its errors to a policy."""

import logging
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import Any
from uuid import UUID

from celery import Task, shared_task
from kombu.exceptions import OperationalError
from redis import RedisError
from sqlalchemy.exc import SQLAlchemyError

from worker import metrics
from worker.answers import as_json
from worker.counting import count_search
from worker.db import batches
from worker.db.engine import describe, is_retryable, loggable
from worker.dispatch import fill_window
from worker.errors import IngestError, LeaseLostError, NoAnswerError
from worker.ingest import ingest_batch
from worker.lifecycle import stopping
from worker.maintenance.run import run_chore
from worker.patience import may_pass
from worker.queries import read_query
from worker.resources import resources
from worker.searching import search
from worker.types import TaskName

log = logging.getLogger(__name__)

_REPORT_SECONDS = 1
_CHORE_SECONDS = 86_400


class ProcessMemoryError(Exception):
    """This process was given no more memory, beside any document's own work."""


class Told:
    """What a task gives: stored in full for who waits for it, shown by Flower as one line."""

    def __init__(self, result: Mapping[str, Any], line: str) -> None:
        self._result, self._line = result, line

    def __json__(self) -> Mapping[str, Any]:
        """Give what is stored; kombu asks for it."""
        return self._result

    def __repr__(self) -> str:
        return self._line


@shared_task(name=TaskName.INGEST_BATCH.value, bind=True, max_retries=5)
def ingest_batch_task(self: Task, batch_id: str) -> Told:
    """Process one batch; gives its counts for Flower. What became of it is in the database."""
    told = time.monotonic()

    def report(done: int, total: int) -> None:
        nonlocal told
        if time.monotonic() - told < _REPORT_SECONDS:
            return
        told = time.monotonic()
        # A state Celery does not know is shown by Flower as it is, with its result. Nobody may be there
        # to hear it: a lost broker is no trouble of this batch.
        with suppress(OperationalError, RedisError, OSError):
            self.send_event("task-progress", retry=False, result=f"{done} of {total} documents")

    try:
        counts = ingest_batch(
            resources(), UUID(batch_id), self.request.hostname, stopping=stopping, report=report
        )
    except LeaseLostError:
        metrics.batches.labels("lease_lost").inc()
        log.warning(
            "batch.lost", extra={"batch": batch_id, "then": "it was cancelled, or another worker has it"}
        )
        return Told({}, "lease lost: cancelled, or another worker has it")
    except MemoryError:
        # Celery would end the whole worker. The lease runs out, and the documents go again, each alone.
        _note(batch_id, self.request.hostname, "its process was given no more memory")
        raise ProcessMemoryError("no more memory") from None
    except SQLAlchemyError as error:
        # Before the claim this tries again; after it, the message finds no queued batch, and the
        # lease runs out.
        if may_pass(error):
            log.warning("batch.interrupted", extra={"batch": batch_id, "reason": describe(error)})
            raise self.retry(countdown=min(2 ** (self.request.retries + 1), 60), exc=error) from None
        raise
    metrics.batches.labels("not_ours" if counts is None else "done").inc()
    if counts is None:  # who has it, or had it, fills the window
        return Told({}, "nothing to do: another worker has it, or had it")
    if not stopping():
        fill_window(resources())
    done = ", ".join(f"{number} {status}" for status, number in counts.items())
    return Told(counts, done or "handed back")


def _note(batch_id: str, worker: str, cause: str) -> None:
    """Note for who rescues a batch why it was left, where that can be."""
    with suppress(IngestError, SQLAlchemyError, MemoryError):
        resources().transact(lambda connection: batches.remark(connection, UUID(batch_id), worker, cause))


@shared_task(name=TaskName.SEARCH_QUERY.value, ignore_result=False)
def search_task(query: Mapping[str, Any]) -> Told:
    """Answer a search for who waits at the result backend; nothing of what was found is shown."""
    answered = answer_query(query)
    return Told(answered, _searched(answered))


def _searched(answered: Mapping[str, Any]) -> str:
    answer = answered.get("answer")
    if answer is None:
        return "no answer" if {"late", "outage"} & answered.keys() else "refused"
    without = f", without {' and '.join(answer['dropped'])}" if answer["dropped"] else ""
    return f"{len(answer['hits'])} hits, {answer['mode']}{without}"


def answer_query(query: Mapping[str, Any]) -> dict[str, Any]:
    """Answer a search with {"answer": …} or {"error": …, "hint": …}; never a traceback."""
    begun = time.monotonic()
    reply = _reply(query)
    count_search(reply, time.monotonic() - begun)
    return reply


def _reply(query: Mapping[str, Any]) -> dict[str, Any]:
    try:
        return {"answer": as_json(search(resources(), read_query(query)))}
    except NoAnswerError as error:
        log.warning("search.late")
        return {"error": error.message, "hint": error.hint, "late": True}
    except IngestError as error:
        log.info("search.refused", extra={"kind": type(error).__name__})
        return {"error": error.message, "hint": error.hint}
    except SQLAlchemyError as error:
        log.warning("search.failed", extra={"reason": loggable(error)})
        said = "the database did not answer the search"
        return {"error": said, "hint": "run `ingest doctor`", "outage": True}
    except MemoryError:  # Celery would end the whole worker
        log.warning("search.failed", extra={"reason": "no more memory"})
        said = "the search worker was given no more memory"
        return {"error": said, "hint": "ask for fewer hits, or give it more", "late": True}


def _chore_task(name: TaskName, chore: str) -> None:
    # an index build takes as long as it takes; it is watched, and cancelled when its worker stops
    @shared_task(name=name.value, ignore_result=True, time_limit=_CHORE_SECONDS)
    def run() -> Told:
        try:
            did = run_chore(resources(), chore, stopping=stopping, scheduled=True)
        except SQLAlchemyError as error:
            if not is_retryable(error):
                raise
            log.warning("chore.interrupted", extra={"chore": chore, "reason": describe(error)})
            return Told({}, "failed: the database is away or busy")
        except MemoryError:  # Celery would end the whole worker
            raise ProcessMemoryError("no more memory") from None
        return Told(did, _chore_did(did))


def _chore_did(did: Mapping[str, Any]) -> str:
    """Say what a chore did: what is zero or empty is left out, what has parts of its own is counted."""
    facts = [
        f"{name.replace('_', ' ')} {_fact(value)}"
        for name, value in did.items()
        if value and name != "outcome"
    ]
    return ": ".join([did["outcome"], *([", ".join(facts)] if facts else [])])


def _fact(value: Any) -> Any:
    if isinstance(value, Mapping):
        return " ".join(f"{name} {part}" for name, part in value.items())
    if not isinstance(value, list):
        return value
    return len(value) if any(isinstance(part, Mapping) for part in value) else " ".join(map(str, value))


for _name in TaskName:
    if _name.chore:
        _chore_task(_name, _name.chore)
