"""The files of the metrics: a slot a worker, nothing piled up, and work that goes on without them."""

import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest
from prometheus_client import values
from prometheus_client.metrics import MetricWrapperBase

from worker import metricfiles, metrics
from worker.metricfiles import FILE_BYTES, Slot, is_sound, share, value_files
from worker.monitoring.exposition import ProcessCollector
from worker.settings import Settings

# A worker without a pool: counts, says that it has, and waits for its end.
WORKER = """
import sys
from pathlib import Path
from worker import metricfiles, metrics
from worker.settings import Settings
settings = Settings(database_url="postgresql://", broker_url="redis://", data_dir=Path(sys.argv[1]))
metricfiles.share(settings, "ingest", 0, lambda: metricfiles.MAIN)
metrics.documents.labels("completed").inc(int(sys.argv[2]))
metrics.pool_size.labels("ingest").set(2)
print("counted", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(database_url="postgresql://", broker_url="redis://", data_dir=tmp_path)  # type: ignore[arg-type] # pydantic reads text


def start(folder: Path, documents: int) -> "subprocess.Popen[str]":
    command = [sys.executable, "-c", WORKER, str(folder), str(documents)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "counted\n"
    return process


def shown(folder: Path) -> dict[str, float]:
    """What the collector says, by name and labels."""
    collected = ProcessCollector(folder / "metrics").collect()
    return {
        f"{sample.name}{sorted(sample.labels.items())}": sample.value
        for metric in collected
        for sample in metric.samples
    }


COMPLETED = "ingest_documents_processed_total[('outcome', 'completed')]"


def test_workers_at_once_count_apart_and_their_successors_go_on(tmp_path: Path) -> None:
    first, second = start(tmp_path, 3), start(tmp_path, 4)
    assert shown(tmp_path)[COMPLETED] == 7
    sizes = {name for name in shown(tmp_path) if name.startswith("ingest_database_pool_size")}
    assert sizes == {
        "ingest_database_pool_size[('pool', 'ingest'), ('process', 'ingest.0.main')]",
        "ingest_database_pool_size[('pool', 'ingest'), ('process', 'ingest.1.main')]",
    }
    files = sorted((tmp_path / "metrics").iterdir())
    first.kill()
    first.communicate()
    assert shown(tmp_path)[COMPLETED] == 7
    left = [name for name in shown(tmp_path) if name.startswith("ingest_database_pool_size")]
    assert left == ["ingest_database_pool_size[('pool', 'ingest'), ('process', 'ingest.1.main')]"]
    third = start(tmp_path, 5)
    assert shown(tmp_path)[COMPLETED] == 12
    assert sorted((tmp_path / "metrics").iterdir()) == files
    for process in (second, third):
        process.kill()
        process.communicate()


def test_a_slot_of_a_larger_pool_leaves_no_gauge(tmp_path: Path) -> None:
    large = Slot(tmp_path, "ingest", 3)
    assert large.name == "ingest.0"
    assert len(list(tmp_path.glob("gauge_*"))) == 4
    del large
    small = Slot(tmp_path, "ingest", 1)
    assert small.name == "ingest.0"
    assert {file.name for file in tmp_path.glob("gauge_*")} == {
        "gauge_liveall_ingest.0.main.db",
        "gauge_liveall_ingest.0.0.db",
    }
    assert len(list(tmp_path.glob("counter_*"))) == 4


def test_room_for_every_value_is_taken_before_work_begins(tmp_path: Path) -> None:
    slot = Slot(tmp_path, "ingest", 1)
    files = value_files(tmp_path)
    assert len(files) == 6
    assert slot.name == "ingest.0"
    for file in files:
        assert file.stat().st_size == FILE_BYTES
        assert file.stat().st_blocks * 512 >= FILE_BYTES, "a hole would kill its writer on a full disk"


EVERY_SERIES = """
import sys
from pathlib import Path
from worker import metricfiles, metrics
from worker.settings import Settings
settings = Settings(database_url="postgresql://", broker_url="redis://", data_dir=Path(sys.argv[1]))
metricfiles.share(settings, "ingest", 0, lambda: metricfiles.MAIN)
words = [f"a_word_of_ours_{number}" for number in range(30)]
for word in words:
    for counter in (metrics.errors, metrics.chore_runs):
        counter.labels("completed", word).inc()
        counter.labels("cancelled", word).inc()
    metrics.retries.labels(word).inc()
for word in words[:20]:
    metrics.chore_seconds.labels(word).observe(1)
for word in words[:10]:
    metrics.stage_seconds.labels(word).observe(1)
    metrics.search_stage_seconds.labels(word).observe(1)
for word in words[:4]:
    metrics.search_seconds.labels(word).observe(1)
"""


def test_every_series_a_process_could_have_fits_the_room(tmp_path: Path) -> None:
    """Twenty chores, ten stages, thirty reasons: more than there are."""
    subprocess.run([sys.executable, "-c", EVERY_SERIES, str(tmp_path)], check=True)
    sizes = {file.name: file.stat().st_size for file in value_files(tmp_path / "metrics")}
    assert len(sizes) == 2, "it has ended: its gauges do not count"
    assert set(sizes.values()) == {FILE_BYTES}


@pytest.mark.parametrize("content", [b"", b"\x7f" * FILE_BYTES, b"\x40\x00\x00\x00" + bytes(100)])
def test_a_file_that_cannot_be_read_is_left_out_and_made_anew(
    tmp_path: Path, content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    process = start(tmp_path, 3)
    broken = tmp_path / "metrics" / "counter_ingest.7.main.db"
    broken.write_bytes(content)
    assert not is_sound(broken)
    collector = ProcessCollector(tmp_path / "metrics")
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            assert "ingest_documents_processed" in {metric.name for metric in collector.collect()}
    assert [(record.message, record.__dict__["path"]) for record in caplog.records] == [
        ("metrics.unreadable", broken)
    ]
    process.kill()
    process.communicate()
    mine = tmp_path / "metrics" / "counter_ingest.0.main.db"
    mine.write_bytes(content)
    assert Slot(tmp_path / "metrics", "ingest", 0).name == "ingest.0"
    assert mine.read_bytes() == bytes(FILE_BYTES)


def test_a_file_that_says_it_has_less_than_nothing_is_not_sound(tmp_path: Path) -> None:
    file = tmp_path / "counter_ingest.0.main.db"
    file.write_bytes(b"\xff" * FILE_BYTES)
    assert not is_sound(file)
    file.write_bytes(bytes(FILE_BYTES))
    assert is_sound(file)


def test_where_no_file_can_be_written_work_goes_on_and_that_is_said_once(
    tmp_path: Path, settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "metrics").write_text("a file where the folder should be")
    before = values.ValueClass
    with caplog.at_level(logging.WARNING):
        share(settings, "ingest", 2, lambda: metricfiles.MAIN)
        metrics.documents.labels("completed").inc()
    assert values.ValueClass is before
    assert "PROMETHEUS_MULTIPROC_DIR" not in os.environ
    said = [(record.message, record.__dict__["path"], record.__dict__["reason"]) for record in caplog.records]
    assert said == [("metrics.unkept", tmp_path / "metrics", "File exists")]


def test_no_metric_has_a_value_before_it_is_known_where_values_are_kept() -> None:
    declared = [value for value in vars(metrics).values() if isinstance(value, MetricWrapperBase)]
    assert len(declared) > 10
    assert all(metric._labelnames for metric in declared)
