"""One run: a service under a steady load, looked at every few seconds."""

import os
import time
from collections import Counter
from collections.abc import Mapping

import psutil
from sqlalchemy import text

from benchmarks.report import Report, say
from benchmarks.rounds import Watch
from benchmarks.soak.load import TENANT, Load
from benchmarks.soak.processes import free_port, service
from benchmarks.soak.sampling import Sampler
from benchmarks.soak.slopes import Blocks
from benchmarks.soak.summary import Found, fill
from benchmarks.stack import Stack, running_stack
from worker.db.engine import transaction
from worker.maintenance.reconcile import examine
from worker.resources import resources

MINUTES, SHORTEST_SECONDS, LIVE, FEWEST = 10, 4.0, 2_000, 40
# Samples of a block, at least; seconds between two, at most.
SAMPLES, SAMPLE_SECONDS, TELL_SECONDS = 4, 5.0, 60
# What is due once an hour or a day, every 20 s: each process of a pool meets it soon, and often. Segments
# that are full within a minute or two; and limits of a minute for what is kept for so long, as the timers of
# tasks and the sessions of a pool are.
SETTINGS = {
    "SEGMENT_ROWS": "5000",
    "MAX_UNSEALED_ROWS": "",
    "VACUUM_SCHEDULE": "20",
    "INDEXES_SCHEDULE": "20",
    "REINDEX_SCHEDULE": "20",
    "RECALL_SCHEDULE": "20",
    "PURGE_SCHEDULE": "20",
    "RECONCILE_SCHEDULE": "20",
    "SPARES_SCHEDULE": "20",
    "SCHEDULE_JITTER": "0",
    "TASK_SOFT_TIME_LIMIT": "45",
    "TASK_TIME_LIMIT": "60",
    "VISIBILITY_TIMEOUT": "120",
    "MAX_DOCUMENT_SECONDS": "30",
    "DATABASE_POOL_RECYCLE": "60",
}
_HELD = """SELECT source_path, status, content, error_code FROM documents JOIN tenants USING (tenant_id)
    WHERE name = :tenant AND deleted_at IS NULL"""
# What is deleted was deleted as long ago as it is kept for: as much is purged as comes.
_LONG_AGO = """UPDATE documents SET deleted_at = deleted_at - make_interval(days => :days)
    WHERE deleted_at > now() - interval '1 day'"""


def run(scale: float) -> Report:
    minutes = float(os.environ.get("MINUTES") or MINUTES * scale)
    with running_stack(**SETTINGS, METRICS_PORT=str(free_port())) as stack:
        report = Report("soak", stack.versions(), stack.shown_settings() | {"MINUTES": minutes, **SETTINGS})
        load = Load(max(FEWEST, round(LIVE * min(scale, 1))), seed=1)
        with service(stack) as processes:
            stack.settle()
            blocks = Blocks(max(60 * minutes, SHORTEST_SECONDS))
            others = _watched(stack, load, processes, blocks)
            stack.settle()
            ended = [kind for kind, process in processes.items() if process.poll() is not None]
        held = _held(load)
        findings = Counter(examine(resources(), None, lambda _: None)["found"])
        found = Found(blocks, load.done, held, ended, findings, others, stack.settings)
    fill(report, found)
    return report


def _watched(stack: Stack, load: Load, processes: Mapping[str, psutil.Popen], blocks: Blocks) -> float:
    """Take samples while the load goes on; gives the share of the cores that others had."""
    say(f"{blocks.total:.0f} s, with the warm-up")
    pause = min(SAMPLE_SECONDS, blocks.total / len(blocks.samples) / SAMPLES)
    told = begun = time.monotonic()
    with Watch() as watch, Sampler(stack, processes) as sampler, load.going_on():
        while (at := time.monotonic() - begun) < blocks.total:
            time.sleep(pause)
            blocks.add(at, sampler.sample() | load.waits())
            _age_deleted(stack)
            if time.monotonic() - told > TELL_SECONDS:
                told = time.monotonic()
                say(f"{at / 60:.0f} minutes, {dict(load.done)}")
    return watch.others


def _age_deleted(stack: Stack) -> None:
    with transaction(resources().engine) as connection:
        connection.execute(text(_LONG_AGO), {"days": stack.settings.deleted_retention_days})


def _held(load: Load) -> Counter[str]:
    """Compare what is in the database with what was submitted last; gives what is amiss, by kind."""
    with transaction(resources().engine) as connection:
        rows = {row.source_path: row for row in connection.execute(text(_HELD), {"tenant": TENANT})}
    expected = load.expected()
    amiss = Counter(missing=len(expected.keys() - rows.keys()), extra=len(rows.keys() - expected.keys()))
    for path, row in rows.items():
        if row.status != "completed":
            amiss[f"{row.status}: {row.error_code}"] += 1
        elif bytes(row.content).decode() != expected.get(path):
            amiss["of an earlier edition"] += 1
    return +amiss
