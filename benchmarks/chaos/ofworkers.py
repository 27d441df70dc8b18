"""Faults of processes: killed, stopped, told to end, with a wrong clock."""

import signal
import time
from collections.abc import Sequence
from contextlib import suppress
from functools import partial

import psutil

from benchmarks.chaos.faults import LEASE_SECONDS, Kind, Scene, Struck, signal_each
from benchmarks.chaos.fleet import BEATS, INGEST, INTERACTIVE, MAINTENANCE, SEARCH
from benchmarks.chaos.recovery import Hit, hit_by

_WORKERS = (*INGEST, *INTERACTIVE)
_BUSY_SECONDS, _STAGE_SECONDS, _LOOK_SECONDS = 1.5, 0.3, 0.004
STAGES = ("claim", "load", "chunk", "plan", "embed", "write")
_BUSY = "SELECT worker FROM batches WHERE state = 'running'"


def _busy(scene: Scene) -> str:
    """Choose a worker that ingests, one with a batch if there is one soon; then let it come some way."""
    limit = time.monotonic() + _BUSY_SECONDS
    while time.monotonic() < limit:
        workers = {row[0] for row in scene.servers.ask(_BUSY)}
        of = {name: f"-{scene.fleet.pid(name)}@" for name in _WORKERS}
        busy = [name for name, sign in of.items() if any(sign in worker for worker in workers)]
        if busy:
            time.sleep(scene.chance.uniform(0, _STAGE_SECONDS))
            return scene.chance.choice(busy)
        time.sleep(0.02)
    return scene.chance.choice(_WORKERS)


def _hit(scene: Scene, name: str) -> Hit:
    return hit_by(scene.servers, scene.fleet.pid(name))


def kill_child(scene: Scene) -> Struck:
    """Kill one at a stage that chance chooses, if one comes to it soon."""
    name, child = _at_stage(scene, scene.chance.choice(STAGES))
    if child is None:
        return Struck()
    with suppress(psutil.NoSuchProcess):
        child.kill()
    return Struck(_hit(scene, name), stages=[scene.fleet.stage(child.pid)])


def _at_stage(scene: Scene, stage: str) -> tuple[str, psutil.Process | None]:
    children = [(name, child) for name in _WORKERS for child in scene.fleet.children(name)]
    limit = time.monotonic() + _BUSY_SECONDS
    while time.monotonic() < limit:
        for name, child in children:
            if scene.fleet.stage(child.pid) == stage:
                return name, child
        time.sleep(_LOOK_SECONDS)
    name = _busy(scene)
    return name, scene.fleet.child(name, scene.chance)


def kill_any_child(names: Sequence[str], scene: Scene) -> Struck:
    child = scene.fleet.child(scene.chance.choice(names), scene.chance)
    with suppress(psutil.NoSuchProcess):
        if child:
            child.kill()
    return Struck()


def _stages(scene: Scene, *names: str) -> list[str]:
    return [scene.fleet.stage(child.pid) for name in names for child in scene.fleet.children(name)]


def end_worker(number: signal.Signals, scene: Scene) -> Struck:
    name = _busy(scene)
    hit, stages = _hit(scene, name), _stages(scene, name)
    scene.fleet.send(name, number)
    return Struck(hit, stages=stages if number == signal.SIGKILL else [])


def kill_both(scene: Scene) -> Struck:
    hit = [one for name in INGEST for one in _hit(scene, name)]
    stages = _stages(scene, *INGEST)
    for name in INGEST:
        scene.fleet.send(name, signal.SIGKILL)
    return Struck(hit, stages=stages)


def kill_any(names: Sequence[str], scene: Scene) -> Struck:
    scene.fleet.send(scene.chance.choice(names), signal.SIGKILL)
    return Struck()


def kill_beats(scene: Scene) -> Struck:
    for name in BEATS:
        scene.fleet.send(name, signal.SIGKILL)
    return Struck()


def stop_beats(seconds: float, scene: Scene) -> Struck:
    """Stop both: another would do the work of one."""
    return _stopped([psutil.Process(scene.fleet.pid(name)) for name in BEATS], (), seconds)


def stop_worker(seconds: float, scene: Scene) -> Struck:
    name = _busy(scene)
    hit = _hit(scene, name)
    family = [psutil.Process(scene.fleet.pid(name)), *scene.fleet.children(name)]
    return _stopped(family, hit, seconds)


def stop_child(seconds: float, scene: Scene) -> Struck:
    name = _busy(scene)
    child = scene.fleet.child(name, scene.chance)
    return _stopped([child] if child else [], _hit(scene, name), seconds)


def stop_chore(seconds: float, scene: Scene) -> Struck:
    child = scene.fleet.child(scene.chance.choice(MAINTENANCE), scene.chance)
    return _stopped([child] if child else [], (), seconds)


def _stopped(family: Sequence[psutil.Process], hit: Hit, seconds: float) -> Struck:
    signal_each(family, signal.SIGSTOP)
    return Struck(hit, seconds, partial(signal_each, family, signal.SIGCONT))


def shift_clock(scene: Scene) -> Struck:
    name = scene.chance.choice([*INGEST, *MAINTENANCE])
    hit = _hit(scene, name)
    scene.fleet.wrong_clock(name, scene.chance.choice((-86_400, -300, 300, 86_400)))
    scene.fleet.send(name, signal.SIGKILL)
    return Struck(hit)


_LONG, _SHORT = LEASE_SECONDS + 2, LEASE_SECONDS / 2

KINDS = (
    Kind("worker: child kill -9", kill_child, often=12),
    Kind("worker: parent kill -9", partial(end_worker, signal.SIGKILL), often=4),
    Kind("worker: both kill -9", kill_both),
    Kind("worker: SIGTERM, warm", partial(end_worker, signal.SIGTERM), often=3),
    Kind("worker: SIGQUIT, cold", partial(end_worker, signal.SIGQUIT), often=2),
    Kind("worker: stopped past its lease", partial(stop_worker, _LONG), often=2, on="stop"),
    Kind("worker: child stopped past its lease", partial(stop_child, _LONG), often=3, on="stop"),
    Kind("worker: stopped for a moment", partial(stop_worker, _SHORT), often=2, on="stop"),
    Kind("worker: started with a wrong clock", shift_clock, often=2),
    Kind("maintenance: child kill -9", partial(kill_any_child, MAINTENANCE), often=6),
    Kind("maintenance: child stopped", partial(stop_chore, _LONG), often=2, on="stop"),
    Kind("maintenance: parent kill -9", partial(kill_any, MAINTENANCE)),
    Kind("search: parent kill -9", partial(kill_any, SEARCH)),
    Kind("search: child kill -9", partial(kill_any_child, SEARCH), often=2),
    Kind("beat: kill -9", partial(kill_any, BEATS), often=2),
    Kind("beat: both kill -9", kill_beats),
    Kind("beat: stopped", partial(stop_beats, _LONG), often=2, on="beat"),
)
