"""docs/operations/ against the code: every reason a document can have, and every chore."""

import ast
import re
from functools import cache
from pathlib import Path

from worker.errors import DocumentError, SkipDocument, TransientError
from worker.maintenance.run import CHORES

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs/operations/README.md").read_text()
MAINTENANCE = (ROOT / "docs/operations/maintenance.md").read_text()
ENDS = {"skipped": SkipDocument, "failed": DocumentError, "tried again": TransientError}
# refused at submission: the receipt names them, no row does
AT_SUBMISSION = {"no_source_path", "bad_metadata", "bad_language", "bad_trace"}
# written by chores, in SQL: there is nothing left that could raise them
BY_CHORES = {"worker_lost", "damaged"}


@cache
def calls() -> list[ast.Call]:
    trees = [ast.parse(path.read_text()) for path in (ROOT / "worker").rglob("*.py")]
    return [node for tree in trees for node in ast.walk(tree) if isinstance(node, ast.Call)]


def raised(error: type[DocumentError]) -> set[str]:
    """The codes this error is made with anywhere in the program."""
    return {
        str(call.args[0].value)
        for call in calls()
        if isinstance(call.func, ast.Name) and call.func.id == error.__name__ and call.args
        if isinstance(call.args[0], ast.Constant)
    }


def test_every_reason_is_in_the_table() -> None:
    rows = re.findall(r"^\| `(\w+)` \| ([a-z ]+) \| \S.*\. \|$", TEXT, re.MULTILINE)
    for ending, error in ENDS.items():
        documented = {code for code, end in rows if end == ending}
        assert documented - BY_CHORES == raised(error) - AT_SUBMISSION, ending
    assert {code for code, _ in rows} >= BY_CHORES
    assert all(f"`{code}`" in TEXT for code in AT_SUBMISSION)


def test_every_chore_is_in_the_table() -> None:
    assert re.findall(r"^\| `(\w+)` \| `[A-Z_]+_SCHEDULE` \|", MAINTENANCE, re.MULTILINE) == list(CHORES)
