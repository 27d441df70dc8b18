"""Where a process keeps its metrics for the exporter: value files in DATA_DIR/metrics, by slot.

    ingest.0.lock                     held by a worker while it lives, and by the pool that it forks
    counter_ingest.0.main.db          what its parent process counts
    histogram_ingest.0.1.db           what the process at place 1 of its pool times
    gauge_liveall_ingest.0.1.db       how that process is; counts only while the lock is held

A slot is the first number whose lock is free, over all containers and users that share the folder. The
processes of a pool are replaced often, and workers at each deploy: the next one goes on with the files, so
that counters go on and there are never more files than processes at once.
"""

import fcntl
import json
import logging
import sys
from collections.abc import Callable
from pathlib import Path
from typing import IO

from prometheus_client import values
from prometheus_client.mmap_dict import MmapedDict

from worker.metrics import begin_at_zero
from worker.settings import Settings, export

log = logging.getLogger(__name__)

MAIN = "main"
# Allocated at once: a process that writes into a hole of a mapped file on a full disk is killed (SIGBUS).
FILE_BYTES = 128 << 10
_PREFIXES = ("counter", "histogram", "gauge_liveall")
_GAUGE = "gauge"
_MOST_WORKERS = 1000
_held: list["Slot"] = []


def folder_of(settings: Settings) -> Path:
    """Give the folder of the value files."""
    return settings.data_dir / "metrics"


class Slot:
    """The right of one worker and its pool to write the files of one number. Raises OSError."""

    def __init__(self, folder: Path, kind: str, processes: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.name, self._lock = _claim(folder, kind)
        for left in folder.glob(f"{_GAUGE}_*_{self.name}.*.db"):  # of a larger pool
            left.unlink()
        for member in (MAIN, *map(str, range(processes))):
            for prefix in _PREFIXES:
                _prepare(self._file(prefix, member))

    def _file(self, prefix: str, member: str) -> Path:
        return self.folder / f"{prefix}_{self.name}.{member}.db"

    def forget_gauges(self, member: str) -> None:
        """Empty the gauges of the process that was at this place before. Raises OSError."""
        _fill(self._file("gauge_liveall", member), "r+b")


def share(settings: Settings, kind: str, processes: int, member: Callable[[], str]) -> None:
    """Keep the metrics of this process and of the pool it forks in files, from here on.

    `member` tells the processes of one worker apart: MAIN, or a place in the pool. Where files cannot be
    kept, that is said, and metrics stay in memory, where nobody sees them.
    """
    folder = folder_of(settings)
    try:
        slot = Slot(folder, kind, processes)
    except OSError as error:
        log.warning("metrics.unkept", extra={"path": folder, "reason": error.strerror})
        return
    _held.append(slot)
    export({"PROMETHEUS_MULTIPROC_DIR": str(folder)})
    shared = values.MultiProcessValue(lambda: f"{slot.name}.{member()}")  # type: ignore[no-untyped-call]
    values.ValueClass = shared
    begin_at_zero()


def begin_member(member: str) -> None:
    """Begin a process of the pool: how its predecessor was is over."""
    for slot in _held:
        try:
            slot.forget_gauges(member)
        except OSError as error:
            log.warning("gauges.unemptied", extra={"reason": error.strerror})


def value_files(folder: Path) -> list[Path]:
    """Give the files that count: all counters and histograms, and the gauges of workers that live."""
    alive = {lock.stem for lock in folder.glob("*.lock") if _is_held(lock)}
    return [
        file
        for file in sorted(folder.glob("*.db"))
        if not file.name.startswith(_GAUGE) or _slot(file) in alive
    ]


def is_sound(file: Path) -> bool:
    """Tell whether a value file can be read: a power cut leaves anything."""
    try:
        with file.open("rb") as opened:
            used = int.from_bytes(opened.read(4), sys.byteorder, signed=True)
        found = MmapedDict.read_all_values_from_file(str(file))  # type: ignore[no-untyped-call]
        for key, *_ in found:
            json.loads(key)
    except Exception:  # noqa: BLE001 -- OSError, struct.error, ValueError, RuntimeError: as the bytes fall
        return False
    return used >= 0


def _slot(file: Path) -> str:
    return file.stem.rpartition("_")[2].rpartition(".")[0]


def _claim(folder: Path, kind: str) -> tuple[str, IO[bytes]]:
    """Lock the first free number; gives the slot's name, and the file by which it is held."""
    for number in range(_MOST_WORKERS):
        name = f"{kind}.{number}"
        file = (folder / f"{name}.lock").open("ab")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
        else:
            return name, file
    raise OSError(None, f"{_MOST_WORKERS} workers hold every slot")


def _is_held(lock: Path) -> bool:
    try:
        with lock.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def _prepare(file: Path) -> None:
    """Make a value file, or keep the one of before where it is sound."""
    if not (file.exists() and file.stat().st_size >= FILE_BYTES and is_sound(file)):
        _fill(file, "wb")


def _fill(file: Path, mode: str) -> None:
    with file.open(mode) as opened:
        opened.write(bytes(FILE_BYTES))
