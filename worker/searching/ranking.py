"""One order of the chunks found: by similarity, by words, or by both; a document once where asked.

In a hybrid search each part brings its candidates, and each scores what only the other brought: a chunk is
not worth nothing by its words because others have more of them (decision 0012). Few candidates are asked for
at first; where documents are to differ and too few do, more.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from uuid import UUID

from worker.queries import Fusion, Mode, Query
from worker.searching import keywords
from worker.searching.asking import Asked
from worker.searching.keywords import Common, Keywords
from worker.searching.similar import Similar, Similarity
from worker.searching.snapshot import Snapshot
from worker.searching.stages import Stages
from worker.steps.fusion import DEPTH, Fused, fuse

_DEEPER = 8
_DEEPEST = 10_000


@dataclass(frozen=True, slots=True)
class Ranked:
    """A chunk by its number, with its score, the score of each part, and its distance where it is known."""

    number: int
    score: float
    scores: Mapping[str, float]
    distance: float | None


@dataclass(frozen=True, slots=True)
class Ranking:
    """The chunks found, best first, and each part: None where it was not asked for, or dropped."""

    ranked: Sequence[Ranked]
    similar: Similar | None
    keywords: Keywords | None
    notes: tuple[str, ...] = ()

    @property
    def is_empty_handed(self) -> bool:
        """Tell whether no part came to an end."""
        return self.similar is None and self.keywords is None

    def has_more_parts_than(self, similar: Similar | None, keywords: Keywords | None) -> bool:
        """Tell whether a part came to an end here and did not there."""
        return bool((self.similar and similar is None) or (self.keywords and keywords is None))


class Ranker:
    """Ranks for one query in one snapshot. `common`: None where its words were too late to be looked up."""

    def __init__(
        self, snapshot: Snapshot, query: Query, asked: Asked, common: Common | None, stages: Stages
    ) -> None:
        self._snapshot, self._query, self._asked = snapshot, query, asked
        self._common, self._stages = common, stages

    @cached_property
    def _similarity(self) -> Similarity:
        return Similarity(self._snapshot, self._query, self._asked)

    def rank(self) -> Ranking:
        """Find and rank `query.k` chunks, or as many as there are."""
        depth = max(DEPTH, self._query.k) if self._query.mode is Mode.HYBRID else self._query.k
        before: Ranking | None = None
        dropped: list[str] = []
        while True:
            by_words = self._by_words(depth)
            by_vector = self._by_vector(depth, by_words)
            if before and before.has_more_parts_than(by_vector, by_words):
                self._stages.dropped[:] = dropped
                return replace(before, notes=("a deeper look was late: there may be more documents",))
            exhausted = all(part is None or len(part.scores) < depth for part in (by_vector, by_words))
            if by_words and by_words.scores and by_vector and self._query.fusion is Fusion.MINMAX:
                by_vector, by_words = self._completed(by_vector, by_words)
            with self._stages.timed("fuse"):
                ranked = self._fused(by_vector, by_words)
            before, dropped = Ranking(ranked[: self._query.k], by_vector, by_words), [*self._stages.dropped]
            if len(ranked) >= self._query.k or depth >= _DEEPEST or exhausted:
                return before
            depth *= _DEEPER

    def _by_words(self, depth: int) -> Keywords | None:
        common = self._common
        if self._query.mode is Mode.VECTOR or common is None:
            return None
        return self._stages.optional(
            "keyword",
            self._snapshot.connection,
            lambda: keywords.rank(self._snapshot, self._asked, common, depth, self._stages.share),
        )

    def _by_vector(self, depth: int, by_words: Keywords | None) -> Similar | None:
        """Look by similarity; where phrases are quoted, only among what holds them."""
        if self._query.mode is Mode.KEYWORD or not self._asked.has_vector:
            return None
        phrased = by_words if self._asked.question.phrases else None

        def look() -> Similar:
            return self._similarity.of(list(phrased.scores)) if phrased else self._similarity.rank(depth)

        return self._stages.optional("vector", self._snapshot.connection, look)

    def _completed(self, by_vector: Similar, by_words: Keywords) -> tuple[Similar, Keywords]:
        """Give each part the scores of what only the other found."""
        strange = [number for number in by_words.scores if number not in by_vector.scores]
        more = self._stages.optional(
            "vector", self._snapshot.connection, lambda: self._similarity.of(strange)
        )
        wordless = [number for number in by_vector.scores if number not in by_words.scores]
        scores = dict(zip(wordless, by_words.all.of(wordless), strict=True))
        return (
            by_vector if more is None else by_vector.with_those_of(more),
            replace(by_words, scores={**by_words.scores, **scores}),
        )

    def _fused(self, by_vector: Similar | None, by_words: Keywords | None) -> list[Ranked]:
        found = {"vector": by_vector, "keyword": by_words}
        parts = {name: part.scores for name, part in found.items() if part is not None}
        fused = self._in_order(parts)
        distances = by_vector.distances if by_vector else {}
        ranked = [Ranked(one.key, one.score, one.parts, distances.get(one.key)) for one in fused]
        if not self._query.group_by_document:
            return ranked
        documents = {**(by_words.documents if by_words else {}), **(by_vector.documents if by_vector else {})}
        return self._by_document(parts, ranked, documents)

    def _in_order(self, parts: Mapping[str, Mapping[int, float]]) -> list[Fused]:
        if self._query.mode is Mode.HYBRID:
            return fuse(self._query.fusion.value, parts, self._query.weights.model_dump())
        return [Fused(key, score, {name: score}) for name in parts for key, score in parts[name].items()]

    def _by_document(
        self,
        parts: Mapping[str, Mapping[int, float]],
        ranked: Sequence[Ranked],
        documents: Mapping[int, UUID],
    ) -> list[Ranked]:
        """Rank documents by the best that each part found of them, and show the best chunk of each."""
        shown: dict[UUID, Ranked] = {}
        for one in ranked:
            shown.setdefault(documents[one.number], one)
        if self._query.mode is not Mode.HYBRID:
            return list(shown.values())
        best: dict[str, dict[UUID, float]] = {name: {} for name in parts}
        for name, scores in parts.items():
            for number, score in scores.items():
                document = documents[number]
                best[name][document] = max(score, best[name].get(document, score))
        fused = fuse(self._query.fusion.value, best, self._query.weights.model_dump())
        return [replace(shown[one.key], score=one.score) for one in fused]
