"""How an answer came about, for people who ask why."""

from typing import Any

from worker.filtering import Filter
from worker.queries import Mode, Query
from worker.searching.asking import Asked
from worker.searching.ranking import Ranking
from worker.searching.snapshot import Snapshot


def explain(snapshot: Snapshot, ranking: Ranking) -> dict[str, Any]:
    """Give the plan and the candidates of each part."""
    corpus = snapshot.corpus
    found: dict[str, Any] = {
        "corpus": {
            "segments": len(snapshot.visible),
            "chunks": corpus.chunks,
            "languages": list(corpus.languages),
        }
    }
    if ranking.keywords is not None:
        found["keyword"] = {
            "words": [dict(word) for word in ranking.keywords.words],
            "candidates": len(ranking.keywords.scores),
        }
    if ranking.similar is not None:
        found["vector"] = {
            "candidates": len(ranking.similar.scores),
            "found": ranking.similar.how,
            "exact": ranking.similar.exact,
            "plan": list(ranking.similar.plan),
        }
    return found


def why_nothing(snapshot: Snapshot, query: Query, asked: Asked) -> str:
    """Say why nothing was found, where no part of the search has said so."""
    if snapshot.reach.counted and not snapshot.reach.chunks:
        return "nothing fits the filter"
    filtered = query.projects is not None or query.filter != Filter()
    nothing = "nothing that fits the filter" if filtered else "nothing else" if asked.like else "nothing"
    if query.mode is Mode.VECTOR:
        return f"{nothing} has a vector to compare"
    if asked.question.phrases:
        return f"{nothing} has the quoted words"
    if query.mode is Mode.HYBRID and filtered:
        return f"{nothing} was found"
    return f"{nothing} has any of the words"
