"""What each process counts and times, for the exporter. docs/operations/monitoring.md explains each one.

All have labels: no value exists before `worker/metricfiles.py` has said where values are kept.
Labels are words of ours, never a tenant, a document or a path.
"""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.context_managers import Timer

from worker.types import SETTLED, Status

# A registry of our own: a program that imports us may have metrics of its own.
PROCESS_METRICS = CollectorRegistry()

_STEPS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
_LONG_STEPS = (0.1, 0.5, 1, 5, 15, 60, 300, 900, 3600, 14_400)


def _counter(name: str, documentation: str, *labels: str) -> Counter:
    return Counter(name, documentation, labels, registry=PROCESS_METRICS)


def _histogram(name: str, documentation: str, *labels: str, steps: tuple[float, ...] = _STEPS) -> Histogram:
    return Histogram(name, documentation, labels, registry=PROCESS_METRICS, buckets=steps)


def _gauge(name: str, documentation: str, *labels: str) -> Gauge:
    """Declare a gauge of each process that lives."""
    return Gauge(name, documentation, labels, registry=PROCESS_METRICS, multiprocess_mode="liveall")


documents = _counter("ingest_documents_processed_total", "Documents that reached an outcome.", "outcome")
document_bytes = _counter("ingest_document_bytes_total", "Bytes of these documents, as read.", "outcome")
errors = _counter(
    "ingest_document_errors_total", "Documents that were skipped or failed, by reason.", "outcome", "code"
)
retries = _counter("ingest_document_retries_total", "Documents put off to be tried again, by reason.", "code")
embedding_pauses = _counter(
    "ingest_embedding_pauses_total", "Times the embedding provider failed, and was left alone.", "model"
)
chunks = _counter(
    "ingest_chunks_processed_total", "Chunks of completed documents, by where vectors are from.", "embedding"
)
batches = _counter("ingest_batches_total", "Batches a worker was given, by what came of them.", "outcome")
stage_seconds = _histogram(
    "ingest_stage_duration_seconds", "Seconds of a stage of ingestion.", "stage", steps=(*_STEPS, 60, 300)
)

searches = _counter("ingest_searches_total", "Searches a worker was asked, by what came of them.", "outcome")
search_seconds = _histogram("ingest_search_duration_seconds", "Seconds of an answered search.", "mode")
search_stage_seconds = _histogram(
    "ingest_search_stage_duration_seconds", "Seconds of a stage of a search.", "stage"
)
search_stages_dropped = _counter(
    "ingest_search_stages_dropped_total", "Stages that were late or failed and were left out.", "stage"
)

chore_runs = _counter("ingest_chore_runs_total", "Runs of a chore in workers.", "chore", "outcome")
chore_seconds = _histogram(
    "ingest_chore_duration_seconds", "Seconds of a chore's run.", "chore", steps=_LONG_STEPS
)

pool_size = _gauge("ingest_database_pool_size", "Connections a pool keeps.", "pool")
pool_limit = _gauge("ingest_database_pool_limit", "Connections a pool may have, overflow included.", "pool")
pool_checked_out = _gauge("ingest_database_pool_checked_out", "Connections in use.", "pool")
pool_overflow = _gauge("ingest_database_pool_overflow", "Connections beyond the size of the pool.", "pool")
pool_waiting = _gauge("ingest_database_pool_waiting", "Threads that wait for a connection.", "pool")
pool_timeouts = _counter(
    "ingest_database_pool_timeouts_total", "Waits for a connection that were given up.", "pool"
)

_ENDS = sorted(SETTLED - {Status.CANCELLED})  # who cancels is no worker
_OUTCOMES = {
    documents: _ENDS,
    document_bytes: _ENDS,
    chunks: ("computed", "reused", "none"),
    batches: ("done", "lease_lost", "not_ours"),
    retries: ("out_of_memory", "source_unavailable", "time_limit", "worker_disk"),
    searches: ("answered", "late", "refused", "outage"),
    search_stages_dropped: ("embed", "words", "keyword", "vector", "record"),
}


def stage(name: str) -> Timer:
    """Time a block as a stage of ingestion: of a batch, `embed` of one call of the model."""
    return stage_seconds.labels(name).time()


def begin_at_zero() -> None:
    """Show the words that are known beforehand: an increase is seen only of what was there before."""
    for counter, words in _OUTCOMES.items():
        for word in words:
            counter.labels(word)
