"""What may be asked of a search: read once, checked once, the same on every way in.

A Query is made by `read_query`, travels as JSON (`Query.as_json`) and comes out equal. Each field says
what it takes; what does not fit becomes an IngestError of one line that names the field and says so.
"""

from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Annotated, Any, Self

from pydantic import Field, ValidationError, model_validator
from pydantic_core import ErrorDetails, PydanticCustomError

from worker.errors import IngestError
from worker.filtering import CONDITION, KEYED, LONGEST_GLOB, MOST_NAMED, PARTS, Filter, Ids, Names, Request
from worker.steps.fusion import WEIGHTS
from worker.steps.storable import storable
from worker.types import Metric

MOST_RESULTS = 1000
LONGEST_QUERY = 20_000
MOST_NEIGHBOURS = 5
_MOST_NUMBERS = 4000  # no database holds longer vectors
_LONGEST_NAME = 10_000
_DEEPEST = 20
_SHOWN = 60
_SHOWN_NUMBER = 10**30
_EMPTY = "the query is empty"


class Mode(StrEnum):
    """What ranks the chunks."""

    HYBRID = "hybrid"
    VECTOR = "vector"
    KEYWORD = "keyword"


class Fusion(StrEnum):
    """How two rankings become one."""

    MINMAX = "minmax"
    RRF = "rrf"


_WEIGHT = "a number from 0 to 1,000,000"
_FLAG = "true or false"
_IDS = f"the id of a chunk or document, or a list of up to {MOST_NAMED:,}"
_PROJECT = f"a name, or a list of 1 to {MOST_NAMED:,} names"

Weight = Annotated[float, Field(strict=True, ge=0, le=1e6, allow_inf_nan=False)]
Number = Annotated[float, Field(strict=True, allow_inf_nan=False)]
Name = Annotated[str, Field(max_length=_LONGEST_NAME)]


class Weights(Request):
    """How much each ranking counts."""

    vector: Weight = Field(default=WEIGHTS["vector"], description=_WEIGHT)
    keyword: Weight = Field(default=WEIGHTS["keyword"], description=_WEIGHT)

    @model_validator(mode="after")
    def _not_both_nothing(self) -> Self:
        if not self.vector and not self.keyword:
            raise PydanticCustomError("said", "weights must be above 0 for vector, for keyword or for both")
        return self


class Query(Request):
    """One search. `text`, `vector` or `like` say what for: one of them is needed.

    Similarity is to `vector`, to the mean of the chunks and documents in `like`, or else to `text`;
    words are those of `text`. `mode` is hybrid where there is a text, else vector.
    """

    text: str | None = Field(
        default=None, max_length=LONGEST_QUERY, description=f"a text of up to {LONGEST_QUERY:,} characters"
    )
    vector: tuple[Number, ...] | None = Field(
        default=None,
        min_length=1,
        max_length=_MOST_NUMBERS,
        description=f"a list of up to {_MOST_NUMBERS:,} numbers, none of them NaN or infinity",
    )
    like: Ids | None = Field(default=None, description=_IDS)
    mode: Mode = Field(default=Mode.HYBRID, description=f"one of {', '.join(Mode)}")
    k: int = Field(
        10, strict=True, ge=1, le=MOST_RESULTS, description=f"a whole number between 1 and {MOST_RESULTS}"
    )
    metric: Metric | None = Field(default=None, description=f"one of {', '.join(Metric)}")
    fusion: Fusion = Field(default=Fusion.MINMAX, description=f"one of {', '.join(Fusion)}")
    weights: Weights = Field(default=Weights(), description='{"vector": number, "keyword": number}')
    language: str | None = Field(
        default=None, min_length=1, max_length=50, description="the name of a language, as english"
    )
    filter: Filter = Field(default=Filter(), description="an object of conditions")
    group_by_document: bool = Field(default=False, strict=True, description=_FLAG)
    neighbours: int = Field(
        default=0,
        strict=True,
        ge=0,
        le=MOST_NEIGHBOURS,
        description=f"a whole number between 0 and {MOST_NEIGHBOURS}",
    )
    explain: bool = Field(default=False, strict=True, description=_FLAG)
    record: bool = Field(default=False, strict=True, description=_FLAG)
    user: str | None = Field(default=None, max_length=200, description="a name of up to 200 characters")
    tenant: Name = Field(default="default", description="a name")
    project: Names | None = Field(default=None, description=_PROJECT)

    @model_validator(mode="before")
    @classmethod
    def _default_mode(cls, given: Any) -> Any:
        if not isinstance(given, Mapping) or given.get("mode") is not None:
            return given
        text = given.get("text")
        return {**given, "mode": Mode.HYBRID if isinstance(text, str) and text else Mode.VECTOR}

    @model_validator(mode="after")
    def _asks_for_something(self) -> Self:
        if self.text == "" or (self.text is None and self.vector is None and self.like is None):
            raise PydanticCustomError(
                "said", _EMPTY if self.text == "" else "a query needs text, vector or like"
            )
        if self.vector is not None and self.like is not None:
            raise PydanticCustomError("said", "vector and like both say what to be near to: give one of them")
        if self.mode is not Mode.VECTOR and self.text is None:
            raise PydanticCustomError("said", "mode must be vector where there is no text")
        if self.project is not None and self.filter.project is not None:
            raise PydanticCustomError("said", "project must be given once: beside the filter or in it")
        return self

    @property
    def projects(self) -> tuple[str, ...] | None:
        """The names of the projects it is limited to, wherever they were given."""
        return self.project if self.project is not None else self.filter.project

    def as_json(self) -> dict[str, Any]:
        """Give what `read_query` makes an equal one of: only strings, numbers, lists and objects."""
        return self.model_dump(mode="json", exclude_unset=True)


