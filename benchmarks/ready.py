"""Writing ready vectors by our own way, from submission to commit, without a model and without a broker."""

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from worker.buffer import RowBuffer
from worker.db import batches, documents
from worker.db.engine import transaction
from worker.db.submissions import Submission, ensure_scope, submit
from worker.encoding import Encoder, Work
from worker.resources import Resources
from worker.steps.plan import all_new
from worker.steps.prepare import Piece, Text
from worker.types import FileType, Lane
from worker.writing import Writer

DOCUMENTS, CHUNKS = 128, 20  # a batch
BATCH_ROWS = DOCUMENTS * CHUNKS
WORDS = "vector index segment chunk document search worker lease batch query " * 10
# Embeddings of texts lie together by subject; uniform ones would be the hardest case, and nobody's.
CLUSTERS, SPREAD = 200, 0.6


class Clustered:
    """Vectors around a number of centres, as (count, dimension) float32: the same for the same seed."""

    def __init__(self, dimension: int) -> None:
        self._centres = np.random.default_rng(7).standard_normal((CLUSTERS, dimension))

    def draw(self, count: int, seed: int) -> NDArray[np.float32]:
        """Draw `count` vectors."""
        dice = np.random.default_rng((11, seed))
        noise = dice.standard_normal((count, self._centres.shape[1]))
        return (self._centres[dice.integers(CLUSTERS, size=count)] + SPREAD * noise).astype(np.float32)


def batch_vectors(vectors: Clustered, name: str, batch: int) -> NDArray[np.float32]:
    """Draw the vectors of a batch, the first being 1: the same for the same name."""
    seed = int.from_bytes(hashlib.sha256(f"{name} {batch}".encode()).digest()[:4])
    return vectors.draw(BATCH_ROWS, seed)


def document_texts(name: str, batch: int, number: int) -> list[str]:
    """Give the texts of a document's chunks, which begin with who they are."""
    return [f"{name} {batch} {number} {chunk} {WORDS}" for chunk in range(CHUNKS)]


class Given:
    """Stands in for the model: gives the vectors it was handed."""

    model = "ready"

    def __init__(self) -> None:
        self._next: NDArray[np.float32] | None = None
        self._place = 0

    def hand_in(self, vectors: NDArray[np.float32]) -> None:
        """Take the vectors of the texts that come next."""
        self._next, self._place = vectors, 0

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Give the vectors of these texts, in the order they come."""
        assert self._next is not None
        found = self._next[self._place : self._place + len(texts)]
        self._place += len(texts)
        return found


class ReadyWriter:
    """Writes batches of new documents of one tenant, each with CHUNKS chunks that nobody has."""

    def __init__(self, resources: Resources, tenant: str, name: str) -> None:
        self._resources, self._tenant, self._name = resources, tenant, name
        self._vectors = Clustered(resources.settings.embedding_dimension)
        self._model = Given()
        resources.__dict__["embedder"] = self._model
        self._batch = 0

    def write(self, vectors: NDArray[np.float32] | None = None) -> int:
        """Write a batch; gives how many rows. `vectors`: its `batch_vectors`, drawn before."""
        self._batch += 1
        if vectors is None:
            vectors = batch_vectors(self._vectors, self._name, self._batch)
        lease, claimed = self._claimed()
        works = [self._work(document, number) for number, document in enumerate(claimed)]
        self._model.hand_in(vectors)
        with RowBuffer(self._resources.settings.write_buffer_bytes) as buffer:
            encoder = Encoder(self._resources, buffer, lambda: None)
            for group in encoder.groups(works):
                encoder.encode(group)
            Writer(self._resources, lease, buffer, lambda: False).write(works, [], [])
        return len(works) * CHUNKS

    def _claimed(self) -> tuple[Any, list[documents.Claimed]]:
        names = [f"{self._name}-{self._batch}-{number}.txt" for number in range(DOCUMENTS)]
        rows = [Submission(name, name, FileType.TEXT, 1, 1, None, "{}") for name in names]
        with transaction(self._resources.engine) as connection:
            scope = ensure_scope(connection, self._tenant, None)
            new, _ = submit(connection, scope, rows, lane=Lane.BULK, recipe=self._resources.recipe)
            batch_id = batches.form(connection, Lane.BULK, self._resources.settings)
            assert batch_id
            lease = batches.claim(connection, batch_id, "benchmark", 600)
            claimed = documents.start(connection, batch_id)
        assert len(claimed) == len(new)
        return lease, claimed

    def _work(self, document: documents.Claimed, number: int) -> Work:
        content_hash = document.document_id.bytes * 2
        texts = document_texts(self._name, self._batch, number)
        pieces = [Piece(text, len(text), hashlib.sha256(text.encode()).digest()) for text in texts]
        return Work(document, Text("", content_hash, content_hash, {}), 1, pieces, all_new(CHUNKS))
