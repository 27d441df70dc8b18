"""What a committed write and an answered search add to the metrics: a few numbers a batch."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from worker import metrics
from worker.db.documents import Claimed, Settled
from worker.errors import TransientError


def count_outcomes(outcomes: Sequence[Settled], later: Sequence[tuple[Claimed, TransientError]] = ()) -> None:
    """Count the documents of one write, by what became of them."""
    sizes: Counter[str] = Counter()
    for outcome in outcomes:
        sizes[outcome.status.value] += outcome.size_bytes or 0
    for status, documents in Counter(outcome.status.value for outcome in outcomes).items():
        metrics.documents.labels(status).inc(documents)
        metrics.document_bytes.labels(status).inc(sizes[status])
    reasons = Counter((o.status.value, o.error_code) for o in outcomes if o.error_code)
    for (status, code), documents in reasons.items():
        metrics.errors.labels(status, code).inc(documents)
    for code, documents in Counter(error.code for _, error in later).items():
        metrics.retries.labels(code).inc(documents)
    _count_chunks(outcomes)


def _count_chunks(outcomes: Sequence[Settled]) -> None:
    """Chunks of which no vector was computed or known came with one, or have none."""
    total = sum(outcome.total_chunks or 0 for outcome in outcomes)
    computed = sum(outcome.embedded for outcome in outcomes)
    reused = sum(outcome.reused for outcome in outcomes)
    for source, chunks in (("computed", computed), ("reused", reused), ("none", total - computed - reused)):
        metrics.chunks.labels(source).inc(chunks)


def count_search(reply: Mapping[str, Any], seconds: float) -> None:
    """Count one search by the reply of its task, and what its stages took."""
    metrics.searches.labels(_outcome(reply)).inc()
    answer = reply.get("answer")
    if answer is None:
        return
    metrics.search_seconds.labels(answer["mode"]).observe(seconds)
    for stage, milliseconds in answer["latency_ms"].items():
        metrics.search_stage_seconds.labels(stage).observe(milliseconds / 1000)
    for stage in answer["dropped"]:
        metrics.search_stages_dropped.labels(stage).inc()


def _outcome(reply: Mapping[str, Any]) -> str:
    if "answer" in reply:
        return "answered"
    return next((word for word in ("late", "outage") if reply.get(word)), "refused")
