"""Our write of a batch against a bare binary COPY of the same rows into the same leaves.

Ours: pieces, ready vectors and ready words → check, encode, buffer → the fenced transaction with everything
it settles. Bare: the same pieces, vectors and words, streamed through the same encoders into one COPY of
chunks and one of their postings, and one commit. Both go into the open segment's leaves, batch by batch in
turn, each first every other time.

Neither side computes what is stored: vectors are looked up in place of the model, and what finding a text's
words takes (cutting, stemming) is taken off both. Counted, it would be most of what either takes, and bring
any ratio near to 1; it is stated beside.
"""

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain, count, islice
from statistics import median
from typing import Any
from uuid import UUID

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import text

from benchmarks import corpus
from benchmarks.report import Demand, Report
from benchmarks.rounds import SMOKE, Watch, quietest
from benchmarks.stack import Stack, running_stack
from worker.buffer import RowBuffer
from worker.db import backlog, batches, documents, segments
from worker.db.engine import transaction
from worker.db.leaves import postings_name
from worker.db.migrate import migrate
from worker.db.submissions import Scope, Submission, ensure_scope, submit
from worker.encoding import Encoder, Work
from worker.lifecycle import collect_garbage_rarely
from worker.resources import Resources
from worker.settings import read_settings
from worker.steps.copyrows import COLUMNS, Row, document_fields
from worker.steps.ordered import RANDOM_BYTES, ordered_ids
from worker.steps.plan import plan
from worker.steps.postings import COLUMNS as POSTING_COLUMNS
from worker.steps.prepare import Piece, Text
from worker.steps.terms import TermIds, Vocabulary
from worker.types import FileType, Lane
from worker.writing import Writer

DIMENSIONS = (256, 1536)
DEMANDED = 0.85
BATCHES = 24
CHUNKS_A_DOCUMENT = 20
BYTES = 4e6
READ_BYTES = 1 << 20
NUMBERS = count(1)


@dataclass(frozen=True, slots=True)
class Round:
    """Seconds of both sides for the same rows. `words`: what finding theirs took, which is in neither."""

    rows: int
    ours: float
    bare: float
    words: float
    others: float

    @property
    def ratio(self) -> float:
        """Give what our write reaches of the bare COPY's rate."""
        return self.bare / self.ours


class TimedVocabulary(Vocabulary):
    """Finds words as ever. `seconds`: what it took, which is not the writer's."""

    seconds = 0.0

    def chunk_ids(self, text: str, heading_path: Sequence[str], language: str) -> TermIds:
        """Give the terms of a chunk."""
        begun = time.perf_counter()
        found = super().chunk_ids(text, heading_path, language)
        self.seconds += time.perf_counter() - begun
        return found


class Ready:
    """Stands in for the model: vectors that were computed before."""

    model = "ready"

    def __init__(self, texts: Sequence[str], vectors: NDArray[np.float32]) -> None:
        self._places = {text: place for place, text in enumerate(texts)}
        self._vectors = vectors
        self.seconds = 0.0

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Give the vectors of these texts. `seconds`: what it took, which is not the writer's."""
        begun = time.perf_counter()
        found = self._vectors[[self._places[text] for text in texts]]
        self.seconds += time.perf_counter() - begun
        return found


def run(scale: float) -> Report:
    with running_stack() as stack:
        report = Report("writer", stack.versions(), stack.shown_settings())
        for dimension in DIMENSIONS if scale >= SMOKE else DIMENSIONS[:1]:
            rounds = _dimension(stack, dimension, scale)
            _report(report, dimension, rounds)
    report.figures["corpus"] = corpus.name()
    return report


def _dimension(stack: Stack, dimension: int, scale: float) -> list[Round]:
    name = f"vectors{dimension}"
    stack.ask(f"CREATE DATABASE {name}")
    settings = read_settings(
        database_url=stack.settings.database_url.get_secret_value().replace("/ingest?", f"/{name}?"),
        embedding_provider="none",
        embedding_dimension=dimension,
    )
    migrate(settings)
    resources = Resources(settings)
    try:
        sides = Sides(resources, _pieces(settings.batch_documents, settings, scale))
        sides.alternate(2)  # connections, catalogue caches
        collect_garbage_rarely()  # as in a pool process
        return quietest(lambda: sides.alternate(max(2, round(BATCHES * scale))), scale)
    finally:
        resources.close()


