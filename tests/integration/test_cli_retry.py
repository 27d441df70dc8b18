"""`ingest retry`: which documents are tried again, by each of the ways to choose them."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, text

from tests.conftest import Run
from worker.errors import Exit
from worker.producer import Document, submit

PROJECTS = {"one": None, "two": None, "three": "handbooks", "four": "manuals"}

Again = Callable[..., set[str]]


@pytest.fixture
def ids(tmp_path: Path, drain: Callable[[], dict[str, int]]) -> dict[str, str]:
    """The ids of failed documents, by name."""
    found = {
        name: str(submit([Document.found(tmp_path / name, 1, 1)], project=project).document_ids[0])
        for name, project in PROJECTS.items()
    }
    assert drain() == {"failed": len(PROJECTS)}
    return found


@pytest.fixture
def again(ingest: Run, drain: Callable[[], dict[str, int]], connection: Connection) -> Again:
    """Run `ingest retry`; gives the names of what is tried again, which fails again."""

    def run(*arguments: str) -> set[str]:
        done = ingest("retry", *arguments, "--json")
        assert done.returncode == Exit.OK, done.stderr
        found = connection.execute(text("SELECT filename FROM documents WHERE status = 'pending'"))
        names: set[str] = set(found.scalars())
        said: Any = json.loads(done.stdout)
        assert said == {"documents": len(names)}
        assert drain() == {"failed": len(names)}
        return names

    return run


def test_by_id(ids: dict[str, str], again: Again) -> None:
    assert again(ids["one"]) == {"one"}
    assert again(ids["one"], ids["two"]) == {"one", "two"}
    assert again(ids["three"]) == {"three"}
    assert again(ids["three"], "--project", "handbooks") == {"three"}


def test_by_project_code_and_time(ids: dict[str, str], again: Again, ingest: Run) -> None:
    assert again("--project", "handbooks") == {"three"}
    assert again("--project", "manuals", "--all") == {"four"}
    assert again("--project", "manuals", "--code", "not_found", "--since", "1h") == {"four"}
    assert again("--code", "not_found") == {"one", "two"}
    assert again("--all") == {"one", "two"}
    for nothing in (
        [ids["three"], "--project", "manuals"],
        ["--project", "manuals", "--until", "1h"],
        ["--project", "manuals", "--code", "too_large"],
    ):
        assert ingest("retry", *nothing).returncode == Exit.FINDINGS
    assert ingest("retry", "--project", "none").returncode == Exit.USAGE
