"""Measure searches by judged queries: each is asked in every way there is to compare, by documents.

judgements ─ names ─▶ documents of the tenant
queries ─▶ the same text by each setting and mode ─▶ ranking ─▶ nDCG, recall, MRR ─▶ means, differences
"""

import json
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any

from sqlalchemy import Connection

from worker.db import judged as names
from worker.db.tenants import known_scope
from worker.errors import IngestError
from worker.queries import Query, read_query
from worker.resources import Resources
from worker.searching import search
from worker.steps.judged import Documents, Named, by_document, meant
from worker.steps.measures import ndcg, percentile, recall, reciprocal_rank
from worker.types import Answer

MEASURES = ("ndcg", "recall", "mrr")
# What may differ between two settings: the rest of a request says what is measured.
SETTINGS = ("fusion", "weights", "metric", "language", "filter")
_EXAMPLES = 10


@dataclass(slots=True)
class Way:
    """One way to ask every query, and what that came to, a number a query."""

    mode: str
    setting: Mapping[str, Any]
    ndcg: list[float] = field(default_factory=list)
    recall: list[float] = field(default_factory=list)
    mrr: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    errors: int = 0
    incomplete: int = 0
    reason: str = ""

    def ask(self, resources: Resources, request: Mapping[str, Any]) -> None:
        """Ask a query and forget the answer: the first one loads the model."""
        with suppress(IngestError):
            search(resources, self._query(request))

    def measure(
        self, resources: Resources, request: Mapping[str, Any], grades: Mapping[Any, int], k: int
    ) -> None:
        """Ask a query and measure its answer. One that fails has found nothing."""
        begun = time.perf_counter()
        answer = Answer()
        try:
            answer = search(resources, self._query(request))
        except IngestError as error:
            self.errors += 1
            self.reason = self.reason or str(error)
        else:
            self.seconds.append(time.perf_counter() - begun)
            self.incomplete += bool(answer.dropped)
        ranking = [grades.get(hit.document_id, 0) for hit in answer.hits]
        self.ndcg.append(ndcg(ranking, grades.values(), k))
        self.recall.append(recall(ranking, grades.values(), k))
        self.mrr.append(reciprocal_rank(ranking, k))

    def _query(self, request: Mapping[str, Any]) -> Query:
        return read_query({**request, "mode": self.mode, **self.setting})

    @property
    def means(self) -> dict[str, float]:
        """Give the mean of each measure over all queries."""
        return {name: fmean(getattr(self, name) or [0.0]) for name in MEASURES}

    @property
    def latencies(self) -> tuple[float | None, float | None]:
        """Give median and 95th percentile, in milliseconds, of the queries that were answered."""
        if not self.seconds:
            return None, None
        return percentile(self.seconds, 0.5) * 1000, percentile(self.seconds, 0.95) * 1000

    @property
    def said(self) -> str:
        """Write the setting in one line."""
        return json.dumps(self.setting, ensure_ascii=False) if self.setting else ""

    def as_json(self) -> dict[str, Any]:
        """Sum it up."""
        median, p95 = (None if spent is None else round(spent, 3) for spent in self.latencies)
        return {
            "mode": self.mode,
            "setting": dict(self.setting),
            **{name: round(mean, 6) for name, mean in self.means.items()},
            "queries": len(self.ndcg),
            "errors": self.errors,
            "error": self.reason or None,
            "incomplete": self.incomplete,
            "p50_ms": median,
            "p95_ms": p95,
        }


