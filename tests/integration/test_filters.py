"""What each condition of a filter lets through, of documents with every kind of value and path."""

import json
import os
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import Connection, text

from worker.db.filters import projects_named, resolve
from worker.errors import IngestError
from worker.filtering import Filter
from worker.queries import read_query

CORPORA = os.environ.get("CORPORA", "")
INSERT = """
    INSERT INTO documents (tenant_id, filename, source_path, source_key, file_type, language, status,
                           content_hash, fingerprint, total_chunks, claimed_version, settled_at, metadata)
    SELECT :tenant_id, 'f', path, sha256(convert_to(path, 'UTF8')), 'text', 'english', 'completed',
           sha256(convert_to(path, 'UTF8')), sha256('f'), 1, 1, now(), CAST(metadata AS jsonb)
    FROM unnest(CAST(:paths AS text[]), CAST(:metadata AS text[])) i(path, metadata)"""

Put = Callable[..., None]
Paths = Callable[..., set[str]]


@pytest.fixture
def tenant_id(connection: Connection) -> UUID:
    made = connection.execute(text("INSERT INTO tenants (name) VALUES ('acme') RETURNING tenant_id"))
    return UUID(str(made.scalar_one()))


@pytest.fixture
def put(connection: Connection, tenant_id: UUID) -> Put:
    """Record documents of one chunk: {source path: metadata}, or only their paths."""

    def run(documents: dict[str, Any] | Iterable[str]) -> None:
        given = documents if isinstance(documents, dict) else {path: {} for path in documents}
        metadata = [json.dumps(value) for value in given.values()]
        connection.execute(text(INSERT), {"tenant_id": tenant_id, "paths": list(given), "metadata": metadata})

    return run


def read(wanted: dict[str, Any]) -> Filter:
    return read_query(text="x", filter=wanted).filter


@pytest.fixture
def paths(connection: Connection, tenant_id: UUID) -> Paths:
    """Give the paths of the documents that a filter lets through, on both ways it is asked."""

    def run(**wanted: Any) -> set[str]:
        reach = resolve(connection, tenant_id, read(wanted), most=10_000)
        listed = connection.execute(
            text("SELECT source_path FROM documents WHERE document_id = ANY(CAST(:ids AS uuid[]))"),
            {"ids": reach.documents},
        )
        one_by_one = connection.execute(
            text(f"""SELECT c.source_path FROM documents c {reach.join}
                     WHERE {reach.condition} AND c.total_chunks IS NOT NULL"""),
            reach.parameters,
        )
        found = set(listed.scalars())
        assert found == set(one_by_one.scalars())
        assert (reach.chunks, reach.counted) == (len(found), True)
        return found

    return run


# -- metadata --------------------------------------------------------------------------------------

VALUES: dict[str, Any] = {
    "missing": {},
    "null": {"v": None},
    "five": {"v": 5},
    "five and a half": {"v": 5.5},
    "large": {"v": 10**20},
    "text five": {"v": "5"},
    "word": {"v": "word"},
    "date": {"v": "2024-06-01"},
    "umlaut": {"v": "ä"},
    "true": {"v": True},
    "list": {"v": [5, "word", True]},
    "empty list": {"v": []},
    "lists": {"v": [[5], {"a": 1}]},
    "object": {"v": {"a": 1, "b": [1, 2], "word": 5}},
    "other key": {"V": 5, "v ": 5},
}


