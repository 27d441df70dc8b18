"""Haystack `PgvectorDocumentStore.write_documents`: one pipelined `executemany` a call.

As in its documentation ("PgvectorDocumentStore", search_strategy="hnsw" with hnsw_index_creation_kwargs). It
always has a GIN index for keywords, too.
"""

from typing import Any

from haystack import Document
from haystack.document_stores.types import DuplicatePolicy
from haystack.utils import Secret
from haystack_integrations.document_stores.pgvector import PgvectorDocumentStore

from benchmarks.adapters.job import Job, Row, load


class Haystack:
    """The store over its new table."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._store = self._opened(with_index=not job.index_last)

    def _opened(self, *, with_index: bool) -> PgvectorDocumentStore:
        store = PgvectorDocumentStore(
            connection_string=Secret.from_token(self._job.url),
            table_name="peer",
            embedding_dimension=self._job.dimension,
            vector_type="halfvec" if self._job.halfvec else "vector",
            vector_function="cosine_similarity",
            search_strategy="hnsw" if with_index else "exact_nearest_neighbor",
            hnsw_index_creation_kwargs={
                "m": self._job.hnsw_m,
                "ef_construction": self._job.hnsw_ef_construction,
            },
        )
        store.count_documents()  # makes the table
        return store

    def prepare(self, rows: list[Row]) -> list[Document]:
        """Give documents with their embeddings."""
        return [Document(content=row.text, meta=row.metadata, embedding=row.vector) for row in rows]

    def write(self, prepared: list[Document]) -> None:
        """Write the documents; none is there already."""
        self._store.write_documents(prepared, policy=DuplicatePolicy.FAIL)

    def count(self) -> int:
        """Count the rows."""
        return int(self._store.count_documents())

    def build_index(self) -> None:
        """Open the table again, with an index."""
        self._opened(with_index=True)


def run(job: dict[str, Any]) -> dict[str, Any]:
    """Load the job's rows."""
    asked = Job(**job)
    return load(Haystack(asked), asked)
