"""LlamaIndex `IngestionPipeline`: files split, embedded and added to a `PGVectorStore`, by several processes.

As in its documentation ("Ingestion Pipeline", "Connecting to Vector Databases"; its cache off as in
"Parallelizing Ingestion Pipeline"). That page's `num_workers` has several processes transform and one
insert, and loses the splitter's tokenizer on the way to them. A pipeline a process, each with its share of
the files, inserts from all of them: the same 3,472 chunks took it 11 s instead of 19.
"""

import multiprocessing
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import cached_property
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

from llama_index.core import Document
from llama_index.core.base.embeddings.base import BaseEmbedding
from llama_index.core.ingestion import IngestionPipeline
from llama_index.core.node_parser import SentenceSplitter
from llama_index.vector_stores.postgres import PGVectorStore

from benchmarks.adapters.files import Job
from worker.embedding.wordllama import WordLlamaEmbedder

DIMENSION = 256

_together: Barrier


class BuiltIn(BaseEmbedding):
    """Our built-in model behind its protocol."""

    model_name: str = WordLlamaEmbedder.model

    @cached_property
    def _model(self) -> WordLlamaEmbedder:
        return WordLlamaEmbedder()

    def _get_text_embeddings(self, texts: list[str]) -> list[list[float]]:
        found: list[list[float]] = self._model.embed(texts).tolist()
        return found

    def _get_text_embedding(self, text: str) -> list[float]:
        return self._get_text_embeddings([text])[0]

    def _get_query_embedding(self, query: str) -> list[float]:
        return self._get_text_embedding(query)

    async def _aget_query_embedding(self, query: str) -> list[float]:
        return self._get_text_embedding(query)


def run(job: dict[str, Any]) -> dict[str, Any]:
    """Ingest the files; gives the slower process's seconds, the chunks and their characters."""
    asked = Job(**job)
    _opened(asked).add([])  # makes the table and its indexes
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(asked.processes, timeout=300)
    with ProcessPoolExecutor(asked.processes, context, _share, (barrier,)) as pool:
        shares = [asked.paths[number :: asked.processes] for number in range(asked.processes)]
        found = list(pool.map(_ingest, [asked] * asked.processes, shares))
    return {
        "seconds": max(seconds for seconds, _, _ in found),
        "chunks": sum(chunks for _, chunks, _ in found),
        "characters": sum(characters for _, _, characters in found),
    }


def _share(barrier: Barrier) -> None:
    global _together  # noqa: PLW0603 -- what all processes wait at can only come with their birth
    _together = barrier


def _ingest(job: Job, paths: Sequence[str]) -> tuple[float, int, int]:
    pipeline = _pipeline(job)
    _together.wait()
    begun = time.perf_counter()
    nodes = pipeline.run(documents=[_document(path) for path in paths])
    seconds = time.perf_counter() - begun
    return seconds, len(nodes), sum(len(node.get_content()) for node in nodes)


def _pipeline(job: Job) -> IngestionPipeline:
    """Put a pipeline together, with everything loaded that is loaded once."""
    model = BuiltIn(embed_batch_size=job.embedding_batch_size)
    splitter = SentenceSplitter(chunk_size=job.chunk_size, chunk_overlap=0, tokenizer=list)
    steps = [splitter, model]
    IngestionPipeline(transformations=steps, disable_cache=True).run(
        documents=[Document(text="Loads the model.")]
    )
    store = _opened(job)
    store.add([])  # connects
    return IngestionPipeline(transformations=steps, vector_store=store, disable_cache=True)


def _document(path: str) -> Document:
    """Read a file; its path is kept, and neither counted in a chunk nor embedded."""
    return Document(
        text=Path(path).read_text(errors="replace"),
        metadata={"source_path": path},
        excluded_embed_metadata_keys=["source_path"],
        excluded_llm_metadata_keys=["source_path"],
    )


def _opened(job: Job) -> PGVectorStore:
    return PGVectorStore.from_params(
        connection_string=job.url.replace("postgresql:", "postgresql+psycopg2:"),
        async_connection_string=job.url.replace("postgresql:", "postgresql+asyncpg:"),
        table_name="files",
        embed_dim=DIMENSION,
        hybrid_search=job.hybrid,
        use_jsonb=True,
        hnsw_kwargs={
            "hnsw_m": job.hnsw_m,
            "hnsw_ef_construction": job.hnsw_ef_construction,
            "hnsw_ef_search": 100,
            "hnsw_dist_method": "vector_cosine_ops",
        },
    )
