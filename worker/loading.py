"""Load documents that bring their chunks and vectors: a stream, slice by slice, of bounded memory."""

import time
from collections.abc import Callable, Iterable, Iterator

from worker.db import segments
from worker.db.engine import clock
from worker.dispatch import fill_window
from worker.load_slice import SliceLoader
from worker.resources import Resources, resources
from worker.submitting import DEFAULT_TENANT, named_scope
from worker.types import GivenDocument, Loaded

_SLICE_CHUNKS, _SLICE_BYTES, _SLICE_DOCUMENTS = 2_048, 16 << 20, 1_000
_ROOM_POLL_SECONDS = 0.5


def load(
    given_documents: Iterable[GivenDocument],
    *,
    tenant: str = DEFAULT_TENANT,
    project: str | None = None,
    progress: Callable[[Loaded], None] = lambda _slice: None,
    held_up: Callable[[int], None] = lambda _rows: None,
) -> Loaded:
    """Store documents with the chunks and vectors they bring; searchable slice by slice.

    A stream is taken in slices of bounded size; `progress` hears what each came to. While too many rows
    wait to be sealed, it waits; `held_up` hears how many. What is there already, equal, costs a look:
    a load that was interrupted is done again. Raises DatabaseUnavailableError.
    """
    mine = resources()
    scope = named_scope(tenant, project)
    loader = SliceLoader(mine, scope, mine.transact(clock))
    total = Loaded()
    for part in _slices(given_documents):
        _await_room(mine, sum(len(document.chunks) for document in part), held_up)
        done = loader.load(part)
        total += done
        progress(done)
    fill_window(mine)  # a duplicate may have taken the place of what was replaced
    return total


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


def _await_room(mine: Resources, rows: int, held_up: Callable[[int], None]) -> None:
    while not mine.transact(lambda connection: segments.has_room(connection, mine.settings, rows)):
        held_up(mine.transact(segments.unsealed_rows))
        time.sleep(_ROOM_POLL_SECONDS)
