"""`.env.example` against the settings: every one explained, every default as it is."""

import re
from pathlib import Path

import pytest
from pydantic_core import PydanticUndefined

from worker.settings import Settings

ROOT = Path(__file__).parents[2]
REQUIRED = {"DATABASE_URL": "postgresql://", "BROKER_URL": "redis://"}
TEXT = (ROOT / ".env.example").read_text()
LINES = TEXT.splitlines()
ASSIGNMENT = re.compile(r"# (?P<name>[A-Z][A-Z_]+)=(?P<value>.*)")
SHOWN = {found["name"]: found["value"] for line in LINES if (found := ASSIGNMENT.fullmatch(line))}
FIELDS = {name.upper(): name for name in Settings.model_fields}


def bare(monkeypatch: pytest.MonkeyPatch, **values: str) -> Settings:
    """Settings from these values alone: neither the environment nor a .env of this machine counts."""
    for name in FIELDS:
        monkeypatch.delenv(name, raising=False)
    for name, value in values.items():
        monkeypatch.setenv(name, value)
    return Settings()  # type: ignore[call-arg] # the environment gives them


def test_every_setting_is_shown_once() -> None:
    names = [found["name"] for line in LINES if (found := ASSIGNMENT.fullmatch(line))]
    assert len(names) == len(set(names))
    assert FIELDS.keys() <= set(names)


def test_every_value_shown_is_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = {name: value for name, value in SHOWN.items() if name in FIELDS} | REQUIRED
    assert bare(monkeypatch, **shown) == bare(monkeypatch, **REQUIRED)


def test_only_settings_without_a_value_are_shown_empty() -> None:
    empty = {name for name, value in SHOWN.items() if not value and name in FIELDS}
    defaults = {name: Settings.model_fields[FIELDS[name]].default for name in empty}
    assert all(default in (None, (), "") for default in defaults.values()), defaults


def test_the_required_settings_are_the_urls() -> None:
    fields = Settings.model_fields
    required = {name for name, field in FIELDS.items() if fields[field].default is PydanticUndefined}
    assert required == REQUIRED.keys()
    assert all(SHOWN[name].startswith(scheme) for name, scheme in REQUIRED.items())


def test_every_setting_has_its_explanation_above_it() -> None:
    for number, line in enumerate(LINES):
        if ASSIGNMENT.fullmatch(line):
            above = LINES[number - 1]
            assert re.fullmatch(r"# \w.*[.;]", above), f"{line}: nothing explains it"


def test_the_file_sets_nothing_by_itself() -> None:
    assert [line for line in LINES if line and not line.startswith("#")] == []


def test_every_other_name_is_one_that_compose_reads() -> None:
    read = set(re.findall(r"\$\{([A-Z_]+)", (ROOT / "docker-compose.yml").read_text()))
    assert read - FIELDS.keys() == SHOWN.keys() - FIELDS.keys()
