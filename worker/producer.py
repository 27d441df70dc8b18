"""The producer's calls: submit documents, follow them, take them back, search.

`project=None` means documents without a project to `submit`, `below`, and to `cancel` and `retry` of all; any
project to `status`, `search`, and where documents are named.

Each call is its own transaction, committed when it returns; publishing follows the commit. They use
the settings of the process (DATABASE_URL, BROKER_URL). A broker that is away delays documents, it
loses none.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any
from uuid import UUID

from sqlalchemy import Connection

from worker import outcomes, sources
from worker.answers import read_answer
from worker.broker import require_broker
from worker.db import changes, deletions, overview, submissions
from worker.db.changes import Moment
from worker.db.pauses import Pause
from worker.db.tenants import known_scope
from worker.dispatch import fill_window
from worker.document import Document
from worker.errors import BrokerUnavailableError, DatabaseUnavailableError, IngestError, NoAnswerError
from worker.loading import load
from worker.naming import identify, ids_and_paths, on_documents, several
from worker.operating import cancel_batch, pause, paused, resume
from worker.queries import Query, read_query
from worker.rating import Run, rate, runs
from worker.resources import resources
from worker.steps.storable import storable
from worker.submitting import DEFAULT_TENANT, Receipt, set_language, submit
from worker.types import Answer, GivenChunk, GivenDocument, Hit, Loaded, Status, TaskName

__all__ = [
    "DEFAULT_TENANT", "Answer", "Document", "GivenChunk", "GivenDocument", "Hit", "Loaded", "Overview",
    "Pause", "Receipt", "Run", "below", "cancel", "cancel_batch", "delete", "find", "load", "pause", "paused",
    "rate", "restore", "resume", "retry", "runs", "search", "set_language", "status", "submit", "wait",
]  # fmt: skip

_LOOK_SECONDS = 1


@dataclass(frozen=True, slots=True)
class Overview:
    """The state of a tenant's project, or of everything."""

    counts: Mapping[Status, int]
    oldest_waiting_seconds: float | None
    reasons: Sequence[Any]
    documents: Sequence[Any] = ()


def status(
    *,
    tenant: str | None = None,
    project: str | None = None,
    trace: str | None = None,
    most_reasons: int = 20,
) -> Overview:
    """Give counts by status, the age of the oldest waiting document, and why documents did not complete.

    Without a tenant: of all. With a `trace`: of its documents, the first few of which are listed. Raises
    IngestError for an unknown tenant or project, and a project alone.
    """
    if tenant is None and project is not None:
        raise IngestError(f"whose project {project!r} is meant?", "name its tenant, too")

    trace = None if trace is None else storable(trace)

    def ask(connection: Connection) -> Overview:
        scope = None if tenant is None else known_scope(connection, tenant, project)
        return Overview(
            overview.counts(connection, scope, trace),
            overview.oldest_waiting_seconds(connection, scope, trace),
            overview.reasons(connection, scope, most_reasons, trace),
            () if trace is None else overview.traced(connection, scope, trace, most_reasons),
        )

    return resources().transact(ask)


def find(
    documents: Sequence[str | UUID], *, tenant: str = DEFAULT_TENANT, project: str | None = None
) -> Sequence[Any]:
    """Give the rows of documents named by id, by source path or by local path; newest first."""
    ids, paths = ids_and_paths(documents)
    return resources().transact(
        lambda connection: overview.documents(
            connection, known_scope(connection, tenant, project), ids=ids, paths=paths
        )
    )


def wait(
    document_ids: Sequence[UUID | str],
    *,
    timeout_seconds: float | None = None,
    poll_seconds: float = 0.2,
    progress: Callable[[int], None] = lambda _left: None,
) -> Any:
    """Wait until documents are settled; gives their outcome: counts by status, bytes, chunks.

    `progress` hears how many are left. Raises NoAnswerError when the time is over; the documents go on.
    """
    ids = list(map(_known_id, document_ids))
    limit = None if timeout_seconds is None else time.monotonic() + timeout_seconds
    while True:
        asked = time.monotonic()
        left = resources().transact(partial(overview.unsettled, document_ids=ids))
        progress(left)
        if left == 0:
            return resources().transact(partial(overview.outcome, document_ids=ids))
        if limit is not None and time.monotonic() > limit:
            raise NoAnswerError(
                f"{left:,} documents were not settled within {timeout_seconds:g} s",
                "they go on by themselves; `ingest status` follows them, `ingest doctor` finds what is wrong",
            )
        # asking about very many documents takes a while itself: it must not become the load
        time.sleep(max(poll_seconds, 10 * (time.monotonic() - asked)))


def _known_id(name: UUID | str) -> UUID:
    try:
        return name if isinstance(name, UUID) else UUID(name)
    except (ValueError, TypeError, AttributeError):
        raise IngestError(f"{name!r:.80} is not the id of a document", "`submit` gives them") from None


def cancel(
    documents: Sequence[str | UUID] | None = None, *, tenant: str = DEFAULT_TENANT, project: str | None = None
) -> int:
    """Cancel what is not settled yet: the named documents, or all of the project; gives how many."""
    count = 0
    for cancelled in on_documents(changes.cancel, documents, tenant, project):
        outcomes.say_cancelled(cancelled)
        count += len(cancelled)
    return count


