"""langchain-postgres `PGVectorStore.add_embeddings`: a transaction a row, whatever the size of the list.

As in its documentation ("PGVectorStore"): PGEngine, a table by `init_vectorstore_table`,
`apply_vector_index`. It makes no halfvec column; it takes an existing table, which it documents, and so one
that has it.
"""

from typing import Any

import sqlalchemy
from langchain_core.embeddings import FakeEmbeddings
from langchain_postgres import PGEngine, PGVectorStore
from langchain_postgres.v2.indexes import HNSWIndex

from benchmarks.adapters.job import Job, Row, load

TABLE = "peer"


class LangChain:
    """The store over its new table."""

    def __init__(self, job: Job) -> None:
        self._job = job
        url = job.url.replace("postgresql:", "postgresql+psycopg:")
        self._sql = sqlalchemy.create_engine(url, isolation_level="AUTOCOMMIT")
        self._engine = PGEngine.from_connection_string(url=url)
        self._engine.init_vectorstore_table(table_name=TABLE, vector_size=job.dimension)
        if job.halfvec:
            self._ask(f"ALTER TABLE {TABLE} ALTER COLUMN embedding TYPE halfvec({job.dimension})")
        self._store = PGVectorStore.create_sync(
            engine=self._engine, table_name=TABLE, embedding_service=FakeEmbeddings(size=job.dimension)
        )
        if not job.index_last:
            self.build_index()

    def prepare(self, rows: list[Row]) -> list[Row]:
        """Give the rows: it takes texts, vectors and metadata as they are."""
        return rows

    def write(self, prepared: list[Row]) -> None:
        """Add the rows."""
        self._store.add_embeddings(
            [row.text for row in prepared],
            [row.vector for row in prepared],
            [row.metadata for row in prepared],
        )

    def count(self) -> int:
        """Count the rows."""
        return int(self._ask(f"SELECT count(*) FROM {TABLE}"))

    def build_index(self) -> None:
        """Apply an HNSW index; it has no operator class for halfvec."""
        m, ef_construction = self._job.hnsw_m, self._job.hnsw_ef_construction
        if self._job.halfvec:
            self._ask(
                f"CREATE INDEX ON {TABLE} USING hnsw (embedding halfvec_cosine_ops)"
                f" WITH (m = {m}, ef_construction = {ef_construction})"
            )
        else:
            self._store.apply_vector_index(HNSWIndex(m=m, ef_construction=ef_construction))

    def _ask(self, statement: str) -> Any:
        with self._sql.connect() as connection:
            found = connection.execute(sqlalchemy.text(statement))
            return found.scalar() if found.returns_rows else None


def run(job: dict[str, Any]) -> dict[str, Any]:
    """Load the job's rows."""
    asked = Job(**job)
    return load(LangChain(asked), asked)
