"""Retrieval with one way of cutting texts: SciFact's test queries, each abstract ranked by its best chunk.

nDCG@10 with the grades of `$CORPORA/ir/scifact`, exact search.
"""

from collections.abc import Callable, Sequence
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from benchmarks.collection import Collection
from worker.embedding.wordllama import WordLlamaEmbedder
from worker.steps.measures import ndcg
from worker.types import FileType, Span

K = 10
Splitter = Callable[[str, FileType, int], list[Span]]


def judge(
    collection: Collection, split: Splitter, size: int, queries: int | None = None
) -> tuple[int, float]:
    """Give (chunks, nDCG@10) of the abstracts cut into chunks of at most `size` characters.

    `queries`: how many of the first are asked, of the abstracts judged for them alone; all by default.
    """
    grades, asked = dict(islice(collection.grades().items(), queries)), dict(collection.queries())
    judged_ones = {name for judged in grades.values() for name in judged}
    names, texts, owners = [], [], []
    documents = [one for one in collection.documents() if queries is None or one[0] in judged_ones]
    for number, (name, text) in enumerate(documents):
        names.append(name)
        for span in split(text, FileType.TEXT, size):
            texts.append(span.text)
            owners.append(number)
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