def retry(
    documents: Sequence[str | UUID] | None = None,
    *,
    tenant: str = DEFAULT_TENANT,
    project: str | None = None,
    error_code: str | None = None,
    since: Moment | None = None,
    until: Moment | None = None,
) -> int:
    """Try failed and cancelled documents again, the named ones or all of the project; gives how many.

    With all their attempts. `error_code`: those that failed with it. `since`, `until`: those that ended from
    then on, and before then: a time with its zone, or how long ago by the database's clock. Each is taken
    once a call, however soon it fails again. Raises IngestError for a time without a zone.
    """
    for name, moment in (("since", since), ("until", until)):
        if isinstance(moment, datetime) and moment.tzinfo is None:
            raise IngestError(f"{name} has no time zone", "give it one, as datetime.now(UTC) has")
    error_code = None if error_code is None else storable(error_code)
    change = partial(changes.retry, error_code=error_code, since=since, until=until)
    count = sum(len(retried) for retried in on_documents(change, documents, tenant, project))
    fill_window(resources())
    return count


def delete(
    documents: Sequence[str | UUID], *, tenant: str = DEFAULT_TENANT, project: str | None = None
) -> int:
    """Delete documents: gone from every search when this returns, and restorable; gives how many."""
    count = 0
    names = iter(several(documents))
    while part := list(islice(names, 1000)):
        count += sum(map(len, on_documents(deletions.delete, part, tenant, project)))
    fill_window(resources())
    return count


def restore(
    documents: Sequence[str | UUID], *, tenant: str = DEFAULT_TENANT, project: str | None = None
) -> int:
    """Bring deleted documents back; gives how many.

    One stays deleted where a newer document has taken its path.
    """

    def change(connection: Connection) -> int:
        scope = known_scope(connection, tenant, project)
        found = identify(connection, scope, documents, deleted=True)
        return sum(deletions.restore(connection, scope, document_id) for document_id in found)

    count = resources().transact(change)
    fill_window(resources())
    return count


def below(
    folder: str | Path, *, tenant: str = DEFAULT_TENANT, project: str | None = None
) -> list[tuple[UUID, str]]:
    """Give (document_id, source_path) of the live documents that came from below a local folder."""
    prefixes = sources.prefixes_of(Path(folder).absolute())

    def ask(connection: Connection) -> list[tuple[UUID, str]]:
        scope = submissions.find_scope(connection, tenant, project)
        return [] if scope is None else submissions.live_paths(connection, scope, prefixes)

    return resources().transact(ask)


def search(text: str | None = None, **fields: Any) -> Answer:
    """Ask the search worker; `fields` are those of worker.queries.Query, such as tenant, k, mode and filter.

    Raises IngestError for a query that cannot be answered, NoAnswerError when no search worker answers
    within SEARCH_TIMEOUT_SECONDS, BrokerUnavailableError and DatabaseUnavailableError where these are away.
    """
    query = read_query(fields | {"text": text})
    answer = _asked(query)
    if "error" in answer:
        raise _kind_of(answer)(answer["error"], answer["hint"])
    return read_answer(answer["answer"])


def _kind_of(answer: Mapping[str, Any]) -> type[IngestError]:
    if answer.get("outage"):
        return DatabaseUnavailableError
    return NoAnswerError if answer.get("late") else IngestError


def _asked(query: Query) -> dict[str, Any]:
    from celery.exceptions import TaskRevokedError, WorkerLostError
    from celery.exceptions import TimeoutError as NoResultError
    from kombu.exceptions import OperationalError
    from redis import RedisError

    from worker.app import app
    from worker.types import Queue

    settings = resources().settings
    seconds = settings.search_timeout_seconds
    try:
        app.backend.client.ping()
        result = app.send_task(
            TaskName.SEARCH_QUERY.value,
            kwargs={"query": query.as_json()},
            # what Flower shows: not the words
            argsrepr=f"({query.tenant}: {query.mode}, {query.k} results)",
            kwargsrepr="not shown",
            queue=Queue.SEARCH.value,
            expires=seconds,
            retry=False,
        )
        try:
            answer = _awaited(result, seconds)
        finally:
            with suppress(*app.backend.connection_errors, RedisError):
                result.forget()  # else its subscription outlives the interpreter, with a traceback
    except (NoResultError, TaskRevokedError):  # who takes it too late, by its own clock, revokes it
        raise NoAnswerError(
            f"no search worker answered within {seconds} s",
            "start one, `ingest worker search`; where one runs, `ingest doctor` says what is wrong",
        ) from None
    except WorkerLostError:
        raise NoAnswerError("the process that searched died", "ask again; its log says why") from None
    except (*app.backend.connection_errors, OperationalError, RedisError):
        require_broker(settings)
        raise BrokerUnavailableError("the broker was away for a moment", "ask again") from None
    return answer


def _awaited(result: Any, seconds: float) -> dict[str, Any]:
    """Wait for an answer, which is announced; and look for it now and then.

    Celery hears announcements over one connection, and asks it for no sign of life: where it is lost without
    a word, a process would wait in vain until the kernel gives up on what it has sent, a quarter of an hour.
    """
    from celery.exceptions import TimeoutError as NoResultError

    limit = time.monotonic() + seconds
    while True:
        try:
            answer: dict[str, Any] = result.get(timeout=max(min(_LOOK_SECONDS, limit - time.monotonic()), 0))
        except NoResultError:
            if result.ready():
                result.backend.result_consumer.stop()  # the next one listens anew
            elif time.monotonic() >= limit:
                raise
        else:
            return answer
