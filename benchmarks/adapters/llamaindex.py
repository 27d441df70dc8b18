"""LlamaIndex `PGVectorStore.add(nodes)`: a transaction a call, its HNSW index from `hnsw_kwargs`.

As in its documentation ("Postgres Vector Store", from_params with hnsw_kwargs), whose VectorStoreIndex hands
nodes over in lists.
"""

from typing import Any

import sqlalchemy
from llama_index.core.schema import TextNode
from llama_index.vector_stores.postgres import PGVectorStore

from benchmarks.adapters.job import Job, Row, load

TABLE = "peer"  # the store puts data_ before it


def hnsw_kwargs(job: Job) -> dict[str, Any]:
    """Give our index settings in its words; for halfvec its default would be another distance."""
    return {
        "hnsw_m": job.hnsw_m,
        "hnsw_ef_construction": job.hnsw_ef_construction,
        "hnsw_ef_search": 100,
        "hnsw_dist_method": "halfvec_cosine_ops" if job.halfvec else "vector_cosine_ops",
    }


class LlamaIndex:
    """The store over its new table."""

    def __init__(self, job: Job) -> None:
        self._engine = sqlalchemy.create_engine(job.url.replace("postgresql:", "postgresql+psycopg2:"))
        self._job = job
        self._store = self._opened(None if job.index_last else hnsw_kwargs(job))

    def _opened(self, index: dict[str, Any] | None) -> PGVectorStore:
        store = PGVectorStore.from_params(
            connection_string=self._job.url.replace("postgresql:", "postgresql+psycopg2:"),
            async_connection_string=self._job.url.replace("postgresql:", "postgresql+asyncpg:"),
            table_name=TABLE,
            embed_dim=self._job.dimension,
            use_halfvec=self._job.halfvec,
            use_jsonb=True,
            hnsw_kwargs=index,
        )
        store.add([])  # makes the table
        return store

    def prepare(self, rows: list[Row]) -> list[TextNode]:
        """Give nodes with their embeddings."""
        return [TextNode(text=row.text, metadata=row.metadata, embedding=row.vector) for row in rows]

    def write(self, prepared: list[TextNode]) -> None:
        """Add the nodes."""
        self._store.add(prepared)

    def count(self) -> int:
        """Count the rows."""
        with self._engine.connect() as connection:
            return int(connection.execute(sqlalchemy.text(f"SELECT count(*) FROM data_{TABLE}")).scalar_one())

    def build_index(self) -> None:
        """Open the table again, with an index."""
        self._opened(hnsw_kwargs(self._job))


def run(job: dict[str, Any]) -> dict[str, Any]:
    """Load the job's rows."""
    asked = Job(**job)
    return load(LlamaIndex(asked), asked)
