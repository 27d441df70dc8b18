"""What everything takes at a moment, as numbers by name: processes, PostgreSQL, Redis; and what was done."""

import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any, Self
from urllib.request import urlopen

import psutil
from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy import text

from benchmarks.stack import Stack
from worker import broker
from worker.db.engine import single_connection_engine

MEMORY, DESCRIPTORS, CONNECTIONS = "memory MB: ", "descriptors: ", "connections: "
POOL, POSTGRES, REDIS = "pool", "PostgreSQL", "Redis server"
DOCUMENTS, SEARCHES, WAITING = "documents/s", "searches/s", "oldest document that waits, s"
SIZE, REDIS_DATA, REDIS_KEYS = "database MB", "Redis data MB", "Redis keys"
_COUNTERS = {
    "ingest_documents_processed_total": DOCUMENTS,
    "ingest_searches_total": SEARCHES,
}
_SERVERS = {"postgres": POSTGRES, "valkey-server": REDIS}
_SESSIONS = """SELECT application_name, count(*) FROM pg_stat_activity
    WHERE datname = current_database() AND application_name LIKE 'ingest%' GROUP BY 1"""
_SIZE = "SELECT pg_database_size(current_database())"
_WAITING = """SELECT coalesce(extract(epoch FROM max(now() - queued_at)), 0) FROM documents
    WHERE status = 'pending' AND queued_at <= now() AND deleted_at IS NULL"""


class Sampler:
    """Looks at the processes of a stack, at both servers, and at the exporter as Prometheus does."""

    def __init__(self, stack: Stack, parents: Mapping[str, psutil.Process]) -> None:
        self._parents = {**parents, "producer": psutil.Process()}
        found = {child.name(): child for child in psutil.Process().children()}
        self._servers = {kind: found[name] for name, kind in _SERVERS.items()}
        engine = single_connection_engine(stack.settings.database_url, "soak")
        self._database = engine.connect().execution_options(isolation_level="AUTOCOMMIT")
        self._broker = broker.connect(stack.settings)
        self._metrics = f"http://127.0.0.1:{stack.settings.metrics_port}/metrics"
        self._counted, self._counted_at = self._counters(), time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._database.close()
        self._broker.close()

    def sample(self) -> dict[str, float]:
        """Give everything at once."""
        found: dict[str, float] = {}
        for kind, process in self._processes():
            with suppress(psutil.NoSuchProcess):  # of a pool, replaced at this moment
                memory, descriptors = _of_process(kind, process)
                found[MEMORY + kind] = found.get(MEMORY + kind, 0.0) + memory
                found[DESCRIPTORS + kind] = found.get(DESCRIPTORS + kind, 0.0) + descriptors
        return found | self._sessions() | self._stored() | self._redis() | self._rates()

    def _processes(self) -> Iterator[tuple[str, psutil.Process]]:
        for kind, parent in self._parents.items():
            yield kind, parent
            if kind != "producer":  # whose children are all the others
                yield from ((f"{kind} {POOL}", child) for child in parent.children(recursive=True))
        for kind, server in self._servers.items():
            yield from ((kind, process) for process in (server, *server.children(recursive=True)))

    def _sessions(self) -> dict[str, float]:
        by_name = {
            CONNECTIONS + name: float(count) for name, count in self._database.execute(text(_SESSIONS))
        }
        return {**by_name, f"{CONNECTIONS}all": sum(by_name.values())}

    def _stored(self) -> dict[str, float]:
        size, waiting = (self._database.execute(text(asked)).scalar_one() for asked in (_SIZE, _WAITING))
        return {SIZE: size / 1e6, WAITING: float(waiting)}

    def _redis(self) -> dict[str, float]:
        memory: Any = self._broker.info("memory")
        return {REDIS_DATA: memory["used_memory"] / 1e6, REDIS_KEYS: float(self._broker.dbsize())}

    def _rates(self) -> dict[str, float]:
        """Give what was counted since the last sample, a second."""
        before, since = self._counted, self._counted_at
        self._counted, self._counted_at = self._counters(), time.monotonic()
        seconds = self._counted_at - since
        return {name: (count - before[name]) / seconds for name, count in self._counted.items()}

    def _counters(self) -> dict[str, float]:
        found = dict.fromkeys(_COUNTERS.values(), 0.0)
        with urlopen(self._metrics) as page:
            families = text_string_to_metric_families(page.read().decode())
        for family in families:
            for sample in family.samples:
                if sample.name in _COUNTERS:
                    found[_COUNTERS[sample.name]] += sample.value
        return found


def _of_process(kind: str, process: psutil.Process) -> tuple[float, int]:
    """Give RSS in MB and open descriptors; of PostgreSQL what its processes do not share."""
    memory = process.memory_info()
    shared = memory.shared if kind == POSTGRES else 0
    return (memory.rss - shared) / 1e6, process.num_fds()
