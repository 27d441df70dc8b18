"""Answer a search.

    query ─ embed ─┐                                                    no connection held
    snapshot: tenant, segments, corpus                                  REPEATABLE READ
        select    what the filter lets through, and how much it is
        keyword   BM25 of the words, phrases      ┐  each within its share of the time;
        vector    nearest chunks                  ┘  a late one is dropped and named
        fuse      one order of both, a document once where asked
        present   where each stands, what it says
    record        an evaluation_runs row, where asked                   a transaction of its own

What raises IngestError was asked wrongly; what is late or fails is left out and named.
"""

import logging
from dataclasses import replace
from functools import cache, partial

from worker.db.engine import statement_timeout, transaction
from worker.queries import Mode, Query
from worker.resources import Resources
from worker.searching import explaining, recording
from worker.searching.asking import Asked, ask
from worker.searching.keywords import Common
from worker.searching.presenting import present
from worker.searching.ranking import Ranker, Ranking
from worker.searching.snapshot import Snapshot
from worker.searching.stages import Stages
from worker.types import Answer

log = logging.getLogger(__name__)


def search(resources: Resources, query: Query) -> Answer:
    """Answer one query.

    Raises IngestError for one that cannot be answered: an unknown tenant, project or language, a vector that
    does not fit, a model that fails where there are no words to go by; NoAnswerError where all was late.
    """
    seconds = resources.settings.search_timeout_seconds
    stages = Stages(seconds)
    asked = ask(resources, query, stages)
    with transaction(resources.search_engine, seconds, reading=True) as connection:
        with stages.required("select"):
            snapshot = Snapshot(connection, query, resources.settings)
        answer = _answer(snapshot, query, asked, stages)
    answer = replace(answer, latency_ms=dict(stages.latency_ms))
    if recording.is_wanted(resources, query):
        record = partial(recording.record, resources, snapshot.tenant_id, query, answer)
        run_id = stages.outside("record", record)
        answer = replace(answer, run_id=run_id, dropped=tuple(stages.dropped), latency_ms=stages.latency_ms)
    _log(snapshot, query, answer, stages.elapsed_ms)
    return answer


def _log(snapshot: Snapshot, query: Query, answer: Answer, ms: float) -> None:
    """Say how much was found and how long it took, not what was asked."""
    log.info(
        "search.done",
        extra={
            "tenant": snapshot.tenant_id,
            "mode": answer.mode,
            "k": query.k,
            "hits": len(answer.hits),
            "run": answer.run_id,
            "dropped": answer.dropped,
            "ms": ms,
            "stages": dict(answer.latency_ms),
        },
    )


def _answer(snapshot: Snapshot, query: Query, asked: Asked, stages: Stages) -> Answer:
    wordless = query.mode is Mode.VECTOR and not query.text
    common = (
        None if wordless else stages.optional("words", snapshot.connection, lambda: Common(snapshot, asked))
    )
    ranking = Ranker(snapshot, query, asked, common, stages).rank()
    if ranking.is_empty_handed:
        raise stages.too_late()
    with stages.required("present"):
        statement_timeout(snapshot.connection, stages.left)
        weigh = cache(common.weights) if common else _nothing
        hits = present(snapshot, ranking.ranked, weigh, query.neighbours)
    return Answer(
        hits=hits,
        mode=query.mode.value,
        metric=(query.metric or snapshot.settings.embedding_metric).value,
        dropped=tuple(stages.dropped),
        notes=_notes(snapshot, query, asked, ranking),
        explanation=explaining.explain(snapshot, ranking) if query.explain else None,
    )


def _nothing(_language: str) -> dict[str, float]:
    return {}


def _notes(snapshot: Snapshot, query: Query, asked: Asked, ranking: Ranking) -> tuple[str, ...]:
    if not snapshot.corpus.chunks and not ranking.ranked:
        return ("no chunk of this tenant is searchable",)
    parts = (ranking.keywords, ranking.similar)
    found = (note for part in parts if part is not None for note in part.notes)
    notes = tuple(dict.fromkeys((*found, *ranking.notes)))
    if ranking.ranked or (notes and not asked.question.phrases):
        return notes
    return (*notes, explaining.why_nothing(snapshot, query, asked))
