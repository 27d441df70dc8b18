"""Metrics of real workers: a pool's processes come and go, and what was counted stays."""

from pathlib import Path

import psutil

from tests.workers.conftest import StartWorker, Until
from worker import Document, submit
from worker.metricfiles import folder_of
from worker.monitoring.exposition import ProcessCollector
from worker.settings import Settings


def shown(folder: Path) -> dict[str, dict[tuple[str, ...], float]]:
    """The samples by name, each by the values of its labels."""
    found: dict[str, dict[tuple[str, ...], float]] = {}
    for metric in ProcessCollector(folder).collect():
        for sample in metric.samples:
            found.setdefault(sample.name, {})[tuple(sample.labels.values())] = sample.value
    return found


def test_a_process_of_the_pool_goes_on_where_the_one_before_it_ended(
    settings: Settings, start: StartWorker, until: Until
) -> None:
    folder = folder_of(settings)

    def completed() -> float:
        return shown(folder)["ingest_documents_processed_total"]["completed",]

    def children() -> list[psutil.Process]:
        return psutil.Process(worker.container.process.pid).children()

    worker = start("ingest", INGEST_CONCURRENCY="1")
    submit([Document.text("Apples are red.", source_path="one")])
    until(lambda: completed() == 1)
    assert list(shown(folder)["ingest_database_pool_size"].values()) == [2]
    [child] = children()
    files = sorted(folder.iterdir())
    child.kill()
    until(lambda: [other.pid for other in children()] not in ([], [child.pid]))
    until(lambda: "ingest_database_pool_size" not in shown(folder))
    submit([Document.text("Bananas are yellow.", source_path="two")])
    until(lambda: completed() == 2)
    assert sorted(folder.iterdir()) == files
    worker.container.kill("SIGKILL")
    until(lambda: "ingest_database_pool_size" not in shown(folder))
    assert completed() == 2
