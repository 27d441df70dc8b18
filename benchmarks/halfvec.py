"""What EMBEDDING_TYPE=halfvec gains, and what it costs in recall, against vector.

The same clustered vectors of 1,536 numbers are written and sealed in both types, in turn, in a database of
its own each. Recall compares what a search finds in the sealed segments with an exact search over the
vectors as they were given, in full precision. The queries are drawn around the same centres and stored
nowhere.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

import numpy as np
from numpy.typing import NDArray

from benchmarks.ours import (
    READY,
    TENANT,
    UNBOUNDED,
    Batches,
    burst,
    drawn,
    own_database,
    sealing,
    sustained,
)
from benchmarks.ready import BATCH_ROWS, Clustered, ReadyWriter, place_of
from benchmarks.report import Demand, Report
from benchmarks.rounds import SMOKE, Watch, dimension_at
from benchmarks.stack import Stack, running_stack
from benchmarks.stored import sizes
from worker.queries import Query, read_query
from worker.resources import Resources
from worker.searching import search
from worker.types import EmbeddingType

DIMENSION, ROWS, BURST_ROWS, ROUNDS = 1536, 20_480, 20_480, 3
QUERIES, WARM_UP, K = 300, 50, 10
LEAST_RECALL = 0.98
NAME = "halfvec"


@dataclass(frozen=True, slots=True)
class Round:
    """One type's figures: rows/s, bytes, and what each query took in seconds and found of the true ones."""

    burst: float
    sealed: float
    row_bytes: float
    index_bytes: float
    taken: Sequence[float]
    recall: float
    others: float


def run(scale: float) -> Report:
    queries, dimension = max(10, round(QUERIES * scale)), dimension_at(scale, DIMENSION)
    asked = Clustered(dimension).draw(queries, seed=0)
    batches = drawn(dimension, NAME, round(ROWS * scale))
    most = max(1, round(BURST_ROWS * scale / BATCH_ROWS))
    true = exact(np.concatenate(batches), asked)
    with running_stack(**READY) as stack:
        report = Report(NAME, stack.versions(), stack.shown_settings())
        rounds: dict[EmbeddingType, list[Round]] = {kind: [] for kind in EmbeddingType}
        for number in range(ROUNDS if scale >= SMOKE else 1):
            for kind in sorted(EmbeddingType, reverse=bool(number % 2)):
                rounds[kind].append(_round(stack, kind, batches, most, asked, true))
    _report(report, dimension, rounds)
    report.figures |= {"rows": sum(map(len, batches)), "queries": queries}
    return report


def exact(vectors: NDArray[np.float32], asked: NDArray[np.float32]) -> list[set[int]]:
    """Give the places of the K nearest vectors of each query, by cosine, in full precision."""
    lengths = np.linalg.norm(vectors, axis=1)
    nearest = np.argpartition(-(asked @ vectors.T) / lengths, K, axis=1)[:, :K]
    return [set(places.tolist()) for places in nearest]


def _round(
    stack: Stack,
    kind: EmbeddingType,
    batches: Batches,
    most: int,
    asked: NDArray[np.float32],
    true: list[set[int]],
) -> Round:
    settings = {"embedding_dimension": asked.shape[1], "embedding_type": kind}
    with Watch() as watch:
        with own_database(stack, "burst", max_unsealed_rows=UNBOUNDED, **settings) as resources:
            first = burst(ReadyWriter(resources, TENANT, NAME), batches[:most])
        with own_database(stack, "sealed", **settings) as resources:
            with sealing(resources.settings) as sealer:
                whole = sustained(ReadyWriter(resources, TENANT, NAME), batches, sealer)
            rows = sum(map(len, batches))
            row_bytes, index_bytes = (size / rows for size in sizes(resources)[:2])
            taken, recall = _searches(resources, asked, true)
    burst_rate = sum(map(len, batches[:most])) / first
    return Round(burst_rate, rows / whole, row_bytes, index_bytes, taken, recall, watch.others)


def _searches(
    resources: Resources, asked: NDArray[np.float32], true: list[set[int]]
) -> tuple[list[float], float]:
    """Search one query after the other; gives what each took, and the share of the true ones found."""
    for vector in asked[:WARM_UP]:
        search(resources, _query(vector))
    taken: list[float] = []
    found = 0
    for vector, places in zip(asked, true, strict=True):
        begun = time.perf_counter()
        answer = search(resources, _query(vector))
        taken.append(time.perf_counter() - begun)
        found += len(places & {place_of(hit.text) for hit in answer.hits})
    return taken, found / (K * len(true))


def _query(vector: NDArray[np.float32]) -> Query:
    return read_query(vector=vector, tenant=TENANT, k=K)


def _report(report: Report, dimension: int, rounds: dict[EmbeddingType, list[Round]]) -> None:
    columns = (
        "type", "burst rows/s", "sealed rows/s", "bytes a row", "index bytes a row", "p50 ms", "p95 ms",
        f"recall@{K}", "others' load",
    )  # fmt: skip
    report.table(
        f"{dimension} dimensions", columns, [(kind.value, *_medians(of)) for kind, of in rounds.items()]
    )
    recalls = {kind: median(r.recall for r in of) for kind, of in rounds.items()}
    kept = recalls[EmbeddingType.HALFVEC] / recalls[EmbeddingType.VECTOR]
    report.demands.append(Demand(f"recall@{K}, halfvec / vector", LEAST_RECALL, kept))


def _medians(rounds: Sequence[Round]) -> tuple[float | str, ...]:
    p50, p95 = (median(1e3 * float(np.quantile(r.taken, share)) for r in rounds) for share in (0.5, 0.95))
    return (
        round(median(r.burst for r in rounds)),
        round(median(r.sealed for r in rounds)),
        round(median(r.row_bytes for r in rounds)),
        round(median(r.index_bytes for r in rounds)),
        round(p50, 1),
        round(p95, 1),
        round(median(r.recall for r in rounds), 3),
        f"{max(r.others for r in rounds):.0%}",
    )