@pytest.mark.parametrize(
    ("condition", "expected"),
    [
        (5, "five"),
        (5.0, "five"),
        ("5", "text five"),
        (True, "true"),
        (None, "null"),
        (10**20, "large"),
        ({"equals": [5, "word", True]}, "list"),
        ({"equals": {"b": [1, 2], "a": 1, "word": 5}}, "object"),
        ({"equals": []}, "empty list"),
        ({"any": [5]}, "five, list"),
        ({"any": ["word", "5"]}, "word, text five, list"),
        ({"any": [True]}, "true, list"),
        ({"any": ["a", 1]}, ""),
        ({"all": [5, "word"]}, "list"),
        ({"all": [5]}, "five, list"),
        ({"all": [5, 6]}, ""),
        ({"contains": {"a": 1}}, "object"),
        ({"contains": {"b": [2]}}, "object"),
        ({"contains": {}}, "object"),
        ({"contains": [[5]]}, "lists"),
        ({"contains": []}, "list, empty list, lists"),
        ({"contains": 5}, "five, list"),
        ({"exists": True}, ", ".join(set(VALUES) - {"missing", "other key"})),
        ({"exists": False}, "missing, other key"),
        ({"gte": 5}, "five, five and a half, large"),
        ({"gt": 5, "lt": 6}, "five and a half"),
        ({"lte": 5}, "five"),
        ({"lt": 1e300}, "five, five and a half, large"),
        ({"gte": ""}, "text five, word, date, umlaut"),
        ({"gte": "2024", "lt": "2025"}, "date"),
        ({"gte": "z"}, "umlaut"),
        ({"gte": "5", "lte": "5"}, "text five"),
        ({"gte": 5, "equals": "5"}, ""),
        ({"gte": 5, "lt": "x"}, ""),
        ({"exists": False, "gte": 0}, ""),
    ],
)
def test_value_is_what_the_condition_says(condition: Any, expected: str, put: Put, paths: Paths) -> None:
    put(VALUES)
    assert paths(metadata={"v": condition}) == set(filter(None, expected.split(", ")))


def test_all_conditions_must_hold(put: Put, paths: Paths) -> None:
    put({"one": {"a": 1, "b": 1}, "two": {"a": 1, "b": 2}, "three": {"b": 2}})
    assert paths(metadata={"a": 1, "b": {"gte": 2}}) == {"two"}
    assert paths(metadata={"a": 1}, source_path="t*") == {"two"}
    assert paths(metadata={str(n): {"exists": False} for n in range(50)}) == {"one", "two", "three"}


# -- paths -----------------------------------------------------------------------------------------

PATHS = [
    "a.md", "docs/a.md", "docs/b.txt", "docs/deep/a.md", "docs/deep/er/a.md", "docs/axmd", "Docs/a.md",
    "docs/ä.md", "docs/100%.md", "docs/under_score.md", r"docs\a.md", "docs/[a].md", "docs/(a|b).md",
    "docs/new\nline.md", "docs/*.md", "/abs/a.md", "s3://bucket/key/a.md", "docs/.md", "docs/😀.md",
]  # fmt: skip


@pytest.mark.parametrize(
    ("glob", "expected"),
    [
        ("a.md", ["a.md"]),
        ("docs/a.md", ["docs/a.md"]),
        ("docs/?.md", ["docs/a.md", "docs/ä.md", "docs/*.md", "docs/😀.md"]),
        ("docs/*.txt", ["docs/b.txt"]),
        ("docs/a*", ["docs/a.md", "docs/axmd"]),
        ("docs/*/a.md", ["docs/deep/a.md"]),
        ("docs/**/a.md", ["docs/a.md", "docs/deep/a.md", "docs/deep/er/a.md"]),
        ("docs/deep/**", ["docs/deep/a.md", "docs/deep/er/a.md"]),
        ("**/er/*", ["docs/deep/er/a.md"]),
        ("*", ["a.md", r"docs\a.md"]),
        ("**", PATHS),
        ("**/**/**", PATHS),
        ("docs/100%*", ["docs/100%.md"]),
        ("docs/under_*", ["docs/under_score.md"]),
        ("docs/under?score.md", ["docs/under_score.md"]),
        (r"docs\*", [r"docs\a.md"]),
        ("docs/[a]*", ["docs/[a].md"]),
        ("docs/(a|b)*", ["docs/(a|b).md"]),
        ("docs/new*", ["docs/new\nline.md"]),
        ("docs/new?line.md", ["docs/new\nline.md"]),
        ("s3://*/*/*.md", ["s3://bucket/key/a.md"]),
        ("/**", ["/abs/a.md"]),
        ("docs/", []),
        ("ocs/*", []),
        ("?", []),
    ],
)
def test_pattern_matches_as_in_a_shell(glob: str, expected: list[str], put: Put, paths: Paths) -> None:
    put(PATHS)
    assert paths(source_path=glob) == set(expected)


def test_one_of_several_patterns_is_enough(put: Put, paths: Paths) -> None:
    put(PATHS)
    assert paths(source_path=["a.md", "docs/b.*", "nothing/**"]) == {"a.md", "docs/b.txt"}


@pytest.mark.parametrize(
    "glob", ["*a" * 100, "**a" * 99, "**/?" * 50, "?*" * 50, "**/a" * 100, "[" * 1999 + "*", "(" * 1999 + "?"]
)
@pytest.mark.timeout(60)  # tried one by one, the ways to match them take years
def test_patterns_of_many_wildcards_end(glob: str, put: Put, paths: Paths) -> None:
    stored = ["a/" * 400 + str(n) for n in range(200)] + ["x" * 2000]
    put(stored)
    assert paths(source_path=glob) <= set(stored)


