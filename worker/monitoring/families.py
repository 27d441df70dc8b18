"""The state of the system as metrics. docs/operations/monitoring.md explains each one."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from prometheus_client.core import GaugeMetricFamily

from worker.db.monitoring import Sample
from worker.settings import Settings
from worker.steps.falls import falls
from worker.types import QUEUE_OF, Lane, Queue, SegmentState

# Keys of a run's details are ours, and few; a chore that made them up would fill Prometheus.
_MOST_KEYS = 30


def gauge(
    name: str, documentation: str, values: Mapping[Any, float] | float, *labels: str
) -> GaugeMetricFamily:
    """Make a metric of one number, or of one a label, or of one a tuple of labels."""
    family = GaugeMetricFamily(name, documentation, labels=labels)
    by_label = values if isinstance(values, Mapping) else {(): values}
    for given, value in by_label.items():
        family.add_metric([given] if isinstance(given, str) else list(given), float(value))
    return family


def of_state(sample: Sample, settings: Settings, chores: Sequence[str]) -> Iterator[GaugeMetricFamily]:
    """Give what the database says of itself."""
    yield from _backlog(sample)
    yield from _segments(sample, settings)
    yield from _processes(sample)
    yield from _chores(sample, settings, chores)
    yield from _found(sample)
    yield from _recall(sample, settings)
    yield gauge(
        "ingest_database_freeze_age", "Transactions since the oldest that is not frozen.", sample.freeze_age
    )
    yield gauge(
        "ingest_database_freeze_age_limit",
        "autovacuum_freeze_max_age: where PostgreSQL freezes by itself.",
        sample.freeze_age_limit,
    )


def of_counts(counts: Mapping[str, int]) -> Iterator[GaugeMetricFamily]:
    """Give the number of documents."""
    yield gauge("ingest_documents", "Live documents.", {str(s): n for s, n in counts.items()}, "status")


def of_queues(lengths: Mapping[Queue, int]) -> Iterator[GaugeMetricFamily]:
    """Give what waits in the broker."""
    by_name = {queue.value: length for queue, length in lengths.items()}
    yield gauge("ingest_queue_messages", "Messages that no worker has taken.", by_name, "queue")


def of_asking(seconds: Mapping[str, float]) -> GaugeMetricFamily:
    """Give what the exporter's own questions took."""
    return gauge("ingest_exporter_query_seconds", "What asking took, the last time.", seconds, "asked")


def _backlog(sample: Sample) -> Iterator[GaugeMetricFamily]:
    waiting = {lane.value: sample.oldest_waiting.get(lane.value, 0) for lane in Lane}
    yield gauge(
        "ingest_oldest_waiting_seconds", "Age of the oldest document that is not settled.", waiting, "lane"
    )
    batches = {(lane.value, state): 0 for lane in Lane for state in ("queued", "running")}
    batches |= {(row.lane, row.state): row.batches for row in sample.batches}
    yield gauge("ingest_pauses", "Pauses: what they hold does not count as waiting.", sample.pauses)
    yield gauge("ingest_batches_unfinished", "Batches under way.", batches, "lane", "state")
    held_up = sum(row.held_up for row in sample.batches)
    yield gauge("ingest_batches_held_up", "Batches that say what keeps them from going on.", held_up)
    oldest = {queue.value: 0.0 for queue in QUEUE_OF.values()}
    oldest |= {QUEUE_OF[Lane(r.lane)].value: r.oldest_seconds for r in sample.batches if r.state == "queued"}
    yield gauge(
        "ingest_queue_oldest_message_seconds", "Age of the oldest message not taken.", oldest, "queue"
    )


def _segments(sample: Sample, settings: Settings) -> Iterator[GaugeMetricFamily]:
    states = dict.fromkeys((state.value for state in SegmentState), 0)
    segments = states | {row.state: row.segments for row in sample.segments}
    rows = states | {row.state: row.rows for row in sample.segments}
    yield gauge("ingest_segments", "Segments.", segments, "state")
    yield gauge("ingest_segment_rows", "Rows in them; of sealed ones when they were sealed.", rows, "state")
    if sample.open_segment is not None:
        fill = sample.open_segment.rows / settings.rows_of_segment
        yield gauge("ingest_open_segment_fill_ratio", "Rows of the open segment, of a full one's.", fill)
        age = sample.open_segment.age_seconds
        yield gauge("ingest_open_segment_age_seconds", "Age of the open segment.", age)
    yield gauge("ingest_unsealed_rows", "Rows that no vector index covers.", sample.unsealed_rows)
    most = settings.most_unsealed_rows
    yield gauge("ingest_unsealed_rows_limit", "MAX_UNSEALED_ROWS: there ingestion waits.", most)


