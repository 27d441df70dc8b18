"""Record a search in `evaluation_runs`: what was asked, what was answered, how long each stage took.

What is written is bounded: snippets, not texts; the length of a vector, not its numbers.
"""

import json
import math
from typing import Any
from uuid import UUID

from worker.db import evaluations
from worker.db.evaluations import Record
from worker.db.tenants import tenant_transaction
from worker.queries import Query
from worker.resources import Resources
from worker.steps.forms import TOKEN
from worker.steps.terms import NO_LANGUAGE, token_terms
from worker.types import Answer, Hit

_STATEMENT_SECONDS, _LOCK_SECONDS = 2, 1
_LONGEST_TEXT = 1000
_LARGEST_FIELD = 16_384  # characters of JSON
_MOST_NOTES = 20


def is_wanted(resources: Resources, query: Query) -> bool:
    """Tell whether a search is to be recorded: it says so, or all of them are."""
    return query.record or resources.settings.search_record_all


def record(resources: Resources, tenant_id: UUID, query: Query, answer: Answer) -> UUID:
    """Record a search and its answer, in a transaction of its own; gives the id to rate it by.

    Raises what the database raises, a replica for one: a search can do without.
    """
    run = summed_up(query, answer)
    with tenant_transaction(
        resources.search_engine, tenant_id, _STATEMENT_SECONDS, _LOCK_SECONDS
    ) as connection:
        return evaluations.insert(connection, tenant_id, run)


def summed_up(query: Query, answer: Answer) -> Record:
    """Give what is recorded of a search."""
    return Record(
        query=query.text or "",
        response={
            "mode": answer.mode,
            "metric": answer.metric,
            "hits": len(answer.hits),
            "dropped": list(answer.dropped),
            "notes": [_short(note) for note in answer.notes[:_MOST_NOTES]],
        },
        sources=[_source(hit) for hit in answer.hits[: query.k]],
        latency_ms=answer.latency_ms,
        token_count=_terms(query.text or ""),
        metadata={"request": _request(query)},
        user=query.user,
    )


def _source(hit: Hit) -> dict[str, Any]:
    return {
        "chunk_id": str(hit.chunk_id),
        "document_id": str(hit.document_id),
        "source_path": _short(hit.source_path),
        "number": hit.number,
        "total": hit.total,
        "score": _finite(hit.score),
        "scores": {part: _finite(score) for part, score in hit.scores.items()},
        "distance": None if hit.distance is None else _finite(hit.distance),
        "snippet": _short(hit.snippet),
    }


def _request(query: Query) -> dict[str, Any]:
    """Give the request without its text, which has a column. `left_out`: the fields that are too large."""
    given: dict[str, Any] = query.as_json()
    given.pop("text", None)
    if query.vector is not None:
        given["vector"] = {"numbers": len(query.vector)}
    large = [name for name, value in given.items() if len(json.dumps(value)) > _LARGEST_FIELD]
    kept = {name: value for name, value in given.items() if name not in large}
    return {**kept, "left_out": large} if large else kept


def _terms(text: str) -> int:
    """Count the terms of a query, as those of a chunk are counted."""
    return sum(len(token_terms(token, NO_LANGUAGE)) for token in TOKEN.findall(text))


def _short(text: str) -> str:
    return text if len(text) <= _LONGEST_TEXT else text[: _LONGEST_TEXT - 1] + "…"


def _finite(number: float) -> float | None:
    """Give a number that JSON can hold."""
    return float(number) if math.isfinite(number) else None
