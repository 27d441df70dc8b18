"""What a search is limited to: conditions on chunks and on the documents they are of."""

import re
from collections.abc import Mapping
from datetime import UTC, date, datetime
from typing import Annotated, Any, Self
from uuid import UUID

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    JsonValue,
    StrictBool,
    StrictFloat,
    StrictInt,
    StrictStr,
    model_validator,
)
from pydantic_core import PydanticCustomError

from worker.types import FileType

MOST_NAMED = 1000
MOST_KEYS = 50
MOST_GLOBS = 30  # PostgreSQL keeps the last 32 regular expressions: more would be compiled for each document
LONGEST_GLOB = 2000
_DEEPEST = 10
_LARGEST = 65_536
_LARGEST_NUMBER = 1e300
_LONGEST_NAME = 10_000
_WILDCARD = re.compile(r"\*+|\?")
_MOST_WILDCARDS = 100


class Request(BaseModel):
    """A part of a request: frozen, and without a field that it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid")


def _several(value: Any) -> Any:
    """Take one for a list of one."""
    return (value,) if isinstance(value, str | UUID) else value


def _moment(value: Any) -> Any:
    """Refuse numbers, also as a string: pydantic would take them for seconds, or for milliseconds."""
    if not isinstance(value, date) and not (isinstance(value, str) and "-" in value[1:]):
        raise ValueError("no date")
    return value


def _in_utc(value: datetime) -> datetime:
    return value.replace(tzinfo=UTC) if value.tzinfo is None else value


def _bounded(value: Any, depth: int = 0) -> Any:
    """Refuse what JSON or jsonb cannot hold, and what is deeper than anybody needs."""
    if depth > _DEEPEST:
        raise ValueError("nested too deep")
    if isinstance(value, int | float) and not abs(value) <= _LARGEST_NUMBER:  # NaN is not, either
        raise ValueError("no finite number")
    if isinstance(value, Mapping | list):
        for item in value.values() if isinstance(value, Mapping) else value:
            _bounded(item, depth + 1)
    return value


Names = Annotated[
    tuple[Annotated[str, Field(max_length=_LONGEST_NAME)], ...],
    BeforeValidator(_several),
    Field(min_length=1, max_length=MOST_NAMED),
]
Ids = Annotated[tuple[UUID, ...], BeforeValidator(_several), Field(min_length=1, max_length=MOST_NAMED)]


def _matchable(glob: str) -> str:
    """Refuse what takes a regular expression seconds to match."""
    if len(_WILDCARD.findall(glob)) > _MOST_WILDCARDS:
        raise ValueError("too many wildcards")
    return glob


Glob = Annotated[str, Field(min_length=1, max_length=LONGEST_GLOB), AfterValidator(_matchable)]
Globs = Annotated[tuple[Glob, ...], BeforeValidator(_several), Field(min_length=1, max_length=MOST_GLOBS)]
FileTypes = Annotated[
    tuple[FileType, ...], BeforeValidator(_several), Field(min_length=1, max_length=MOST_KEYS)
]
Moment = Annotated[datetime, BeforeValidator(_moment), AfterValidator(_in_utc)]
Value = Annotated[JsonValue, BeforeValidator(_bounded)]
Scalar = Annotated[StrictStr | StrictBool | StrictInt | StrictFloat, BeforeValidator(_bounded)]
Scalars = Annotated[tuple[Scalar, ...], Field(min_length=1, max_length=MOST_NAMED)]
Bound = Annotated[StrictStr | StrictInt | StrictFloat, BeforeValidator(_bounded)]

_TIME = "a date or time as in ISO 8601, with hyphens"
_BOUND = "a finite number, or a string such as a date in ISO form"
_SCALARS = f"a list of 1 to {MOST_NAMED:,} strings, finite numbers or booleans"
_VALUE = f"a value of JSON, nested at most {_DEEPEST} deep, its numbers finite"
_CONDITION = "a value, or an object of equals, any, all, contains, exists, gte, gt, lte, lt"


class Period(Request):
    """From `after` on, and earlier than `before`. A time without a zone is in UTC."""

    after: Moment | None = Field(default=None, description=_TIME)
    before: Moment | None = Field(default=None, description=_TIME)

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        if self.after is None and self.before is None:
            raise ValueError("nothing said")
        return self


class Condition(Request):
    """What the value under a key of metadata must be; all that is given must hold.

    A value alone means `equals`. A missing key fulfils `exists: false` and nothing else. Numbers compare
    with numbers and strings with strings, by code points. `any` and `all` look into a list, too: it has
    any, or all, of the values; a value that is no list is taken for a list of one.
    """

    equals: Value = Field(default=None, description=_VALUE)
    any: Scalars | None = Field(default=None, description=_SCALARS)
    all: Scalars | None = Field(default=None, description=_SCALARS)
    contains: Value = Field(default=None, description=_VALUE)
    exists: StrictBool | None = Field(default=None, description="true or false")
    gte: Bound | None = Field(default=None, description=_BOUND)
    gt: Bound | None = Field(default=None, description=_BOUND)
    lte: Bound | None = Field(default=None, description=_BOUND)
    lt: Bound | None = Field(default=None, description=_BOUND)

    @model_validator(mode="before")
    @classmethod
    def _value_means_equals(cls, given: Any) -> Any:
        if isinstance(given, list):  # equal to it, or has any of it? Nobody should have to guess.
            raise ValueError("ambiguous")  # noqa: TRY004 -- what pydantic turns into its own
        return given if isinstance(given, Mapping | Condition) else {"equals": given}

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        said = {"equals", "contains"} & self.model_fields_set  # null is a value to these
        if not said and all(getattr(self, name) is None for name in self.model_fields_set):
            raise ValueError("nothing said")
        return self


Key = Annotated[str, Field(max_length=LONGEST_GLOB)]
Conditions = Annotated[dict[Key, Condition], Field(max_length=MOST_KEYS)]

_NAMES = f"a name, or a list of 1 to {MOST_NAMED:,} names"
_IDS = f"the id of a document, or a list of 1 to {MOST_NAMED:,}"
_GLOBS = (
    f"a pattern of 1 to {LONGEST_GLOB:,} characters with up to {_MOST_WILDCARDS} of * ? **,"
    f" or a list of up to {MOST_GLOBS}"
)
_FILE_TYPES = f"one or several of {', '.join(FileType)}"
_PERIOD = '{"after": time, "before": time}, with one or both'
_CONDITIONS = f"an object of up to {MOST_KEYS} keys, each with {_CONDITION}"


class Filter(Request):
    """What a chunk, and the document it is of, must be. All that is given must hold.

    What is said of the document may also hold for a duplicate of it: that has the same content.
    """

    project: Names | None = Field(default=None, description=_NAMES)
    documents: Ids | None = Field(default=None, description=_IDS)
    source_path: Globs | None = Field(default=None, description=_GLOBS)
    file_type: FileTypes | None = Field(default=None, description=_FILE_TYPES)
    created: Period | None = Field(default=None, description=_PERIOD)
    updated: Period | None = Field(default=None, description=_PERIOD)
    modified: Period | None = Field(default=None, description=_PERIOD)
    metadata: Conditions = Field(default_factory=dict, description=_CONDITIONS)
    chunk_metadata: Conditions = Field(default_factory=dict, description=_CONDITIONS)

    @model_validator(mode="after")
    def _is_small(self) -> Self:
        for name in ("metadata", "chunk_metadata"):
            said = len(self.model_dump_json(include={name}, exclude_unset=True))
            if said > _LARGEST:
                raise PydanticCustomError(
                    "said",
                    "filter.{name} has {said} characters of JSON; {most} are allowed",
                    {"name": name, "said": f"{said:,}", "most": f"{_LARGEST:,}"},
                )
        return self


# Where a field holds another object: what that is. Under these names stand keys first.
PARTS: Mapping[str, type[Request]] = {
    "filter": Filter,
    **dict.fromkeys(("created", "updated", "modified"), Period),
    **dict.fromkeys(("metadata", "chunk_metadata"), Condition),
}
KEYED = ("metadata", "chunk_metadata")
CONDITION = _CONDITION