def _processes(sample: Sample) -> Iterator[GaugeMetricFamily]:
    kinds = dict.fromkeys(("ingest", "interactive", "search", "maintenance", "beat"), 0)
    alive = kinds | {row.kind: row.alive for row in sample.hearts}
    yield gauge("ingest_processes_alive", "Processes whose heartbeat is fresh.", alive, "kind")
    stale = kinds | {row.kind: row.stale for row in sample.hearts}
    yield gauge("ingest_processes_lost", "Processes whose heartbeat stopped unannounced.", stale, "kind")
    slots = kinds | {row.kind: row.slots for row in sample.hearts}
    yield gauge("ingest_worker_slots", "Places in the pools of living workers.", slots, "kind")
    ages = {row.kind: row.age_seconds for row in sample.hearts}
    yield gauge("ingest_heartbeat_age_seconds", "Age of the newest heartbeat.", ages, "kind")


def _chores(sample: Sample, settings: Settings, chores: Sequence[str]) -> Iterator[GaugeMetricFamily]:
    last = {row.chore: row for row in sample.chores}
    ages = {name: row.seconds_ago for name, row in last.items()}
    yield gauge("ingest_chore_last_run_age_seconds", "Since the last finished run began.", ages, "chore")
    took = {name: row.run_seconds for name, row in last.items()}
    yield gauge("ingest_chore_last_run_seconds", "What the last finished run took.", took, "chore")
    well = {name: row.outcome == "done" for name, row in last.items()}
    yield gauge("ingest_chore_last_run_success", "Whether the last finished run did its work.", well, "chore")
    yield gauge("ingest_chore_running_seconds", "Age of a run under way.", sample.running, "chore")
    up = next((row.up_seconds for row in sample.hearts if row.kind == "beat"), 0.0)
    late = {name: _is_late(name, sample, settings, ages.get(name, up)) for name in chores}
    yield gauge("ingest_chore_late", "Whether its schedule asked for a run long ago.", late, "chore")


def _is_late(name: str, sample: Sample, settings: Settings, since: float) -> bool:
    """One that never ran is late by how long beat has been there."""
    limit = settings.late_seconds(name)
    return math.isfinite(limit) and name not in sample.running and since > limit


def _found(sample: Sample) -> Iterator[GaugeMetricFamily]:
    """Give what the last runs found, each number and how long each list is, by its key in the details."""
    found = {
        (run.chore, key): _counted(value)
        for run in sample.chores
        for key, value in list(run.details.items())[:_MOST_KEYS]
    }
    counted = {key: value for key, value in found.items() if value is not None}
    yield gauge("ingest_chore_found", "What the last run found or did.", counted, "chore", "found")
    oversized = next((run.details.get("oversized") for run in sample.chores if run.chore == "indexes"), None)
    if oversized is not None:
        worst = max((index["times_a_fresh_one"] for index in oversized), default=1)
        yield gauge("ingest_index_oversize_ratio", "Size of the worst index, of a fresh one's.", worst)


def _counted(value: Any) -> float | None:
    return value if isinstance(value, int | float) else len(value) if isinstance(value, list) else None


def _recall(sample: Sample, settings: Settings) -> Iterator[GaugeMetricFamily]:
    history, seconds_ago, _ = sample.recall
    yield gauge("ingest_recall_alert_ratio", "RECALL_ALERT: recall must not be below.", settings.recall_alert)
    if history is None or seconds_ago is None:
        return
    figures = history.newest.over_all
    segments = [s.figures.recall for s in history.newest.segments if s.figures.recall is not None]
    if figures.recall is not None:
        yield gauge("ingest_recall_ratio", "Share of the nearest that searches found.", figures.recall)
    if segments:
        yield gauge("ingest_recall_worst_segment_ratio", "The same of the worst segment.", min(segments))
    underfill = figures.underfilled / max(figures.queries, 1)
    yield gauge("ingest_recall_underfill_ratio", "Share of searches that found too few.", underfill)
    amiss = falls(history, settings.recall_alert, settings.hnsw_m, settings.hnsw_ef_construction)
    yield gauge("ingest_recall_falls", "Findings that recall is too low.", len(amiss))
    yield gauge("ingest_recall_age_seconds", "Since it was measured.", seconds_ago)
