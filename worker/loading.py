"""Load documents that bring their chunks and vectors: a stream, slice by slice, of bounded memory."""

import logging
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Self

from worker.db.schema import require_schema
from worker.db.submissions import Scope
from worker.dispatch import fill_window
from worker.load_slice import SliceLoader
from worker.resources import resources
from worker.steps.fingerprint import source_key
from worker.steps.storable import storable
from worker.steps.traces import known_trace, new_trace
from worker.submitting import DEFAULT_TENANT, HeldUp, named_scope
from worker.types import GivenDocument, Loaded

log = logging.getLogger(__name__)

_SLICE_CHUNKS, _SLICE_BYTES, _SLICE_DOCUMENTS = 2_048, 16 << 20, 1_000
_TWICE = "it comes twice; the first one counts"


def load(
    given_documents: Iterable[GivenDocument],
    *,
    tenant: str = DEFAULT_TENANT,
    project: str | None = None,
    trace: str | None = None,
    progress: Callable[[Loaded], None] = lambda _slice: None,
    held_up: HeldUp = lambda _why: None,
) -> Loaded:
    """Store documents with the chunks and vectors they bring; searchable slice by slice.

    A stream is taken in slices of bounded size; `progress` hears what each came to. While too many rows
    wait to be sealed, or bulk work of the project is paused, it waits; `held_up` hears why. What is there
    already, equal, costs a look: a load that was interrupted is done again. `trace`: an id of yours, which
    the rows and the log name. Raises DatabaseUnavailableError, and SchemaError where the settings are not
    those of the database.
    """
    mine = resources()
    require_schema(mine.settings)
    trace = new_trace() if trace is None else known_trace(trace)
    scope = named_scope(tenant, project)
    loader = SliceLoader(mine, scope, held_up, trace)
    total = Loaded(trace=trace)
    with _Seen() as seen:
        for part in _slices(given_documents):
            first, again = seen.parted(part)
            begun = time.monotonic()
            done = loader.load(first) + Loaded(refused=len(again), reasons=again, trace=trace)
            _log(done, scope, round((time.monotonic() - begun) * 1000))
            total += done
            progress(done)
    fill_window(mine)  # a duplicate may have taken the place of what was replaced
    return total


def _log(done: Loaded, scope: Scope, ms: int) -> None:
    log.info(
        "documents.loaded",
        extra={
            "trace": done.trace,
            "tenant": scope.tenant_id,
            "project": scope.project_id,
            "completed": done.completed,
            "duplicate": done.duplicate,
            "unchanged": done.unchanged,
            "skipped": done.skipped,
            "failed": done.failed,
            "refused": done.refused,
            "chunks": done.chunks,
            "ms": ms,
        },
    )


class _Seen:
    """The source paths of a stream so far, in a temporary file: there may be any number of them."""

    def __enter__(self) -> Self:
        self._file = sqlite3.connect("")
        self._file.execute("CREATE TABLE seen (source_key BLOB PRIMARY KEY) WITHOUT ROWID")
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def parted(
        self, part: Sequence[GivenDocument]
    ) -> tuple[list[GivenDocument], tuple[tuple[str, str], ...]]:
        """Give the documents that come for the first time, and (source_path, why not) of the others."""
        first: list[GivenDocument] = []
        again: list[tuple[str, str]] = []
        for document in part:
            key = source_key(storable(document.source_path))
            if self._file.execute("INSERT OR IGNORE INTO seen VALUES (?)", (key,)).rowcount:
                first.append(document)
            else:
                again.append((document.source_path, _TWICE))
        return first, tuple(again)


def _slices(given_documents: Iterable[GivenDocument]) -> Iterator[list[GivenDocument]]:
    part: list[GivenDocument] = []
    chunks = size = 0
    for document in given_documents:
        part.append(document)
        chunks += len(document.chunks)
        size += document.size_bytes
        if chunks >= _SLICE_CHUNKS or size >= _SLICE_BYTES or len(part) == _SLICE_DOCUMENTS:
            yield part
            part, chunks, size = [], 0, 0
    if part:
        yield part
