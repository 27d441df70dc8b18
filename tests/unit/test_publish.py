"""What a benchmark found goes to its place in the docs, and nowhere else."""

import json
from pathlib import Path

import pytest

from benchmarks import publish

PAGE = (
    "before\n<!-- chaos -->\nearlier\n<!-- end -->\nbetween\n<!-- recall -->\nearlier\n<!-- end -->\nafter\n"
)


@pytest.fixture(autouse=True)
def _found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(publish, "OUT", tmp_path)
    found = {
        "machine": {"cpu": "some", "cores": 2, "ram_gib": 4, "os": "Linux"},
        "versions": {"python": "3", "postgres": "18", "pgvector": "0.8", "valkey": "9"},
        "settings": {},
        "figures": {"by kind": [{"fault": "kill", "count": 1234}], "seconds": 7},
        "demands": [{"name": "lost", "demanded": "0", "measured": 0, "holds": True}],
    }
    for name in ("chaos", "recall"):
        (tmp_path / f"{name}.json").write_text(json.dumps(found))


def places(page: str) -> list[str]:
    return [place["name"] for place in publish.PLACE.finditer(page) if "1,234" in place[0]]


def test_all_figures_go_to_their_places() -> None:
    page = publish.filled(PAGE)
    assert places(page) == ["chaos", "recall"]
    assert [publish.PLACE.sub("", page), page.count("earlier")] == [publish.PLACE.sub("", PAGE), 0]
    assert publish.filled(page) == page


def test_those_that_are_named_go_alone() -> None:
    page = publish.filled(PAGE, ["chaos"])
    assert places(page) == ["chaos"]
    assert page.partition("between")[2] == PAGE.partition("between")[2]


def test_what_was_not_measured_stays(tmp_path: Path) -> None:
    (tmp_path / "recall.json").unlink()
    assert places(publish.filled(PAGE)) == ["chaos"]


def test_a_run_of_a_seed_says_its_settings(tmp_path: Path) -> None:
    assert "LEASE" not in publish.filled(PAGE)
    path = tmp_path / "chaos.json"
    settings = {"SEED": 7, "MINUTES": 24.0, "LEASE_SECONDS": 4}
    path.write_text(json.dumps(json.loads(path.read_text()) | {"settings": settings}))
    assert publish.filled(PAGE).count("\n\nSEED=7, MINUTES=24, LEASE_SECONDS=4.\n\n") == 1
