"""From pieces to rows in the buffer: compare with what is stored, embed what is new, check its vectors."""

import os
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain, islice, repeat
from typing import Any
from uuid import UUID

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Connection

from worker.buffer import Range, RowBuffer, Vector
from worker.db import chunks
from worker.db.documents import Claimed, Settled
from worker.resources import Resources
from worker.steps.copyrows import Row, document_fields
from worker.steps.ordered import RANDOM_BYTES, ordered_ids
from worker.steps.plan import Plan, all_new, plan
from worker.steps.prepare import Piece, Text
from worker.steps.vectors import checked
from worker.types import Status


@dataclass(slots=True)
class Work:
    """A document on its way through the pipeline: each step fills in what it found."""

    document: Claimed
    text: Text
    size_bytes: int
    pieces: list[Piece] = field(default_factory=list)
    plan: Plan = field(default_factory=lambda: Plan((), (), 0))
    embedded: int = 0
    reused: int = 0
    rows: Range = (0, 0)
    numbers: Sequence[int] = ()

    def settled(self) -> Settled:
        """Give the outcome of a document whose chunk set is `pieces`."""
        return self._outcome(Status.COMPLETED, len(self.pieces), self.embedded, self.reused + self.plan.kept)

    def unchanged(self) -> Settled:
        """Give the outcome of a document whose chunk set is already what it should be."""
        total = self.document.total_chunks or 0
        return self._outcome(Status.COMPLETED, total, 0, total)

    def _outcome(self, status: Status, total: int, embedded: int, reused: int) -> Settled:
        return Settled(
            self.document.document_id,
            status,
            content_hash=self.text.content_hash,
            fingerprint=self.text.fingerprint,
            total_chunks=total,
            embedded=embedded,
            reused=reused,
            size_bytes=self.size_bytes,
            cleaned=self.text.cleaned,
        )

    def duplicate(self, owner: UUID) -> Settled:
        """Give the outcome of a document whose content is another's."""
        return Settled(
            self.document.document_id,
            Status.DUPLICATE,
            content_hash=self.text.content_hash,
            duplicate_of=owner,
            size_bytes=self.size_bytes,
            cleaned=self.text.cleaned,
        )


class Encoder:
    """Turns works into rows in a buffer. `check` is called between slices and raises to end the batch."""

    def __init__(self, resources: Resources, buffer: RowBuffer, check: Callable[[], None]) -> None:
        self._resources, self._buffer, self._check = resources, buffer, check
        self._slice = resources.settings.embedding_batch_size
        self._ids = ordered_ids(time.time_ns() // 1_000_000, os.urandom(RANDOM_BYTES))
        self._known: dict[bytes, Vector] = {}
        self._repeated: set[bytes] = set()

    def look_up(self, connection: Connection, tenant_id: UUID, works: Sequence[Work]) -> None:
        """Plan every work against its stored chunks, and fetch the vectors that can be used again."""
        column_type = self._resources.settings.embedding_type
        edited = [work.document.document_id for work in works if work.document.fingerprint]
        stored = chunks.stored_chunks(connection, edited)
        for work in works:
            before = stored.get(work.document.document_id)
            work.plan = (
                plan(before, [_identity(piece, work.document.language) for piece in work.pieces])
                if before
                else all_new(len(work.pieces))
            )
        numbers = iter(chunks.draw_numbers(connection, sum(len(work.plan.insert) for work in works)))
        for work in works:
            work.numbers = list(islice(numbers, len(work.plan.insert)))
        new = chain.from_iterable(map(_new, works))
        times = Counter(piece.content_hash for piece in new if piece.vector is None)
        self._known = chunks.known_vectors(connection, tenant_id, list(times), column_type)
        self._repeated = {content_hash for content_hash, count in times.items() if count > 1}

    def groups(self, works: Sequence[Work]) -> Iterator[list[Work]]:
        """Give runs of works whose new chunks fill one call of the model, large works alone."""
        group: list[Work] = []
        size = 0
        for work in works:
            if group and size + len(work.plan.insert) > self._slice:
                yield group
                group, size = [], 0
            group.append(work)
            size += len(work.plan.insert)
        if group:
            yield group

    def encode(self, group: Sequence[Work]) -> bool:
        """Append the new rows of these works to the buffer (True), or raise and leave it as it was.

        Raises DocumentError for a vector that may not be stored, and what the model has against a text.
        """
        before = end = self._buffer.size
        for work in group:
            work.embedded = work.reused = 0
            work.rows = (end, end := end + len(work.plan.insert))
        rows = chain.from_iterable(self._rows(work) for work in group)
        owners = chain.from_iterable(repeat(work, len(work.plan.insert)) for work in group)
        try:
            while part := list(islice(rows, self._slice)):
                self._check()
                self._encode_slice(part, owners)
        except BaseException:
            self._buffer.take_back(before)
            raise
        return True

    def _rows(self, work: Work) -> Iterator[Row]:
        document = work.document
        prefix = document_fields(
            document.document_id, document.tenant_id, document.project_id, document.language
        )
        return (
            Row(prefix, document.language, next(self._ids), number, index, work.pieces[position])
            for number, (position, index) in zip(work.numbers, work.plan.insert, strict=True)
        )

    def _encode_slice(self, rows: list[Row], owners: Iterator[Work]) -> None:
        pieces = [row.piece for row in rows]
        vectors, computed = self._vectors(pieces)
        self._buffer.append(rows, vectors)
        if len(computed) == len(pieces):
            for work in islice(owners, len(pieces)):
                work.embedded += 1
            return
        # the works come last: zip takes none beyond the end of the pieces
        for piece, vector, work in zip(pieces, vectors, owners, strict=False):
            # embedded is a chunk the first time its vector is computed, reused after that
            if piece.content_hash in computed:
                computed.remove(piece.content_hash)
                work.embedded += 1
            elif vector is not None and piece.vector is None:
                work.reused += 1

    def _vectors(self, pieces: Sequence[Piece]) -> tuple[list[Vector | None], set[bytes]]:
        """Give each piece its vector, and the hashes of those that had to be computed."""
        given = self._checked([piece.vector for piece in pieces if piece.vector is not None])
        new = {
            piece.content_hash: piece.text
            for piece in pieces
            if piece.vector is None and piece.content_hash not in self._known
        }
        found = self._embed(new)
        self._known |= {key: found[key] for key in self._repeated & found.keys()}
        if len(found) == len(pieces):  # all are new, and no two the same
            return list(found.values()), set(found)
        handed_in = iter(given)
        return [
            next(handed_in)
            if piece.vector is not None
            else found.get(piece.content_hash, self._known.get(piece.content_hash))
            for piece in pieces
        ], set(found)

    def _embed(self, texts: dict[bytes, str]) -> dict[bytes, Vector]:
        if not texts:
            return {}
        vectors = self._resources.provider.embed(list(texts.values()), self._check)
        if vectors is None:
            return {}
        return dict(zip(texts, self._checked(vectors, len(texts)), strict=True))

    def _checked(self, vectors: Any, count: int | None = None) -> NDArray[np.floating]:
        settings = self._resources.settings
        return checked(
            vectors,
            count=len(vectors) if count is None else count,
            dimension=settings.embedding_dimension,
            column_type=settings.embedding_type,
        )


def _new(work: Work) -> Iterator[Piece]:
    return (work.pieces[position] for position, _ in work.plan.insert)


def _identity(piece: Piece, language: str) -> tuple[Any, ...]:
    return chunks.identity(
        piece.content_hash, piece.char_length, piece.heading_path, piece.metadata, language
    )
