"""What PostgreSQL says of a filter is what is said of it here, whatever is stored and whatever is asked."""

import json
import operator
from collections.abc import Callable, Mapping
from decimal import Decimal
from functools import cache
from typing import Any
from uuid import UUID

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from sqlalchemy import Connection, text

from tests.integration.test_filters import INSERT, read
from tests.jsons import FINITE, STORED, STORED_TEXTS
from worker.db.filters import resolve
from worker.filtering import Condition, Filter

ORDERED: Mapping[str, Callable[[Any, Any], bool]] = {
    "gte": operator.ge, "gt": operator.gt, "lte": operator.le, "lt": operator.lt,
}  # fmt: skip
MISSING = object()

# Few keys and values often meet; any others do now and then.
KEYS = st.sampled_from(["v", "", "a"]) | STORED_TEXTS
SMALL = st.sampled_from([0, 1, 1.0, -0.0, 2**53, 2.0**53, 1e23, 10**23, True, False, None, "", "1", "a", "ä"])
LEAVES = SMALL | st.lists(SMALL, max_size=3) | st.dictionaries(KEYS, SMALL, max_size=2)
VALUES = LEAVES | st.lists(LEAVES, max_size=2) | st.dictionaries(KEYS, LEAVES, max_size=2) | STORED
SCALARS = SMALL.filter(lambda value: value is not None) | FINITE | STORED_TEXTS
BOUNDS = SCALARS.filter(lambda value: not isinstance(value, bool))
MANY = st.lists(SCALARS, min_size=1, max_size=2)
CONDITIONS = st.fixed_dictionaries(
    {},
    optional={
        "equals": VALUES, "contains": VALUES, "any": MANY, "all": MANY, "exists": st.booleans(),
        "gte": BOUNDS, "gt": BOUNDS, "lte": BOUNDS, "lt": BOUNDS,
    },
).filter(bool)  # fmt: skip
PARTS = st.sampled_from(["a", "/", "b", ".", "\\", "[", "\n"]) | st.characters(
    codec="utf-8", exclude_characters="\0"
)
PATHS = st.lists(PARTS, min_size=1, max_size=6).map("".join)
WILD = st.sampled_from(["*", "**", "**/", "?", "/", "***"])
GLOBS = st.lists(PARTS | WILD, min_size=1, max_size=6).map("".join)


@st.composite
def paths_and_globs(draw: st.DrawFn) -> tuple[set[str], list[str]]:
    """Paths, any pattern, and one of them with wildcards in the places of some letters."""
    stored = draw(st.sets(PATHS, min_size=1, max_size=5))
    path = draw(st.sampled_from(sorted(stored)))
    mask = st.lists(st.sampled_from(["", "", "?", "*", "**"]), min_size=len(path), max_size=len(path))
    near = "".join(wild or letter for wild, letter in zip(draw(mask), path, strict=True))
    return stored, draw(st.sampled_from([[near], [near, draw(GLOBS)], [draw(GLOBS)]]))


def same(one: Any, other: Any) -> bool:
    if isinstance(one, bool) or isinstance(other, bool) or one is None or other is None:
        return one is other
    if isinstance(one, int | float) and isinstance(other, int | float):
        return exact(one) == exact(other)
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(same, one, other))
    return isinstance(one, str) and isinstance(other, str) and one == other


def exact(number: float) -> Decimal:
    """A number as it is written: as such it is stored."""
    return Decimal(repr(number))


def contains(one: Any, other: Any) -> bool:
    """As the manual of PostgreSQL says of jsonb, 8.14.3: a list holds a scalar, too."""
    if isinstance(one, list) and not isinstance(other, list | dict):
        return any(same(item, other) for item in one)
    return contains_within(one, other)


def contains_within(one: Any, other: Any) -> bool:
    if isinstance(one, dict) and isinstance(other, dict):
        return all(key in one and contains_within(one[key], item) for key, item in other.items())
    if isinstance(one, list) and isinstance(other, list):
        return all(any(contains_within(mine, item) for mine in one) for item in other)
    return not isinstance(one, list | dict) and same(one, other)


