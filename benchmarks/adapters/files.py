"""What a pipeline is asked to do: files into a new table, cut and embedded as ours are."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Job:
    """Files, and how they are cut: `chunk_size` counts characters. `hybrid`: with a tsvector."""

    url: str
    paths: list[str]
    processes: int
    chunk_size: int
    embedding_batch_size: int
    hnsw_m: int
    hnsw_ef_construction: int
    hybrid: bool
