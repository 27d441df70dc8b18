"""Judged sets: queries and judgements as files have them, and which documents the names in them mean.

    queries     {"_id": "3", "text": "…"} or "id", a line of JSON each; or: id ⇥ text
    judgements  query ⇥ document ⇥ grade, a first line may name the columns; TREC's four columns, too

A judgement of 1 or more says that a document answers a query, and by how much.
"""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, NamedTuple
from uuid import UUID

_MOST_GRADE = 1_000_000
_SHOWN = 60
_ID_HEADINGS = frozenset({"id", "_id", "qid", "query", "query_id", "query-id"})
_DIGIT = re.compile(r"\d")


class Judgement(NamedTuple):
    """How well a document answers a query. Both by the names the judged set has for them."""

    query: str
    document: str
    grade: int


class Likeness(IntEnum):
    """By what a name is a document's; the first that fits counts."""

    ID = 0
    SOURCE_PATH = 1
    FILENAME = 2
    STEM = 3


class Named(NamedTuple):
    """A document that a name may mean."""

    name: str
    likeness: Likeness
    document_id: UUID


@dataclass(frozen=True, slots=True)
class Documents:
    """What the names of a judged set mean: a document, several (`ambiguous`), or none (`unknown`)."""

    known: Mapping[str, UUID]
    ambiguous: Sequence[str]
    unknown: Sequence[str]


def query_of(line: str, *, first: bool = False) -> tuple[str, str] | None:
    """Read the id and the text of a query; None for a heading, on the `first` line. Raises ValueError."""
    if line.lstrip().startswith("{"):
        return _json_query(line)
    name, tab, text = line.partition("\t")
    name, text = name.strip(), text.strip()
    if not tab or not name:
        raise ValueError('a query is {"_id": …, "text": …} or an id, a tab and a text')
    if first and name.lower() in _ID_HEADINGS:
        return None
    return name, text


def _json_query(line: str) -> tuple[str, str]:
    try:
        given = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"no JSON: {error}") from None
    name = given.get("_id", given.get("id"))
    if isinstance(name, bool) or not isinstance(name, str | int) or not str(name).strip():
        raise ValueError('a query needs an "_id" or "id"')
    text = given.get("text")
    if not isinstance(text, str):
        raise ValueError('a query needs a "text"')  # noqa: TRY004 -- as every line that is none
    return str(name).strip(), text


def judgement_of(line: str, *, first: bool = False) -> Judgement | None:
    """Read a judgement; None for a heading, on the `first` line. Raises ValueError."""
    parts = [part.strip() for part in line.split("\t")] if "\t" in line else line.split()
    if len(parts) == 4:  # noqa: PLR2004 -- TREC's: the second column is an iteration nobody uses
        del parts[1]
    if len(parts) != 3 or not all(parts):  # noqa: PLR2004 -- query, document, grade
        raise ValueError("a judgement is a query, a document and a grade, with tabs between")
    if first and not _DIGIT.search("".join(parts)):
        return None
    return Judgement(parts[0], parts[1], _grade(parts[2]))


def _grade(written: str) -> int:
    try:
        grade = float(written)
    except ValueError:
        grade = 0.5
    if not (abs(grade) <= _MOST_GRADE and grade.is_integer()):
        raise ValueError(f"the grade {written[:_SHOWN]!r} is no whole number up to {_MOST_GRADE:,}")
    return int(grade)


def by_query(judgements: Iterable[Judgement]) -> dict[str, dict[str, int]]:
    """Give {query: {document: grade}}; of a pair judged twice the higher grade."""
    grades: dict[str, dict[str, int]] = {}
    for query, document, grade in judgements:
        mine = grades.setdefault(query, {})
        mine[document] = max(grade, mine.get(document, grade))
    return grades


def meant(names: Iterable[str], found: Iterable[Named]) -> Documents:
    """Say which document each name means."""
    best: dict[str, tuple[Likeness, set[UUID]]] = {}
    for name, likeness, document_id in found:
        so_far = best.get(name)
        if so_far is None or likeness < so_far[0]:
            best[name] = likeness, {document_id}
        elif likeness == so_far[0]:
            so_far[1].add(document_id)
    return Documents(
        known={name: next(iter(ids)) for name, (_, ids) in best.items() if len(ids) == 1},
        ambiguous=[name for name, (_, ids) in best.items() if len(ids) > 1],
        unknown=[name for name in names if name not in best],
    )


def by_document(grades: Mapping[str, int], documents: Documents) -> dict[Any, int]:
    """Give the judgements of one query by document id; those of unknown names stay, under their names.

    They count against every ranking, as in the published figures: what is not there is not found. Two names
    of one document, of which one is a duplicate, are one judgement.
    """
    known: dict[Any, int] = {}
    for name, grade in grades.items():
        document = documents.known.get(name, name)
        known[document] = max(grade, known.get(document, grade))
    return known
