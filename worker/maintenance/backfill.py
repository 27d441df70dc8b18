"""backfill: chunks that were stored without a vector get one, since there is a model now.

    read   │ the next chunks without one, and which of the vectors are known
           │ embed; no transaction is open
    tx     │ lock their documents → move what still lacks its vector → fingerprints

Where a run ended is in its record, and the next one goes on from there.
"""

import logging
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar
from uuid import UUID

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Connection

from worker.db import batches, chunks, operations, segments, unembedded
from worker.db.unembedded import START, Bare, Owed, Place, Recipes
from worker.embedding.none import MODEL as NO_MODEL
from worker.maintenance.turn import Turn
from worker.resources import Resources
from worker.settings import Settings
from worker.steps.fingerprint import chunk_hash
from worker.steps.vectors import checked

log = logging.getLogger(__name__)

MOST_SECONDS = 120
MOST_COUNTED = 1_000_000
ROOM_POLL_SECONDS = 0.5
_PART_SECONDS = 300

T = TypeVar("T")

Vectors = dict[bytes, NDArray[np.floating]]  # by the chunk's hash


class _OverError(Exception):
    """The run is to end while the model is away."""


def run(turn: Turn) -> dict[str, Any]:
    """Give how many chunks got a vector and how many still wait, and what ended the run before its end.

    While documents wait to be ingested, a run does one part: they come first, and nobody waits for ever.
    """
    if turn.dry_run:
        return {"waiting": _waiting(turn)}
    if turn.settings.embedding_provider == "none":
        waiting = _waiting(turn)
        return {"waiting": waiting, "reason": "EMBEDDING_PROVIDER is none" if waiting else ""}
    filling = _Filling(turn, _left_off(turn.connection))
    reason = filling.fill()
    return {
        "filled": filling.filled,
        "embedded": filling.embedded,
        "refused": filling.refused,
        "waiting": _waiting(turn),
        "reason": reason,
        "next": filling.next,
    }


def _waiting(turn: Turn) -> int:
    return unembedded.count(turn.connection, MOST_COUNTED)


def _left_off(connection: Connection) -> Place:
    left_off = operations.last_details(connection, "backfill").get("next")
    return Place(UUID(left_off[0]), left_off[1]) if left_off else START


@dataclass(slots=True)
class _Filling:
    """A run. `place`: behind which chunk it goes on.

    `filled`: chunks that have a vector now; `embedded`: texts the model was given; `refused`: chunks that it
    does not take, or whose vector cannot be stored: these are found by their words alone.
    """

    turn: Turn
    place: Place
    filled: int = 0
    embedded: int = 0
    refused: int = 0
    ends: float = field(default_factory=lambda: time.monotonic() + MOST_SECONDS)

    @property
    def next(self) -> list[Any] | None:
        return None if self.place == START else [str(self.place.document_id), self.place.chunk_index]

    def fill(self) -> str:
        """Go on to the last chunk, or until something is in the way; gives what."""
        began = self.place
        while part := self._transact(self._following):
            if reason := self._await_room(len(part)):
                return reason
            try:
                self._give(part)
            except _OverError:
                return self.turn.resources.trouble or "its time was up"
            self.place = part[-1].place
            if self._transact(batches.is_busy):
                return "documents are being ingested"
        self.place = START
        return "" if began == START else self.fill()

    def _following(self, connection: Connection) -> list[Bare]:
        return unembedded.following(connection, self.place, self.turn.settings.embedding_batch_size)

    def _await_room(self, rows: int) -> str:
        """Wait for room among what is not sealed, holding no connection; gives why it ended instead."""
        room = partial(segments.has_room, settings=self.turn.settings, rows=rows)
        while not self._transact(room):
            if self._is_over():
                return "too many rows wait for their index: `ingest maintain seal` says why"
            time.sleep(ROOM_POLL_SECONDS)
        return "its time was up" if self._is_over() else ""

    def _is_over(self) -> bool:
        return self.turn.halted() or time.monotonic() > self.ends

    def _give(self, part: Sequence[Bare]) -> None:
        mine = self.turn.resources
        hashes = {bare.chunk_id: chunk_hash(mine.embedder.model, bare.text) for bare in part}
        known: Vectors = self._transact(partial(_known, mine, part, hashes))
        new = {hashes[bare.chunk_id]: bare.text for bare in part if hashes[bare.chunk_id] not in known}
        vectors = known | self._embedded(new)
        owed = {
            chunk_id: Owed(vectors[content_hash], content_hash)
            for chunk_id, content_hash in hashes.items()
            if content_hash in vectors
        }
        self.filled += self._transact(partial(_write, mine, part, owed))
        self.embedded += len(new)
        self.refused += len(part) - len(owed)

    def _embedded(self, texts: Mapping[bytes, str]) -> Vectors:
        """Embed texts; left out are those at which the model fails, or whose vector may not be stored.

        While it is away it is asked again (worker/provider.py). Raises _OverError.
        """
        return _each(partial(_checked, self.turn.settings), _each(self._ask, texts))

    def _ask(self, texts: Mapping[bytes, str]) -> Vectors:
        vectors = self.turn.resources.provider.embed(list(texts.values()), self._check)
        return {} if vectors is None else dict(zip(texts, vectors, strict=True))

    def _check(self) -> None:
        if self._is_over():
            raise _OverError

    def _transact(self, question: Callable[[Connection], Any]) -> Any:
        return self.turn.resources.transact(question, _PART_SECONDS)


def _known(
    mine: Resources, part: Sequence[Bare], hashes: Mapping[UUID, bytes], connection: Connection
) -> Vectors:
    """Find the vectors that the tenants have of these texts already."""
    wanted: dict[UUID, set[bytes]] = defaultdict(set)
    for bare in part:
        wanted[bare.tenant_id].add(hashes[bare.chunk_id])
    found: Vectors = {}
    for tenant_id, mine_of_them in wanted.items():
        found |= chunks.known_vectors(connection, tenant_id, list(mine_of_them), mine.settings.embedding_type)
    return found


def _each(work: Callable[[Mapping[bytes, T]], Vectors], given: Mapping[bytes, T]) -> Vectors:
    """Do it with all at once; where that fails, with each alone, but for those with which it fails again."""
    try:
        return work(given) if given else {}
    except _OverError:
        raise
    except Exception as error:  # noqa: BLE001 -- each model has its own; that it is away is none of them
        if len(given) == 1:
            log.debug("chunk.refused", extra={"reason": type(error).__name__})  # what it says may quote it
            return {}
    alone = (_each(work, {content_hash: one}) for content_hash, one in given.items())
    return {content_hash: vector for one in alone for content_hash, vector in one.items()}


def _checked(settings: Settings, vectors: Mapping[bytes, NDArray[np.floating]]) -> Vectors:
    """Give vectors as they are stored. Raises DocumentError for one that may not be."""
    matrix: Any = list(vectors.values())
    good = checked(
        matrix,
        count=len(vectors),
        dimension=settings.embedding_dimension,
        column_type=settings.embedding_type,
    )
    return dict(zip(vectors, good, strict=True))


def _write(mine: Resources, part: Sequence[Bare], owed: Mapping[UUID, Owed], connection: Connection) -> int:
    documents = list({bare.place.document_id for bare in part})
    recipes = Recipes(mine.recipe_of(NO_MODEL), mine.recipe)
    return unembedded.give(connection, documents, owed, mine.settings.embedding_type, recipes)
