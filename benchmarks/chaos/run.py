"""One run: disturbed, then settled, then the same again undisturbed, then compared."""

import os
import random
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from benchmarks.chaos import summary
from benchmarks.chaos.answers import wrong_answers
from benchmarks.chaos.compare import difference, holdings
from benchmarks.chaos.embedded import Embedded
from benchmarks.chaos.faults import Scene
from benchmarks.chaos.fleet import TWO_OF_EVERYTHING, Fleet, Supervision
from benchmarks.chaos.invariants import INVALID, MOST_ATTEMPTS, TRIGGERS, Invariants
from benchmarks.chaos.producers import Producers, replay
from benchmarks.chaos.recovery import PROBES, Recoveries
from benchmarks.chaos.script import PROJECTS, TENANT
from benchmarks.chaos.servers import Servers
from benchmarks.chaos.storm import Storm
from benchmarks.report import Report, say
from worker.maintenance.reconcile import examine
from worker.producer import retry
from worker.resources import close_resources, resources

SETTLE_SECONDS, CALM_SECONDS, START_SECONDS = 300, 60, 60
_PRODUCERS = ("north", "south")
_ALONE = ("ingest-1", "maintenance-1", "beat-1")
_LEFT = """SELECT (SELECT count(*) FROM batches WHERE finished_at IS NULL) + (
        SELECT count(*) FROM documents WHERE status IN ('pending', 'processing') AND deleted_at IS NULL)"""
_NEWEST = "SELECT max(settled_at) FROM documents"
_UNDONE = """SELECT count(*) FROM documents JOIN tenants t USING (tenant_id)
    WHERE t.name = %s AND status <> 'completed'"""
_FAILED = """SELECT error_code FROM documents WHERE status = 'failed' AND deleted_at IS NULL"""


def run(_scale: float) -> Report:
    """Play SEED for MINUTES, or FAULTS of them."""
    seed = int(os.environ.get("SEED") or random.randrange(10_000))
    minutes = float(os.environ.get("MINUTES") or 5)
    most = int(os.environ.get("FAULTS") or 1_000_000)
    say(f"chaos: SEED={seed} MINUTES={minutes:g}")
    with ExitStack() as stack:
        name = os.environ.get("CHAOS_DIR") or stack.enter_context(
            tempfile.TemporaryDirectory(prefix="chaos-")
        )
        folder = Path(name).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        servers = stack.enter_context(Servers(folder))
        stack.callback(close_resources)
        found = _disturbed(servers, folder, seed, minutes * 60, most)
        report = Report("chaos", servers.versions(), {"SEED": seed, "MINUTES": minutes, **summary.settings()})
        _undisturbed(servers, folder, found)
    summary.fill(report, found, minutes)
    return report


def _disturbed(servers: Servers, folder: Path, seed: int, seconds: float, most: int) -> summary.Found:
    servers.use("disturbed", folder / "controller")
    servers.ask(TRIGGERS)
    environment = servers.proxied()
    fleet = Fleet(folder / "disturbed", TWO_OF_EVERYTHING, environment)
    with Supervision(fleet), Recoveries() as recoveries, Invariants() as invariants:
        _await_workers(servers, 2)
        producers = Producers(folder, seed, _PRODUCERS, environment)
        began = time.monotonic()
        storm = Storm(Scene(servers, fleet, random.Random(seed)), recoveries, seed)
        try:
            storm.rage(began + seconds, most)
        finally:
            storm.end()
            produced = producers.stop()
        seconds = time.monotonic() - began
        say(f"{storm.struck} faults in {seconds:.0f} s; all is left alone now")
        recoveries.calm(CALM_SECONDS)
        by_hand = _settle(servers)
        invariants.in_peace()
        # asked while the workers run: one that is ended in the middle of a build leaves it to the next
        if not _wait(lambda: not servers.ask(INVALID), CALM_SECONDS):
            invariants.violated["an invalid index at the end"] = len(servers.ask(INVALID))
    invariants.at_the_end()
    return summary.Found(
        seconds=seconds,
        recoveries=recoveries.all,
        stages=storm.stages,
        violated=+invariants.violated,
        asked=invariants.asked,
        produced=produced,
        wrong_answers=wrong_answers(folder, _PRODUCERS),
        unexpected=fleet.unexpected,
        stuck=servers.count(_LEFT),
        by_hand=by_hand,
        undone_probes=servers.count(_UNDONE, PROBES),
        findings=Counter(examine(resources(), None, lambda _: None)["found"]),
        embedded=Embedded.read(folder / "disturbed"),
        holdings=holdings(servers),
        most_attempts=servers.count(MOST_ATTEMPTS),
    )


def _undisturbed(servers: Servers, folder: Path, found: summary.Found) -> None:
    """Do what the journals say on an empty database, and compare."""
    say("the same submissions again, undisturbed")
    close_resources()
    servers.redis().flushall()
    servers.use("undisturbed", folder / "controller")
    with Supervision(Fleet(folder / "undisturbed", _ALONE, {})):
        _await_workers(servers, 1)
        for name in _PRODUCERS:
            replay(folder, name)
        _settle(servers)
    found.meant = holdings(servers)
    found.difference = difference(found.holdings, found.meant)
    found.undisturbed = Embedded.read(folder / "undisturbed")


def _await_workers(servers: Servers, count: int) -> None:
    alive = "SELECT count(*) FROM heartbeats WHERE kind = 'ingest'"
    if not _wait(lambda: servers.count(alive) >= count, START_SECONDS):
        raise RuntimeError("the workers did not start")


def _settle(servers: Servers) -> Counter[str]:
    """Wait until nothing is left to do, then try again what failed, as an operator does; gives why it did."""
    work_off(servers)
    failed = Counter(code for (code,) in servers.ask(_FAILED))
    if failed:
        for project in PROJECTS:
            retry(tenant=TENANT, project=project)
        work_off(servers)
    return failed


def work_off(servers: Servers, seconds: float = SETTLE_SECONDS) -> None:
    """Wait until nothing is left to do, or so long no document was settled."""
    while servers.count(_LEFT) and goes_on(servers, seconds):
        pass


def goes_on(servers: Servers, seconds: float) -> bool:
    """Wait until a document is settled, or nothing is left; False where that takes longer."""
    newest = servers.ask(_NEWEST)
    return _wait(lambda: not servers.count(_LEFT) or servers.ask(_NEWEST) != newest, seconds)


def _wait(holds: Callable[[], bool], seconds: float) -> bool:
    limit = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > limit:
            return False
        time.sleep(0.1)
    return True
