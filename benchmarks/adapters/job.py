"""What a vector store is asked to do: rows with ready vectors into a new table with an HNSW index."""

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np


class Row(NamedTuple):
    """A chunk as every store takes it."""

    text: str
    metadata: dict[str, Any]
    vector: list[float]


@dataclass(frozen=True, slots=True)
class Job:
    """Rows from files, and the table they go into. `halfvec`: the column type, else it is vector.

    `index_last`: the table has no vector index until all rows are in. `seconds`: no batch begins later.
    """

    url: str
    vectors: str
    texts: str
    batch_rows: int
    seconds: float
    hnsw_m: int
    hnsw_ef_construction: int
    halfvec: bool = False
    index_last: bool = False

    def batches(self) -> Iterator[list[Row]]:
        """Read the rows, batch by batch: as Python lists they take eight times the memory."""
        vectors = np.load(self.vectors, mmap_mode="r")
        rows = json.loads(Path(self.texts).read_text())
        for begin in range(0, len(rows), self.batch_rows):
            part = slice(begin, begin + self.batch_rows)
            yield [
                Row(text, metadata, vector)
                for (text, metadata), vector in zip(rows[part], vectors[part].tolist(), strict=True)
            ]

    @property
    def dimension(self) -> int:
        """Give the length of the vectors."""
        return int(np.load(self.vectors, mmap_mode="r").shape[1])


class Store(Protocol):
    """A peer's vector store over its new table. `prepare` makes its own objects, which is not timed."""

    def __init__(self, job: Job) -> None: ...

    def prepare(self, rows: list[Row]) -> Any:
        """Give what `write` takes."""
        ...

    def write(self, prepared: Any) -> None:
        """Write the rows; they are committed when it returns."""
        ...

    def count(self) -> int:
        """Count the rows of the table."""
        ...

    def build_index(self) -> None:
        """Build the vector index that `index_last` has left out."""
        ...


def load(store: Store, job: Job) -> dict[str, Any]:
    """Write the job's rows; gives (rows, seconds) of each batch, and the seconds of an index built last."""
    batches: list[tuple[int, float]] = []
    limit = time.perf_counter() + job.seconds
    for rows in job.batches():
        if batches and time.perf_counter() > limit:
            break
        prepared = store.prepare(rows)
        begun = time.perf_counter()
        store.write(prepared)
        batches.append((len(rows), time.perf_counter() - begun))
    begun = time.perf_counter()
    if job.index_last:
        store.build_index()
    index_seconds = time.perf_counter() - begun
    written, stored = sum(rows for rows, _ in batches), store.count()
    if stored != written:
        raise RuntimeError(f"{written:,} rows were written, {stored:,} are stored")
    return {"batches": batches, "index_seconds": index_seconds if job.index_last else 0.0}