def _pieces(documents_a_batch: int, settings: Any, scale: float) -> list[list[Piece]]:
    """Cut the corpus into one batch's documents, of equal numbers of chunks with texts that differ."""
    files = corpus.files(BYTES * min(1, 10 * scale))
    cut = corpus.pieces(files, size=settings.chunk_size, overlap=settings.chunk_overlap)
    flat = {piece.text: piece for piece in chain.from_iterable(cut)}
    pieces = iter(flat.values())
    wanted = min(documents_a_batch, len(flat) // CHUNKS_A_DOCUMENT)
    return [list(islice(pieces, CHUNKS_A_DOCUMENT)) for _ in range(wanted)]


class Sides:
    """The two writers, over one database and one list of documents' pieces."""

    def __init__(self, resources: Resources, pieces: list[list[Piece]]) -> None:
        self._resources, self._pieces = resources, pieces
        self._rows = sum(map(len, pieces))
        vectors = np.random.default_rng(7).standard_normal(
            (self._rows, resources.settings.embedding_dimension)
        )
        self._vectors = vectors.astype(np.float32)
        texts = [piece.text for document in pieces for piece in document]
        self._model = Ready(texts, self._vectors)
        resources.__dict__["embedder"] = self._model
        self._vocabulary = TimedVocabulary()  # of all batches, as in a pool process
        self._batch = 0

    def alternate(self, batch_count: int) -> Round:
        """Write so many batches by each side."""
        seconds = {self._ours: 0.0, self._bare: 0.0}
        before = self._vocabulary.seconds
        with Watch() as watch:
            for number in range(batch_count):
                for side in sorted(seconds, key=lambda side: (side == self._ours) == bool(number % 2)):
                    seconds[side] += side()
        words = (self._vocabulary.seconds - before) / 2
        return Round(batch_count * self._rows, seconds[self._ours], seconds[self._bare], words, watch.others)

    def _submit(self) -> tuple[Scope, list[UUID]]:
        self._batch += 1
        with transaction(self._resources.engine) as connection:
            scope = ensure_scope(connection, f"tenant {self._batch}", None)
            rows = [_submission(number) for number in range(len(self._pieces))]
            new, _ = submit(connection, scope, rows, lane=Lane.BULK, recipe=self._resources.recipe)
        return scope, new

    def _ours(self) -> float:
        self._submit()
        with transaction(self._resources.engine) as connection:
            batch_id = backlog.form(connection, Lane.BULK, self._resources.settings)
            assert batch_id
            lease = batches.claim(connection, batch_id, "benchmark", 600)
            claimed = documents.start(connection, batch_id)
        assert lease
        assert len(claimed) == len(self._pieces)
        works = [_work(document, pieces) for document, pieces in zip(claimed, self._pieces, strict=True)]
        self._model.seconds, words = 0.0, self._vocabulary.seconds
        begun = time.perf_counter()
        with self._buffer() as buffer:
            encoder = Encoder(self._resources, buffer, lambda: None)
            for group in encoder.groups(works):
                encoder.encode(group)
            writer = Writer(self._resources, lease, buffer, lambda: False)
            writer.write(works, [], [])
        looked_up = self._model.seconds + self._vocabulary.seconds - words
        seconds = time.perf_counter() - begun - looked_up
        assert writer.outcomes.counts == {"completed": len(works)}
        return seconds

    def _bare(self) -> float:
        scope, ids = self._submit()
        with transaction(self._resources.engine) as connection:
            segment, leaf = segments.lock_open(connection)
            # out of the way of the other side's dispatch
            connection.execute(
                text("UPDATE documents SET queued_at = 'infinity' WHERE document_id = ANY(:ids)"),
                {"ids": ids},
            )
        driver: Any = self._resources.engine.raw_connection()
        words = self._vocabulary.seconds
        try:
            begun = time.perf_counter()
            with driver.cursor() as cursor, self._buffer() as buffer:
                buffer.append(self._rows_of(scope.tenant_id, ids), list(self._vectors.astype(">f4")))
                whole = [(0, buffer.size)]
                cursor.copy_expert(_copy(leaf, COLUMNS), buffer.stream(whole), READ_BYTES)
                assert cursor.rowcount == self._rows
                postings = buffer.postings(whole, scope.tenant_id)
                cursor.copy_expert(_copy(postings_name(segment), POSTING_COLUMNS), postings, READ_BYTES)
            driver.commit()
            return time.perf_counter() - begun - (self._vocabulary.seconds - words)
        finally:
            driver.close()

    def _buffer(self) -> RowBuffer:
        return RowBuffer(self._resources.settings.write_buffer_bytes, self._vocabulary)

    def _rows_of(self, tenant_id: UUID, ids: Sequence[UUID]) -> list[Row]:
        keys = ordered_ids(time.time_ns() // 1_000_000, os.urandom(RANDOM_BYTES))
        prefixes = [document_fields(document_id, tenant_id, None, "english") for document_id in ids]
        return [
            Row(prefix, "english", next(keys), next(NUMBERS), number << 20, piece)
            for prefix, pieces in zip(prefixes, self._pieces, strict=True)
            for number, piece in enumerate(pieces, 1)
        ]


def _copy(table: str, columns: Sequence[str]) -> str:
    return f"COPY {table} ({', '.join(columns)}) FROM STDIN (FORMAT binary)"


def _submission(number: int) -> Submission:
    name = f"{number}.txt"
    return Submission(name, name, FileType.TEXT, "english", 1, 1, None, "{}")


def _work(document: documents.Claimed, pieces: list[Piece]) -> Work:
    content_hash = document.document_id.bytes * 2
    work = Work(document, Text("", content_hash, content_hash, {}), 1, list(pieces))
    work.plan = plan([], [piece.content_hash for piece in pieces])
    work.numbers = list(islice(NUMBERS, len(pieces)))
    return work


def _report(report: Report, dimension: int, rounds: Sequence[Round]) -> None:
    columns = (
        "rows", "ours s", "bare COPY s", "ours rows/s", "bare rows/s", "ratio", "finding words s",
        "others' load",
    )  # fmt: skip
    rows = [
        (
            r.rows, round(r.ours, 2), round(r.bare, 2), round(r.rows / r.ours), round(r.rows / r.bare),
            round(r.ratio, 3), round(r.words, 2), f"{r.others:.0%}",
        )
        for r in rounds
    ]  # fmt: skip
    report.table(f"{dimension} dimensions", columns, rows)
    ratio = median(r.ratio for r in rounds)
    report.demands.append(Demand(f"writer / bare COPY, {dimension}-d", DEMANDED, ratio))
