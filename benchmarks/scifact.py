"""Retrieval with one way of cutting texts: SciFact's test queries, each abstract ranked by its best chunk.

nDCG@10 as in Järvelin and Kekäläinen (2002), with the grades of `$CORPORA/ir/scifact`, exact search.
"""

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from worker.embedding.wordllama import WordLlamaEmbedder
from worker.types import FileType, Span

COLLECTION = "ir/scifact"
K = 10
Splitter = Callable[[str, FileType, int], list[Span]]


def judge(collection: Path, split: Splitter, size: int) -> tuple[int, float]:
    """Give (chunks, nDCG@10) of the abstracts cut into chunks of at most `size` characters."""
    documents = [json.loads(line) for line in (collection / "docs.jsonl").read_text().splitlines()]
    grades = _grades(collection)
    texts, owners = [], []
    for number, document in enumerate(documents):
        for span in split(f"{document['title']}\n\n{document['text']}", FileType.TEXT, size):
            texts.append(span.text)
            owners.append(number)
    best = _best(_queries(collection, grades), texts, owners)
    gains = [
        _ndcg([grades[query].get(str(documents[place]["id"]), 0) for place in top], grades[query].values())
        for query, top in zip(grades, best, strict=True)
    ]
    return len(texts), sum(gains) / len(gains)


def _grades(collection: Path) -> dict[str, dict[str, int]]:
    grades: dict[str, dict[str, int]] = {}
    for line in (collection / "qrels_test.tsv").read_text().splitlines():
        query, document, grade = line.split("\t")
        if grade.isdigit():  # the first line may name the columns
            grades.setdefault(query, {})[document] = int(grade)
    return grades


def _queries(collection: Path, grades: dict[str, Any]) -> list[str]:
    lines = (collection / "queries.jsonl").read_text().splitlines()
    texts = {str(query["id"]): query["text"] for query in map(json.loads, lines)}
    return [texts[query] for query in grades]


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


def _ndcg(found: Sequence[int], grades: Any) -> float:
    ideal = _gain(sorted(grades, reverse=True)[:K])
    return _gain(found) / ideal if ideal else 0.0


def _gain(grades: Sequence[int]) -> float:
    return sum(grade / math.log2(place + 2) for place, grade in enumerate(grades))
