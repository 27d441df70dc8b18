"""docs/database/README.md against the models: every table, column, index and constraint, and no other."""

import re
from pathlib import Path

import pytest
from sqlalchemy import PrimaryKeyConstraint

from worker.db import autovacuum, policies, segments
from worker.db.documents import TRANSITIONS
from worker.db.models import BATCH_STATES, SEGMENT_STATES, schema
from worker.types import EmbeddingType

DOCS = Path(__file__).parents[2] / "docs"
TABLES = schema(256, EmbeddingType.VECTOR).tables
TEXT = (DOCS / "database/README.md").read_text()
SECTIONS = dict(re.findall(r"^### (\w+)\n(.*?)(?=^##|\Z)", TEXT, re.MULTILINE | re.DOTALL))


def rows(section: str, heading: str) -> list[str]:
    """The names in the first column of the table under this heading."""
    table = re.search(rf"^\| {heading} \|.*\n\|[-|]+\n((?:\|.*\n?)+)", section, re.MULTILINE)
    assert table is not None
    return re.findall(r"^\| `(\w+)` \|", table[1], re.MULTILINE)


def test_every_table_has_a_section() -> None:
    assert SECTIONS.keys() - {"alembic_version"} == TABLES.keys()


@pytest.mark.parametrize("name", TABLES)
def test_every_column_is_explained(name: str) -> None:
    assert rows(SECTIONS[name], "Column") == [column.name for column in TABLES[name].columns]


@pytest.mark.parametrize("name", TABLES)
def test_every_index_and_constraint_is_explained(name: str) -> None:
    table = TABLES[name]
    expected = {str(index.name) for index in table.indexes}
    no_key = PrimaryKeyConstraint  # which every table has an empty one of
    expected |= {str(rule.name) for rule in table.constraints if rule.name or not isinstance(rule, no_key)}
    documented = rows(SECTIONS[name], "Index or constraint")
    assert set(documented) == expected
    assert len(documented) == len(expected)


def test_the_tables_and_functions_of_row_level_security_are_named() -> None:
    section = TEXT.partition("\n## Tenants\n")[2].partition("\n## ")[0]
    assert policies.MINE in section
    listed = " ".join(section.partition("Row-level security")[0].split())
    assert re.findall(r"`(\w+)`", listed) == list(policies.TENANT_TABLES)
    assert re.findall(r"^\| `(.+?)` \|", section, re.MULTILINE) == list(policies.FUNCTIONS)


def test_every_parameter_of_autovacuum_has_its_reason() -> None:
    section = TEXT.partition("\n## Autovacuum\n")[2].partition("\n## ")[0]
    documented = re.findall(
        r"^\| (?:leaves of )?`(\w+)` \| `([\w.]+)` \| ([-\d.]+) \| \S", section, re.MULTILINE
    )
    leaves = {"chunks": autovacuum.CHUNKS_LEAF, "postings": autovacuum.POSTINGS_LEAF}
    expected = [
        (table, name, str(value))
        for table, options in {**autovacuum.TABLES, **leaves}.items()
        for name, value in options.items()
    ]
    assert documented == expected


def drawing(heading: str) -> set[tuple[str, str]]:
    """The arrows of a state machine in docs/architecture.md."""
    text = (DOCS / "architecture.md").read_text()
    drawn = re.search(
        rf"^### {heading}\n.*?^```mermaid\nstateDiagram-v2\n(.*?)^```", text, re.MULTILINE | re.DOTALL
    )
    assert drawn is not None
    return set(re.findall(r"^ +(\S+) --> (\S+)", drawn[1], re.MULTILINE))


def test_the_drawing_of_documents_is_the_table_of_transitions() -> None:
    allowed = {(before.value, to.value) for to, befores in TRANSITIONS.items() for before in befores}
    assert drawing("Documents") == allowed | {("[*]", "pending")}


def test_the_drawing_of_segments_is_the_table_of_transitions() -> None:
    allowed = {(b.value, to.value) for to, befores in segments.TRANSITIONS.items() for b in befores}
    assert drawing("Segments") == allowed | {("[*]", "spare"), ("[*]", "trash")}


@pytest.mark.parametrize(("heading", "states"), [("Batches", BATCH_STATES), ("Segments", SEGMENT_STATES)])
def test_the_drawings_have_the_states_of_the_database(heading: str, states: tuple[str, ...]) -> None:
    drawn = {state for arrow in drawing(heading) for state in arrow}
    assert drawn - {"[*]"} == set(states)
