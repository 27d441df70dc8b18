"""A Filter as conditions in SQL, on rows `c` of chunks and `d` of documents.

Values are bound, never written into a statement. None of the conditions can fail, whatever is stored:
jsonb is compared as jsonb, and its type is asked for beside it.
"""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

from worker.filtering import Condition, Filter, Period
from worker.steps.fingerprint import source_key

_WILDCARD = re.compile(r"(?:\*\*/)+|\*+|\?")
_ORDERED = {"gte": ">=", "gt": ">", "lte": "<=", "lt": "<"}


# Of a chunk, and of a document: while an edit of it is under way, or has failed, what its chunks came with.
_METADATA = {"c": "c.metadata", "d": "coalesce(d.searched_metadata, d.metadata)"}


class Conditions:
    """The conditions of one filter, and what is bound in them. `projects`: the ids of those it names.

    A chunk is of its document's project: `of_projects` says of documents what `of_chunks` says of chunks.
    """

    def __init__(self, wanted: Filter, projects: Sequence[UUID] | None = None) -> None:
        self.bound: dict[str, Any] = {}
        self.of_chunks = self._projects("c", projects)
        self.of_projects = self._projects("d", projects)
        self.of_metadata = self._metadata("c", wanted.chunk_metadata)
        self.of_documents = [
            *self._ids(wanted.documents),
            *self._paths(wanted.source_path),
            *self._types(wanted),
            *self._times("created_at", wanted.created),
            *self._times("updated_at", wanted.updated),
            *self._times("source_modified_at", wanted.modified),
            *self._metadata("d", wanted.metadata),
        ]

    def _bind(self, value: Any) -> str:
        name = f"filter_{len(self.bound)}"
        self.bound[name] = value
        return f":{name}"

    def _projects(self, row: str, projects: Sequence[UUID] | None) -> list[str]:
        return [] if projects is None else [f"{row}.project_id = ANY({self._bind(list(projects))})"]

    def _ids(self, documents: Sequence[UUID] | None) -> list[str]:
        return [] if documents is None else [f"d.document_id = ANY({self._bind(list(documents))})"]

    def _types(self, wanted: Filter) -> list[str]:
        if wanted.file_type is None:
            return []
        return [f"d.file_type = ANY({self._bind([kind.value for kind in wanted.file_type])})"]

    def _times(self, column: str, period: Period | None) -> list[str]:
        ends = () if period is None else ((">=", period.after), ("<", period.before))
        return [f"d.{column} {sign} {self._bind(end)}" for sign, end in ends if end is not None]

    def _paths(self, globs: Sequence[str] | None) -> list[str]:
        return [] if globs is None else [f"({' OR '.join(map(self._path, globs))})"]

    def _path(self, glob: str) -> str:
        start = _WILDCARD.split(glob, maxsplit=1)[0]
        if start == glob:
            return f"d.source_key = {self._bind(source_key(glob))}"
        begins = f"starts_with(d.source_path, {self._bind(start)}) AND " if start else ""
        return f"({begins}d.source_path ~ {self._bind(as_regex(glob))})"

    def _metadata(self, row: str, wanted: Mapping[str, Condition]) -> list[str]:
        return [part for key, condition in wanted.items() for part in self._value(row, key, condition)]

    def _value(self, row: str, key: str, wanted: Condition) -> list[str]:
        column, name = _METADATA[row], self._bind(key)
        value, given = f"({column} -> {name})", wanted.model_fields_set
        parts = []
        if "equals" in given:
            parts.append(f"{value} = {self._json(wanted.equals)}")
        if "contains" in given:
            parts.append(f"{value} @> {self._json(wanted.contains)}")
        if wanted.any is not None:  # a list of jsonb contains a scalar, too: PostgreSQL manual, 8.14.3
            parts.append(f"{value} @> ANY({self._jsons(wanted.any)})")
        if wanted.all is not None:
            parts.append(f"{value} @> ALL({self._jsons(wanted.all)})")
        if wanted.exists is not None:
            parts.append(f"{'' if wanted.exists else 'NOT '}{column} ? {name}")
        for bound, sign in _ORDERED.items():
            if (limit := getattr(wanted, bound)) is not None:
                parts.append(self._range(value, f"({column} ->> {name})", sign, limit))
        return parts

    def _range(self, value: str, as_text: str, sign: str, limit: str | float) -> str:
        if isinstance(limit, str):
            found = f'{as_text} COLLATE "C" {sign} {self._bind(limit)}'
            return f"(jsonb_typeof({value}) = 'string' AND {found})"
        return f"(jsonb_typeof({value}) = 'number' AND {value} {sign} {self._json(limit)})"

    def _json(self, value: Any) -> str:
        return f"CAST({self._bind(_written(value))} AS jsonb)"

    def _jsons(self, values: Sequence[Any]) -> str:
        return f"CAST({self._bind([_written(value) for value in values])} AS jsonb[])"


def as_regex(glob: str) -> str:
    """Write a pattern as a regular expression of PostgreSQL that matches whole paths.

    `*` and `?` stand for what has no "/" in it, `**` for anything, `**/` for no folder or several.
    """
    written, end = [], 0
    for found in _WILDCARD.finditer(glob):
        written += [_literal(glob[end : found.start()]), _wild(found[0])]
        end = found.end()
    written.append(_literal(glob[end:]))
    return f"^(?:{''.join(written)})$"


def _literal(part: str) -> str:
    return re.sub(r"([^\w\s/])", r"\\\1", part)


def _wild(wildcard: str) -> str:
    if wildcard.endswith("/"):
        return "(?:.*/)?"
    return {"?": "[^/]", "*": "[^/]*"}.get(wildcard, ".*")


def _written(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False)