def naughty() -> list[str]:
    if not CORPORA:
        warnings.warn("CORPORA is not set: the naughty strings are not read", stacklevel=1)
        return ["'; DROP TABLE documents; --", "\\", "%", ":x", "%(x)s", "{0}", "$1", "😀", "\u202e", "a\nb"]
    lines = json.loads(Path(CORPORA, "nasty/blns/blns.json").read_text())
    return list(dict.fromkeys(line for line in lines if line.strip()))


@pytest.mark.parametrize("part", range(8))
def test_naughty_strings_are_names_like_any_other(part: int, put: Put, paths: Paths) -> None:
    lines = naughty()[part::8]  # each is compared with all others of its part
    cleaned = [str(read({"project": line}).project[0]) for line in lines]  # type: ignore[index] # given
    put({line: {line: line, "v": line, "l": ["x", line]} for line in cleaned})
    for line, stored in zip(lines, cleaned, strict=True):
        if not {"*", "?"} & set(line):
            assert paths(source_path=line) == {stored}
            assert stored in paths(source_path=f"{line[:1900]}*")
        value = {"equals": line, "any": [line], "gte": line, "lte": line}
        conditions = {line: {**value, "exists": True}, "v": value, "l": {"all": ["x", line]}}
        assert paths(metadata=conditions) == {stored}


# -- counting --------------------------------------------------------------------------------------


def test_counting_stops_when_it_is_enough(put: Put, connection: Connection, tenant_id: UUID) -> None:
    put({str(n): {"n": n} for n in range(500)})
    for most, wanted, known in ((100, 100, True), (99, 100, False), (500, 500, True), (10, 500, False)):
        reach = resolve(connection, tenant_id, read({"metadata": {"n": {"lt": wanted}}}), most=most)
        assert reach.counted is known
        assert reach.chunks == wanted if known else most < reach.chunks <= wanted
        assert (reach.documents is not None) is known
    whole = resolve(connection, tenant_id, Filter(), most=10)
    assert (whole.counted, whole.documents, whole.join, whole.condition) == (
        False,
        None,
        "",
        "c.tenant_id = :tenant_id",
    )
    told = resolve(connection, tenant_id, Filter(), tenant_chunks=12_345, most=10)
    assert (told.chunks, told.counted) == (12_345, True)


def test_twins_of_one_content_count_once(put: Put, paths: Paths, connection: Connection) -> None:
    put(["owner", "other"])
    connection.execute(
        text("""
            INSERT INTO documents (tenant_id, filename, source_path, source_key, file_type, language, status,
                                   content_hash, duplicate_of, claimed_version, settled_at)
            SELECT tenant_id, 'twin', 'twin' || n, sha256(('twin' || n)::bytea), 'text', 'english',
                   'duplicate', content_hash, document_id, 1, now()
            FROM documents CROSS JOIN generate_series(1, 50) n WHERE source_path = 'owner'""")
    )
    assert paths(source_path="twin*") == {"owner"}
    assert paths(source_path=["twin1", "other"]) == {"owner", "other"}
    connection.execute(text("UPDATE documents SET deleted_at = now() WHERE source_path = 'twin1'"))
    assert paths(source_path="twin1") == set()


def test_documents_without_chunks_do_not_count(put: Put, paths: Paths, connection: Connection) -> None:
    put(["done", "waiting"])
    connection.execute(
        text("""UPDATE documents SET status = 'pending', settled_at = NULL, fingerprint = NULL,
                                     total_chunks = NULL WHERE source_path = 'waiting'""")
    )
    assert paths(source_path="**") == {"done"}


def test_projects_are_found_by_name_or_named(connection: Connection, tenant_id: UUID) -> None:
    made = connection.execute(
        text("""INSERT INTO projects (tenant_id, name) VALUES (:id, 'a'), (:id, 'b')
                RETURNING project_id"""),
        {"id": tenant_id},
    )
    first, second = made.scalars()
    assert projects_named(connection, tenant_id, ["b", "a", "b"]) == [second, first]
    with pytest.raises(IngestError, match="there is no project 'c'"):
        projects_named(connection, tenant_id, ["a", "c", "d"])
