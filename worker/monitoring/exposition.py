"""What one scrape gives: the metrics of the processes here, and the state that all of them share."""

import logging
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from prometheus_client.metrics_core import Metric
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

from worker import broker, metricfiles
from worker.db import monitoring
from worker.db.engine import make_engine, transaction
from worker.metrics import PROCESS_METRICS
from worker.monitoring import families
from worker.monitoring.sampler import Sampler
from worker.settings import Settings
from worker.types import Queue, TaskName

log = logging.getLogger(__name__)

KEEP_SECONDS = 5
# Prometheus gives up after 10 s by default.
PATIENCE_SECONDS = 3
STATEMENT_SECONDS, COUNT_SECONDS = 5, 60
# Counting documents takes at most this share of the time, however many there are.
COUNT_LOAD = 0.01


class StateCollector(Collector):
    """The state of database and broker. Where one is away, its `_up` is 0 and the rest of it is left out."""

    def __init__(
        self, settings: Settings, keep: float = KEEP_SECONDS, count_load: float = COUNT_LOAD
    ) -> None:
        self._settings = settings
        self._engine = make_engine(settings, settings.monitor_url, "ingest exporter")
        self._client = broker.connect(settings)
        self._chores = [name.chore for name in TaskName if name.chore]
        self._state = Sampler("the database", self._sample, keep)
        self._counts = Sampler("the database's count", self._count, keep, load=count_load)
        self._queues = Sampler("the broker", self._lengths, keep)

    def describe(self) -> Iterable[Metric]:
        """Say nothing beforehand: a registry would ask the servers for it."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Give the metrics; waits PATIENCE_SECONDS at most, for all servers together."""
        limit = time.monotonic() + PATIENCE_SECONDS
        self._state.begin()
        self._queues.begin()
        state = self._state.get(limit - time.monotonic())
        lengths = self._queues.get(max(limit - time.monotonic(), 0))
        yield families.gauge("ingest_database_up", "Whether the database answers.", state is not None)
        yield families.gauge("ingest_broker_up", "Whether the broker takes messages.", lengths is not None)
        if state is not None:
            yield from families.of_state(state, self._settings, self._chores)
            # while many are counted anew, the last count stands
            counts = self._counts.get(max(limit - time.monotonic(), 0)) or self._counts.last
            if counts is not None:
                yield from families.of_counts(counts)
        if lengths is not None:
            yield from families.of_queues(lengths)
        yield families.of_asking(
            {
                "state": self._state.seconds,
                "documents": self._counts.seconds,
                "queues": self._queues.seconds,
            }
        )

    @property
    def counting_seconds(self) -> float:
        """Give what counting the documents took, the last time."""
        return self._counts.seconds

    def _sample(self) -> monitoring.Sample:
        with transaction(self._engine, STATEMENT_SECONDS, reading=True) as connection:
            return monitoring.sample(connection, self._settings.heartbeat_seconds)

    def _count(self) -> dict[str, int]:
        with transaction(self._engine, COUNT_SECONDS, reading=True) as connection:
            return monitoring.counts(connection)

    def _lengths(self) -> dict[Queue, int]:
        broker.probe(self._client)
        return broker.queue_lengths(self._client)


class ProcessCollector(Collector):
    """What the processes of this machine have counted and timed, from their files."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._known = {metric.name for metric in PROCESS_METRICS.collect()}
        self._unsound: set[Path] = set()

    def describe(self) -> Iterable[Metric]:
        """Say nothing beforehand: what there is depends on the files."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Give the sums over all processes; gauges one a process."""
        for metric in self._merged(metricfiles.value_files(self._folder)):
            if metric.name in self._known:  # else of a version that was here before
                yield _named_processes(metric)

    def _merged(self, files: Sequence[Path]) -> list[Metric]:
        """Merge the files; where one cannot be read, the others."""
        try:
            return _merge(files)
        except Exception:  # noqa: BLE001 -- see is_sound: the library raises as the bytes fall
            return _merge([file for file in files if self._can_be_read(file)])

    def _can_be_read(self, file: Path) -> bool:
        if metricfiles.is_sound(file):
            return True
        if file not in self._unsound:
            self._unsound.add(file)
            log.warning(
                "metrics.unreadable", extra={"path": file, "then": "its worker makes it anew when it starts"}
            )
        return False


def _merge(files: Sequence[Path]) -> list[Metric]:
    merged: Iterable[Metric] = MultiProcessCollector.merge(map(str, files))  # type: ignore[no-untyped-call]
    return list(merged)


def _named_processes(metric: Metric) -> Metric:
    """Write the label of a gauge as what it is: no process has that number."""
    metric.samples = [
        sample._replace(labels={"process" if k == "pid" else k: v for k, v in sample.labels.items()})
        for sample in metric.samples
    ]
    return metric
