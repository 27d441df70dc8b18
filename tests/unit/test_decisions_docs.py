"""docs/decisions: every option of `worker/app.py` has its reason, every page its place in the list."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "docs/decisions"
PAGE = (FOLDER / "0002-celery-settings.md").read_text()
PAGES = sorted(page.name for page in FOLDER.glob("0*.md"))
SOURCE = ast.parse((ROOT / "worker/app.py").read_text())


def options(function: str) -> set[str]:
    """The keys of the dictionary that a function of worker/app.py returns."""
    found = next(
        node for node in ast.walk(SOURCE) if isinstance(node, ast.FunctionDef) and node.name == function
    )
    returned = next(node.value for node in found.body if isinstance(node, ast.Return))
    assert isinstance(returned, ast.Dict)
    return {str(key.value) for key in returned.keys if isinstance(key, ast.Constant)}


def test_every_option_of_celery_has_its_reason() -> None:
    celery, transport = (
        set(re.findall(r"^\| `(\w+)` \|", part, re.MULTILINE)) for part in PAGE.split("Of the transport")
    )
    assert celery == options("configuration")
    assert transport == options("_transport")


def test_every_page_is_listed_under_its_title() -> None:
    titles = [(FOLDER / name).read_text().partition("\n")[0].removeprefix("# ") for name in PAGES]
    listed = re.findall(r"^- \[(.+)\]\((.+)\)$", (FOLDER / "README.md").read_text(), re.MULTILINE)
    assert listed == list(zip(titles, PAGES, strict=True))
    assert [name[:4] for name in PAGES] == [f"{number:04}" for number in range(1, len(PAGES) + 1)]


@pytest.mark.parametrize("name", PAGES)
def test_a_page_says_what_was_seen_decided_and_refused(name: str) -> None:
    text = (FOLDER / name).read_text()
    assert re.findall(r"^\*\*(\w+)\.\*\*", text, re.MULTILINE) == ["Context", "Decision", "Refused"]