def fulfils(value: Any, wanted: Condition) -> bool:
    if wanted.exists is not None and wanted.exists != (value is not MISSING):
        return False
    if value is MISSING:
        return not wanted.model_fields_set - {"exists"}
    limits = {name: getattr(wanted, name) for name in ORDERED if getattr(wanted, name) is not None}
    return (
        ("equals" not in wanted.model_fields_set or same(value, wanted.equals))
        and ("contains" not in wanted.model_fields_set or contains(value, wanted.contains))
        and (wanted.any is None or any(contains(value, one) for one in wanted.any))
        and (wanted.all is None or all(contains(value, one) for one in wanted.all))
        and all(is_ordered(value, limit, ORDERED[name]) for name, limit in limits.items())
    )


def is_ordered(value: Any, limit: Any, compare: Callable[[Any, Any], bool]) -> bool:
    if isinstance(value, str) and isinstance(limit, str):
        return compare(value, limit)
    numbers = isinstance(value, int | float) and not isinstance(value, bool) and not isinstance(limit, str)
    return numbers and compare(exact(value), exact(limit))


@cache
def matches(glob: str, path: str) -> bool:
    """Match letter by letter: `*` and `?` have no "/" in them, `**` has, `**/` is no folder or several."""
    if not glob:
        return not path
    stars = len(glob) - len(glob.lstrip("*"))
    rest = glob[stars:]
    if stars == 2 and rest.startswith("/"):
        folders = [0, *(n for n in range(1, len(path) + 1) if path[n - 1] == "/")]
        return any(matches(rest[1:], path[n:]) for n in folders)
    if stars:
        reach = len(path) if stars > 1 or "/" not in path else path.index("/")
        return any(matches(rest, path[n:]) for n in range(reach + 1))
    fits = path[:1] not in {"", "/"} if glob[0] == "?" else path[:1] == glob[0]
    return fits and matches(glob[1:], path[1:])


def lets_through(wanted: Filter, path: str, metadata: Mapping[str, Any]) -> bool:
    globs = wanted.source_path
    return (globs is None or any(matches(glob, path) for glob in globs)) and all(
        fulfils(metadata.get(key, MISSING), condition) for key, condition in wanted.metadata.items()
    )


@pytest.fixture
def asked(connection: Connection) -> Callable[[Mapping[str, Any], Filter], set[str]]:
    """Store documents of one chunk, {path: metadata}, alone; give the paths that a filter lets through."""
    made = connection.execute(text("INSERT INTO tenants (name) VALUES ('acme') RETURNING tenant_id"))
    tenant_id = UUID(str(made.scalar_one()))

    def run(documents: Mapping[str, Any], wanted: Filter) -> set[str]:
        connection.execute(text("DELETE FROM documents"))
        rows = {"paths": list(documents), "metadata": list(map(json.dumps, documents.values()))}
        connection.execute(text(INSERT), {"tenant_id": tenant_id, **rows})
        reach = resolve(connection, tenant_id, wanted, most=10_000)
        listed = connection.execute(
            text("SELECT source_path FROM documents WHERE document_id = ANY(CAST(:ids AS uuid[]))"),
            {"ids": reach.documents},
        )
        each = connection.execute(
            text(f"SELECT c.source_path FROM documents c {reach.join} WHERE {reach.condition}"),
            reach.parameters,
        )
        found = set(listed.scalars())
        assert found == set(each.scalars())
        return found

    return run


Asked = Callable[[Mapping[str, Any], Filter], set[str]]
in_one_database = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])


@in_one_database
@given(st.lists(st.dictionaries(KEYS, VALUES, max_size=3), min_size=1, max_size=5), KEYS, CONDITIONS)
def test_metadata_is_what_the_conditions_say(
    asked: Asked, stored: list[dict[str, Any]], key: str, condition: dict[str, Any]
) -> None:
    wanted = read({"metadata": {key: condition}})
    documents = {str(n): metadata for n, metadata in enumerate(stored)}
    assert asked(documents, wanted) == {
        path for path, metadata in documents.items() if lets_through(wanted, path, metadata)
    }


@in_one_database
@given(paths_and_globs())
@example(({"a", "\u0345", "²", "\u24b6"}, ["\u0345*", "?", "²**"]))
def test_paths_are_those_the_patterns_say(asked: Asked, given_in: tuple[set[str], list[str]]) -> None:
    stored, globs = given_in
    wanted = read({"source_path": globs})
    assert asked({path: {} for path in stored}, wanted) == {
        path for path in stored if lets_through(wanted, path, {})
    }
