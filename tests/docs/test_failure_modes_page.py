"""docs/failure-modes.md against the repository: each test and each kind of fault it names is there."""

import re
from collections import Counter
from pathlib import Path

from benchmarks.chaos.faults import kinds
from worker.settings import Settings

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs/failure-modes.md").read_text()
ROWS = re.findall(r"^\| (?!what goes wrong|---)(.*?) \|$", TEXT, re.MULTILINE)


def test_every_test_it_names_is_one_of_the_suite() -> None:
    sources = [path.read_text() for path in (ROOT / "tests").rglob("test_*.py")]
    known = Counter(
        name for source in sources for name in re.findall(r"^def (test_\w+)\(", source, re.MULTILINE)
    )
    named = set(re.findall(r"`(test_\w+)`", TEXT))
    assert {name: known[name] for name in named if known[name] != 1} == {}


def test_every_fault_it_names_is_struck_by_the_chaos_run() -> None:
    assert set(re.findall(r"\*\*(.*?)\*\*", TEXT)) - {kind.name for kind in kinds()} == set()


def test_every_row_says_where_it_is_tried() -> None:
    assert len(ROWS) > 30
    assert [row for row in ROWS if not re.search(r"`test_|\*\*|#soak", row.rpartition(" | ")[2])] == []


def test_every_setting_it_names_is_one() -> None:
    settings = set(re.findall(r"`([A-Z]+_[A-Z_]+)`", TEXT))
    assert settings - {name.upper() for name in Settings.model_fields} == set()
