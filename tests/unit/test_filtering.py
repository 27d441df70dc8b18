"""The language of filters: what is asked is read, or refused in a line; what is read has no SQL but ours."""

import re
from typing import Any
from uuid import UUID

from hypothesis import given
from hypothesis import strategies as st

from tests.jsons import ANYTHING, TEXTS, VALUES
from worker.db.conditions import Conditions
from worker.errors import IngestError
from worker.filtering import Condition, Filter, Period
from worker.queries import read_query
from worker.types import FileType

SCALARS = st.booleans() | st.integers() | st.floats(-1e9, 1e9) | TEXTS
BOUNDS = st.integers() | st.floats(-1e9, 1e9) | TEXTS
MANY = st.lists(SCALARS, min_size=1, max_size=3)
GLOBS = st.lists(TEXTS | st.sampled_from(["*", "**/", "?", "a/b"]), min_size=1, max_size=5).map("".join)
TIMES = st.datetimes().map(str) | st.dates().map(str)


def some(**fields: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    """Give an object of one or several of these fields."""
    return st.fixed_dictionaries({}, optional=fields).filter(bool)


def one_or_several(of: st.SearchStrategy[str]) -> st.SearchStrategy[Any]:
    return of | st.lists(of, min_size=1, max_size=3)


CONDITIONS = SCALARS | st.none() | some(
    equals=VALUES, any=MANY, all=MANY, contains=VALUES, exists=st.booleans(),
    gte=BOUNDS, gt=BOUNDS, lte=BOUNDS, lt=BOUNDS,
)  # fmt: skip
PERIODS = some(after=TIMES, before=TIMES)
FILTERS = some(
    project=one_or_several(TEXTS),
    documents=one_or_several(st.uuids().map(str)),
    source_path=one_or_several(GLOBS.filter(lambda glob: glob.replace("\0", "") != "")),
    file_type=one_or_several(st.sampled_from([kind.value for kind in FileType])),
    created=PERIODS,
    updated=PERIODS,
    modified=PERIODS,
    metadata=st.dictionaries(TEXTS, CONDITIONS, max_size=3),
    chunk_metadata=st.dictionaries(TEXTS, CONDITIONS, max_size=3),
)

# The same with anything anywhere: fields nobody knows, and values that belong elsewhere.
ODD_VALUES = ANYTHING | CONDITIONS | PERIODS | GLOBS | st.lists(GLOBS | TIMES, max_size=2)


def odd(*models: type[Any]) -> st.SearchStrategy[dict[str, Any]]:
    names = st.sampled_from([name for model in models for name in model.model_fields])
    return st.dictionaries(names | TEXTS, ODD_VALUES, max_size=3)


ODD_FILTERS = st.builds(
    lambda sound, other: {**sound, **other}, FILTERS, odd(Filter) | st.dictionaries(
        st.sampled_from(["metadata", "chunk_metadata", "created"]),
        odd(Condition, Period) | st.dictionaries(TEXTS, odd(Condition), max_size=2),
    )
)  # fmt: skip


@given(FILTERS)
def test_what_the_language_has_is_read(wanted: dict[str, Any]) -> None:
    query = read_query(text="x", filter=wanted)
    assert query.filter.model_fields_set == wanted.keys()
    assert read_query(query.as_json()) == query


@given(ODD_FILTERS | ANYTHING)
def test_what_it_has_not_is_refused_in_one_line(wanted: Any) -> None:
    try:
        query = read_query(text="x", filter=wanted)
    except IngestError as error:
        refused = str(error)
    else:
        assert read_query(query.as_json()) == query
        return
    assert refused.isprintable()
    assert len(refused) < 1000


VALUE = r":filter_\d+"
METADATA = r"(?:c\.metadata|coalesce\(d\.searched_metadata, d\.metadata\))"
FOUND = rf"\({METADATA} -> {VALUE}\)"
JSON = rf"CAST\({VALUE} AS jsonb\)"
ORDER = r"(?:>=|>|<=|<)"
MATCHED = rf"\((?:starts_with\(d\.source_path, {VALUE}\) AND )?d\.source_path ~ {VALUE}\)"
PATH = rf"(?:d\.source_key = {VALUE}|{MATCHED})"
AS_TEXT = rf'\({METADATA} ->> {VALUE}\) COLLATE "C"'
GRAMMAR = re.compile(
    "|".join([
        rf"[cd]\.project_id = ANY\({VALUE}\)",
        rf"d\.(?:document_id|file_type) = ANY\({VALUE}\)",
        rf"d\.(?:created_at|updated_at|source_modified_at) (?:>=|<) {VALUE}",
        rf"\({PATH}(?: OR {PATH})*\)",
        rf"{FOUND} (?:=|@>) {JSON}",
        rf"{FOUND} @> (?:ANY|ALL)\(CAST\({VALUE} AS jsonb\[\]\)\)",
        rf"(?:NOT )?{METADATA} \? {VALUE}",
        rf"\(jsonb_typeof\({FOUND}\) = 'number' AND {FOUND} {ORDER} {JSON}\)",
        rf"\(jsonb_typeof\({FOUND}\) = 'string' AND {AS_TEXT} {ORDER} {VALUE}\)",
    ])
)  # fmt: skip


@given(FILTERS)
def test_sql_of_a_filter_is_of_a_closed_grammar_and_all_values_are_bound(wanted: dict[str, Any]) -> None:
    found = read_query(text="x", filter=wanted).filter
    made = Conditions(found, [UUID(int=1)] if found.project else None)
    conditions = [*made.of_chunks, *made.of_projects, *made.of_metadata, *made.of_documents]
    assert all(map(GRAMMAR.fullmatch, conditions)), conditions
    assert set(re.findall(r"filter_\d+", " ".join(conditions))) == made.bound.keys()