_PARTS: Mapping[str, type[Request]] = {**PARTS, "weights": Weights}


def read_query(given: Mapping[str, Any] | None = None, /, **fields: Any) -> Query:
    """Make a Query of a JSON object, or of named fields; a field that is None counts as not given.

    NULs are removed from every text, and lone surrogates replaced: no database holds them. In a name a NUL is
    replaced, too: removed, it would make another field of it, say the tenant's of one a gateway let pass.
    Raises IngestError with one line that names the first field that does not fit.
    """
    if given is not None and not isinstance(given, Mapping):
        raise IngestError(f"a query is an object with fields, not {_shown(given)}")
    named = {**(given or {}), **fields}
    known = {_name(key): value for key, value in named.items() if value is not None}
    cleaned = {key: _listed(value) if key == "vector" else _clean(value, key) for key, value in known.items()}
    if isinstance(cleaned.get("text"), str):
        cleaned["text"] = cleaned["text"].strip()
        _refuse_long(cleaned["text"])
        if not cleaned["text"] and {"vector", "like"} & cleaned.keys():
            del cleaned["text"]
    try:
        return Query.model_validate(cleaned)
    except ValidationError as error:
        raise IngestError(*_explained(error.errors(include_url=False)[0])) from None


def _refuse_long(text: str) -> None:
    if len(text) > LONGEST_QUERY:
        said = f"the query has {len(text):,} characters; {LONGEST_QUERY:,} are allowed"
        raise IngestError(said, "give the words that matter")


def _listed(vector: Any) -> Any:
    """Take an array of NumPy, which needs no cleaning, for a list."""
    return vector.tolist() if hasattr(vector, "tolist") else vector


def _name(key: Any) -> str:
    return storable(str(key).replace("\0", "\ufffd"))


_NAMES = frozenset({"tenant", "project"})  # one that is cleaned may be another's


def _clean(value: Any, field: str, depth: int = 0) -> Any:
    if depth > _DEEPEST:
        raise IngestError(f"{_shown(field)} is nested over {_DEEPEST} deep")
    if isinstance(value, str):
        if field in _NAMES and storable(value) != value:
            raise IngestError(f"there is no {field} {value!r:.200}", "`ingest status` lists what there is")
        return storable(value)
    if isinstance(value, Mapping):
        return {_name(key): _clean(item, field, depth + 1) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_clean(item, field, depth + 1) for item in value]
    return value


def _explained(error: ErrorDetails) -> tuple[str, str]:
    """Say in one line which field is wrong and what it takes; and, where it helps, what to do."""
    if error["type"] == "said":
        return error["msg"], "give some words to look for" if error["msg"] == _EMPTY else ""
    path, model, allowed = _place(error["loc"])
    if error["loc"][-1] == "[key]" and error["type"] == "string_too_long":
        most = f"{LONGEST_GLOB:,} are allowed"
        return f"a name in {'.'.join(path[:-1])} has {len(error['input']):,} characters; {most}", ""
    where = ".".join(path)
    if error["type"] == "extra_forbidden":
        field, fields = _shown(str(error["loc"][-1])), ", ".join(model.model_fields)
        return f"{where or 'a query'} has no field {field}; it has {fields}", ""
    return f"{where} is {_shown(error['input'])}; it must be {allowed}", ""


def _place(location: Sequence[int | str]) -> tuple[list[str], type[Request], str]:
    """Follow the names down to a field: the names, the object it is in or holds, and what it takes."""
    path: list[str] = []
    model: type[Request] = Query
    allowed, key_is_next = "", False
    for part in map(str, location):
        field = model.model_fields.get(part)
        if key_is_next:
            path.append(_shown(part))
            allowed, key_is_next = CONDITION, False
        elif field is None:
            break
        else:
            path.append(part)
            allowed, key_is_next = field.description or "", part in KEYED
            model = _PARTS.get(part, model)
    return path, model, allowed


def _shown(value: Any) -> str:
    """Write what was given, in one short line."""
    if isinstance(value, Mapping | list | tuple):
        kind = "an object" if isinstance(value, Mapping) else "a list"
        return f"{kind} of {len(value):,}"
    if isinstance(value, int) and abs(value) > _SHOWN_NUMBER:
        return "a number too large"
    written = repr(value)
    return written if len(written) <= _SHOWN else f"{written[:_SHOWN]}… ({len(str(value)):,} characters)"
