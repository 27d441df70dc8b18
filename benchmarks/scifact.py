"""Retrieval with one way of cutting texts: SciFact's test queries, each abstract ranked by its best chunk.

nDCG@10 with the grades of `$CORPORA/ir/scifact`, exact search.
"""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from benchmarks.collection import Collection
from worker.embedding.wordllama import WordLlamaEmbedder
from worker.steps.measures import ndcg
from worker.types import FileType, Span

K = 10
Splitter = Callable[[str, FileType, int], list[Span]]


def judge(collection: Collection, split: Splitter, size: int) -> tuple[int, float]:
    """Give (chunks, nDCG@10) of the abstracts cut into chunks of at most `size` characters."""
    names, texts, owners = [], [], []
    for number, (name, text) in enumerate(collection.documents()):
        names.append(name)
        for span in split(text, FileType.TEXT, size):
            texts.append(span.text)
            owners.append(number)
    grades, asked = collection.grades(), dict(collection.queries())
    best = _best([asked[query] for query in grades], texts, owners)
    gains = [
        ndcg([judged.get(names[place], 0) for place in top], judged.values(), K)
        for judged, top in zip(grades.values(), best, strict=True)
    ]
    return len(texts), sum(gains) / len(gains)


def _best(queries: Sequence[str], texts: Sequence[str], owners: Sequence[int]) -> NDArray[np.intp]:
    """Give the K best documents of each query: (queries, K) places among the documents."""
    model = WordLlamaEmbedder()
    scores = _unit(model.embed(queries)) @ _unit(model.embed(texts)).T
    first_chunks = np.flatnonzero(np.diff(owners, prepend=-1))
    by_document = np.maximum.reduceat(scores, first_chunks, axis=1)
    return np.argsort(-by_document, axis=1, kind="stable")[:, :K]


def _unit(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    unit: NDArray[np.float32] = vectors / np.maximum(lengths, np.finfo(np.float32).tiny)
    return unit
