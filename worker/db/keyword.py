"""Reading `postings` for a search: how common words are, and which chunks have them.

Everything is asked by (tenant_id, term) for equality: under row-level security a condition that is not
leakproof would keep the index from being used.
"""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple
from uuid import UUID

from sqlalchemy import Connection, text

from worker.db.copying import copy_out
from worker.db.segments import in_list
from worker.steps.terms import language_term
from worker.types import LANGUAGES

_LANGUAGES = {language_term(language): language for language in LANGUAGES}


class Corpus(NamedTuple):
    """What a tenant's searchable chunks amount to: how many, how many terms they have, in which languages.

    `languages`: the one of most chunks first. `by_segment`: how many chunks where. What was deleted or
    replaced counts until its segment is merged.
    """

    chunks: int
    length: int
    languages: tuple[str, ...]
    by_segment: Mapping[int, int]


class Postings(NamedTuple):
    """The chunks of one block that have a term; `entries` as steps/postings.py reads them."""

    term: str
    block: int
    entries: memoryview


POSTINGS = """
    SELECT term, block, string_agg(entries, '') FROM postings
    WHERE segment IN ({segments}) AND tenant_id = %(tenant_id)s::uuid AND term = ANY(%(terms)s)
    GROUP BY term, block ORDER BY term, block"""


def corpus(connection: Connection, tenant_id: UUID, visible: Sequence[int]) -> Corpus:
    """Measure what a tenant has in these segments."""
    found = connection.execute(
        text(f"""
            SELECT segment, term, sum(chunks) AS chunks, sum(occurrences) AS length FROM postings
            WHERE segment IN ({in_list(visible)}) AND tenant_id = :tenant_id AND term = ANY(:terms)
            GROUP BY segment, term"""),
        {"tenant_id": tenant_id, "terms": list(_LANGUAGES)},
    ).all()
    languages: Counter[str] = Counter()
    by_segment: Counter[int] = Counter()
    for row in found:
        languages[_LANGUAGES[row.term]] += int(row.chunks)
        by_segment[row.segment] += int(row.chunks)
    order = sorted(languages, key=lambda language: (-languages[language], language))
    length = sum(int(row.length) for row in found)
    return Corpus(languages.total(), length, tuple(order), by_segment)


def frequencies(
    connection: Connection, tenant_id: UUID, visible: Sequence[int], terms: Collection[str]
) -> dict[str, int]:
    """Give in how many chunks each of these terms is; those in none are left out."""
    found = connection.execute(
        text(f"""
            SELECT term, sum(chunks) AS chunks FROM postings
            WHERE segment IN ({in_list(visible)}) AND tenant_id = :tenant_id AND term = ANY(:terms)
            GROUP BY term"""),
        {"tenant_id": tenant_id, "terms": list(terms)},
    )
    return {row.term: int(row.chunks) for row in found}


def postings(
    connection: Connection, tenant_id: UUID, visible: Sequence[int], terms: Collection[str]
) -> list[Postings]:
    """Give the chunks that have these terms, a row a term and block."""
    found = copy_out(
        connection,
        POSTINGS.format(segments=in_list(visible)),
        {"tenant_id": str(tenant_id), "terms": list(terms)},
    )
    return [Postings(str(term, "utf-8"), int.from_bytes(block), entries) for term, block, entries in found]
