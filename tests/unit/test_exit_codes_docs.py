"""docs/operations/exit-codes.md against `errors.Exit`."""

import re
from pathlib import Path

from worker.errors import Exit

PAGE = Path(__file__).parents[2] / "docs/operations/exit-codes.md"


def test_the_table_is_the_enum() -> None:
    rows = re.findall(r"^\| (\d+) \| `([A-Z]+)` \| (\S.*\.) \|$", PAGE.read_text(), re.MULTILINE)
    assert [(int(code), name) for code, name, _ in rows] == [(exit_.value, exit_.name) for exit_ in Exit]
