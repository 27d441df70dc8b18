"""Ready vectors, and our own way to store them."""

import hashlib

import numpy as np
from numpy.typing import NDArray

from benchmarks.report import scale
from benchmarks.rounds import SMOKE
from worker.db.submissions import ensure_scope
from worker.load_slice import SliceLoader
from worker.resources import Resources
from worker.types import GivenChunk, GivenDocument

# A batch; a small one where no figure is worth the time.
DOCUMENTS, CHUNKS = 128 if scale() >= SMOKE else 16, 20
BATCH_ROWS = DOCUMENTS * CHUNKS
WORDS = "vector index segment chunk document search worker lease batch query " * 10
# Embeddings of texts lie together by subject, and few directions tell most of them apart: the variance of
# the built-in model's over text falls as the 0.65th power of the direction's number. Uniform ones would be
# the hardest case, and nobody's; around centres with nothing in common, no graph finds from one to another.
CENTRES, SPREAD, FALL = 200, 0.6, 0.65


class Clustered:
    """Vectors around a number of centres, as (count, dimension) float32: the same for the same seed."""

    def __init__(self, dimension: int, centres: int = CENTRES) -> None:
        self._scale = np.arange(1, dimension + 1) ** (-FALL / 2)
        self._centres = np.random.default_rng(7).standard_normal((centres, dimension))

    @property
    def dimension(self) -> int:
        """Give how many numbers a vector has."""
        return len(self._scale)

    def draw(self, count: int, seed: int) -> NDArray[np.float32]:
        """Draw `count` vectors."""
        return self.labelled(count, seed)[0]

    def labelled(self, count: int, seed: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Draw `count` vectors, with the number of the centre that each is around."""
        dice = np.random.default_rng((11, seed))
        noise = dice.standard_normal((count, self._centres.shape[1]))
        around = dice.integers(len(self._centres), size=count)
        return ((self._centres[around] + SPREAD * noise) * self._scale).astype(np.float32), around


def batch_vectors(vectors: Clustered, name: str, batch: int) -> NDArray[np.float32]:
    """Draw the vectors of a batch, the first being 1: the same for the same name."""
    seed = int.from_bytes(hashlib.sha256(f"{name} {batch}".encode()).digest()[:4])
    return vectors.draw(BATCH_ROWS, seed)


def document_texts(name: str, batch: int, number: int) -> list[str]:
    """Give the texts of a document's chunks, which begin with who they are."""
    return [f"{name} {batch} {number} {chunk} {WORDS}" for chunk in range(CHUNKS)]


def place_of(said: str) -> int:
    """Give the place of a row's vector among all of its name: what `document_texts` says of it."""
    batch, number, chunk = map(int, said.partition(f" {WORDS[:30]}")[0].split()[-3:])
    return ((batch - 1) * DOCUMENTS + number) * CHUNKS + chunk


class ReadyWriter:
    """Loads batches of new documents of one tenant, each with CHUNKS chunks that nobody has.

    A batch is a slice of `worker.load`: one transaction, from recording its documents to their outcome.
    `batches`: how many of the name were written before.
    """

    def __init__(
        self, resources: Resources, tenant: str, name: str, centres: int = CENTRES, batches: int = 0
    ) -> None:
        self._name, self._batch = name, batches
        self._vectors = Clustered(resources.settings.embedding_dimension, centres)
        scope = resources.transact(lambda connection: ensure_scope(connection, tenant, None))
        self._loader = SliceLoader(resources, scope)

    def write(self, vectors: NDArray[np.float32] | None = None) -> int:
        """Write a batch; gives how many rows. `vectors`: its `batch_vectors`, drawn before, or the first."""
        self._batch += 1
        if vectors is None:
            vectors = batch_vectors(self._vectors, self._name, self._batch)
        documents = len(vectors) // CHUNKS
        done = self._loader.load([self._document(number, vectors) for number in range(documents)])
        assert done.completed == documents, done
        return done.chunks

    def _document(self, number: int, vectors: NDArray[np.float32]) -> GivenDocument:
        texts = document_texts(self._name, self._batch, number)
        mine = vectors[number * CHUNKS : (number + 1) * CHUNKS]
        chunks = [GivenChunk(text, vector) for text, vector in zip(texts, mine, strict=True)]
        return GivenDocument(f"{self._name}-{self._batch}-{number}", chunks)