class Evaluation:
    """A judged set, asked in every mode with one setting or two.

    Raises IngestError for an unknown tenant, for what cannot be asked, and where there is nothing to find.
    """

    def __init__(
        self,
        resources: Resources,
        grades: Mapping[str, Mapping[str, int]],
        modes: Sequence[str],
        settings: Sequence[Mapping[str, Any]],
        request: Mapping[str, Any] | None = None,
        *,
        tenant: str,
        project: str | None,
        k: int,
    ) -> None:
        self._resources, self.k = resources, k
        mine = {"tenant": tenant, "project": project, "k": k, "group_by_document": True}
        self._request = {**(request or {}), **mine}
        self.ways = [self._way(mode, setting) for mode in modes for setting in settings]
        self._compared = len(settings) > 1
        self.documents = _documents(resources, grades, tenant, project)
        found = {query: by_document(mine, self.documents) for query, mine in grades.items()}
        self._grades = {
            query: mine for query, mine in found.items() if any(grade >= 1 for grade in mine.values())
        }
        if not self._grades:
            said = "no judgement says that a document answers its query"
            raise IngestError(said, "a grade of 1 or more does")
        self.without_relevant = len(grades) - len(self._grades)
        self.asked: set[str] = set()

    def _way(self, mode: str, setting: Mapping[str, Any]) -> Way:
        """Refuse what cannot be asked, before anything is."""
        for name in setting:
            if name not in SETTINGS:
                raise IngestError(
                    f"{name[:60]!r} is no setting to measure", f"these are: {', '.join(SETTINGS)}"
                )
        read_query({**self._request, "text": "?", "mode": mode, **setting})
        return Way(mode, setting)

    @property
    def size(self) -> int:
        """How many queries have something to find."""
        return len(self._grades)

    @property
    def without_text(self) -> int:
        """How many of them had no text yet."""
        return self.size - len(self.asked)

    @property
    def differences(self) -> list[dict[str, Any]]:
        """Compare the second setting with the first, mode by mode."""
        pairs = zip(self.ways[::2], self.ways[1::2], strict=True) if self._compared else ()
        return [_difference(first, second) for first, second in pairs]

    def as_json(self) -> dict[str, Any]:
        """Sum it up."""
        documents = self.documents
        return {
            "k": self.k,
            "queries": {
                "measured": len(self.asked),
                "without_text": self.without_text,
                "without_relevant": self.without_relevant,
            },
            "documents": {
                "searchable": len(documents.known),
                "unknown": len(documents.unknown),
                "ambiguous": len(documents.ambiguous),
                "unknown_examples": documents.unknown[:_EXAMPLES],
                "ambiguous_examples": documents.ambiguous[:_EXAMPLES],
            },
            "results": [way.as_json() for way in self.ways],
            "differences": self.differences,
        }

    def run(self, queries: Iterable[tuple[str, str]]) -> Iterator[int]:
        """Ask every judged query of a stream in every way; gives how many are done, one by one."""
        for name, text in queries:
            if name not in self._grades or name in self.asked:
                continue
            request = {**self._request, "text": text}
            if not self.asked:
                for way in self.ways:
                    way.ask(self._resources, request)
            for way in self.ways:
                way.measure(self._resources, request, self._grades[name], self.k)
            self.asked.add(name)
            yield len(self.asked)


def _documents(
    resources: Resources, grades: Mapping[str, Mapping[str, int]], tenant: str, project: str | None
) -> Documents:
    wanted = list(dict.fromkeys(name for mine in grades.values() for name in mine))

    def ask(connection: Connection) -> list[Named]:
        return names.named(connection, known_scope(connection, tenant, project), wanted)

    documents = meant(wanted, resources.transact(ask))
    if not documents.known:
        raise IngestError(
            f"none of the {len(wanted):,} judged documents is searchable in tenant {tenant!r}",
            "they are named by id, source path, filename, or filename without its ending",
        )
    return documents


def _difference(one: Way, other: Way) -> dict[str, Any]:
    """Compare two ways to ask the same queries: what the other gains, and in how many queries, by nDCG."""
    pairs = list(zip(one.ndcg, other.ndcg, strict=True))
    gains = {name: round(other.means[name] - mean, 6) for name, mean in one.means.items()}
    better, worse = sum(b > a for a, b in pairs), sum(b < a for a, b in pairs)
    return {
        "mode": one.mode,
        **gains,
        "better": better,
        "worse": worse,
        "equal": len(pairs) - better - worse,
    }
