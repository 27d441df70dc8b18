"""A running exporter, and a process that has done every kind of work that is counted."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPResponse
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import urlopen

from prometheus_client.parser import text_string_to_metric_families
from tenacity import Retrying, retry_if_result, stop_after_delay, wait_fixed

from tests.forks import Fork, Forks

# As workers do it, in one process: documents of every outcome, a chore, and searches.
WORK = """
from pathlib import Path
from worker import metricfiles
from worker.app import app
from worker.dispatch import dispatch
from worker.document import Document
from worker.maintenance.run import CHORES, run_chore
from worker.producer import submit
from worker.resources import close_resources, resources
from worker.settings import load_settings
from worker.tasks import ingest_batch_task, search_task
from sqlalchemy import text
metricfiles.share(load_settings(), "ingest", 0, lambda: metricfiles.MAIN)
gone = Path("gone.txt")
gone.write_text("it will not be there")
submit([Document.text("Apples are red.", source_path="one"), Document.text(" ", source_path="two"),
        Document.text("Apples are red.", source_path="three"), Document.path(gone)], tenant="acme")
gone.unlink()
dispatch(resources())
with resources().engine.connect() as connection:
    for batch_id in connection.execute(text("SELECT batch_id FROM batches WHERE state = 'queued'")).scalars():
        for _ in range(2):
            ingest_batch_task.apply([str(batch_id)]).get()
for query in ({"text": "apples", "tenant": "acme"}, {"text": "apples", "tenant": "nobody"}):
    search_task.apply([query]).get()
for chore in CHORES:
    run_chore(resources(), chore)
print("done", flush=True)
input()
"""
# As little as can be counted.
COUNT = """
from worker import metricfiles, metrics
from worker.settings import load_settings
metricfiles.share(load_settings(), "ingest", 0, lambda: metricfiles.MAIN)
metrics.documents.labels("completed").inc()
print("done", flush=True)
input()
"""


@contextmanager
def running(forks: Forks, folder: Path, **environment: str) -> Iterator[str]:
    """Run an exporter on a port of its own; gives its address."""
    exporter, address = start(forks, folder / "exporter.log", **environment)
    try:
        yield address
    finally:
        exporter.terminate()
    assert exporter.wait() == 0


def start(forks: Forks, log: Path, **environment: str) -> tuple[Fork, str]:
    """Start an exporter; gives its address when it has said where it listens."""
    exporter = forks.start(["exporter"], log.parent, {**os.environ, **environment}, {"stderr": log})
    wait = Retrying(stop=stop_after_delay(60), wait=wait_fixed(0.02), retry=retry_if_result(bool))
    wait(lambda: exporter.poll() is None and "exporter.ready" not in log.read_text())
    found = re.search(r"exporter\.ready address=(\S+) port=(\d+)", log.read_text())
    assert found, log.read_text()
    return exporter, f"http://{found[1]}:{found[2]}"


@contextmanager
def worked(script: str, folder: Path) -> Iterator[None]:
    """Have work done in a folder by a process that lives while the block runs."""
    process = subprocess.Popen(
        [sys.executable, "-c", script],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=folder,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"done\n", process.communicate()[1].decode()
    try:
        yield
    finally:
        process.communicate(b"\n")


def get(url: str) -> tuple[int, str]:
    """Fetch a page as Prometheus does, which waits for 10 s; gives status and text."""
    try:
        response: HTTPResponse = urlopen(url, timeout=10)
    except HTTPError as error:
        return error.code, error.read().decode()
    with response:
        return response.status, response.read().decode()


def scrape(address: str) -> dict[str, dict[str, float]]:
    """Give the samples by name, each by its labels."""
    status, text = get(f"{address}/metrics")
    assert status == 200, text
    found: dict[str, dict[str, float]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            found.setdefault(sample.name, {})[_labels(sample.labels)] = sample.value
    return found


def _labels(labels: dict[str, str]) -> str:
    return ",".join(f"{name}={value}" for name, value in sorted(labels.items()))


def checks(address: str, question: str) -> tuple[int, dict[str, Any]]:
    """Ask a health page; gives the status, and the reasons by name of what fails."""
    status, body = get(f"{address}/health/{question}")
    found = json.loads(body)
    return status, {check["name"]: check["reason"] for check in found["checks"] if not check["ok"]}
