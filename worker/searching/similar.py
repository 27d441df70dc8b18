"""The vector stage: the chunks nearest to a vector, or to the mean of some that are there."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from uuid import UUID

from worker.db import nearest, scans
from worker.db.likeness import likeness
from worker.db.scans import Candidate
from worker.queries import Query
from worker.searching.asking import Asked
from worker.searching.snapshot import Snapshot

_FAR = "what the filter lets through lies far from what is asked for: some of the nearest may be missing"


@dataclass(frozen=True, slots=True)
class Similar:
    """What the stage found: {number: score}, best first, with the distance and the document of each.

    `how`: which way they were found, and PostgreSQL's `plan` where it was asked for; `exact`: none that is
    nearer can be missing.
    """

    scores: Mapping[int, float] = field(default_factory=dict)
    distances: Mapping[int, float] = field(default_factory=dict)
    documents: Mapping[int, UUID] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    how: str = ""
    exact: bool = False
    plan: tuple[str, ...] = ()

    def with_those_of(self, other: "Similar") -> "Similar":
        """Add what was compared later."""
        return replace(
            self,
            scores={**self.scores, **other.scores},
            distances={**self.distances, **other.distances},
            documents={**self.documents, **other.documents},
        )


class Similarity:
    """What a query is compared with, by which metric, and among what."""

    def __init__(self, snapshot: Snapshot, query: Query, asked: Asked) -> None:
        """Find out. Raises IngestError for ids of chunks and documents that there are not."""
        self._snapshot, self._explain = snapshot, query.explain
        self._metric = query.metric or snapshot.settings.embedding_metric
        if asked.vector is not None:
            self._vector = asked.vector.tolist()
        else:
            self._vector = self._mean(query.like or ())

    def _mean(self, ids: Sequence[UUID]) -> list[float]:
        snapshot = self._snapshot
        return likeness(snapshot.connection, snapshot.tenant_id, ids, seen=snapshot.seen, metric=self._metric)

    def rank(self, depth: int) -> Similar:
        """Give the `depth` nearest chunks.

        Raises IngestError where the metric has no index and there is too much to compare.
        """
        snapshot = self._snapshot
        found = nearest.candidates(
            snapshot.connection,
            self._vector,
            reach=snapshot.reach,
            seen=snapshot.seen,
            k=depth,
            metric=self._metric,
            settings=snapshot.settings,
            explain=self._explain,
        )
        other = self._metric is not snapshot.settings.embedding_metric
        notes = (found.note,) if other else (_FAR,) if found.far else ()
        return replace(
            self._similar(found.candidates), notes=notes, how=found.note, exact=found.exact, plan=found.plan
        )

    def of(self, numbers: Sequence[int]) -> Similar:
        """Compare these chunks, as far as the filter lets them through."""
        snapshot = self._snapshot
        found = scans.compared(
            snapshot.connection,
            self._vector,
            numbers,
            reach=snapshot.reach,
            seen=snapshot.seen,
            metric=self._metric,
            settings=snapshot.settings,
        )
        return replace(self._similar(found), how="compared one by one: what the words found", exact=True)

    def _similar(self, found: Sequence[Candidate]) -> Similar:
        return Similar(
            {one.number: nearest.score(self._metric, one.distance) for one in found},
            {one.number: one.distance for one in found},
            {one.number: one.document_id for one in found},
        )
