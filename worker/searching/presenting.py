"""From ranked chunks to what a person reads: where each stands, what it says, what stands around it."""

from collections.abc import Callable, Mapping, Sequence

from worker.db import passages
from worker.db.passages import Passage
from worker.searching.ranking import Ranked
from worker.searching.snapshot import Snapshot
from worker.steps.snippets import snippet
from worker.types import Hit


def present(
    snapshot: Snapshot, ranked: Sequence[Ranked], weigh: Callable[[str], Mapping[str, float]], neighbours: int
) -> tuple[Hit, ...]:
    """Give the hits, in the order of the ranking. `weigh`: the query's terms in a language, for snippets."""
    numbers = [one.number for one in ranked]
    found = passages.passages(snapshot.connection, snapshot.visible, numbers)
    shown = [(one, found[one.number]) for one in ranked]
    return tuple(
        _hit(one, passage, weigh(passage.language), *_around(snapshot, passage, neighbours))
        for one, passage in shown
    )


def _around(snapshot: Snapshot, passage: Passage, most: int) -> tuple[Sequence[str], Sequence[str]]:
    if not most:
        return (), ()
    return passages.around(snapshot.connection, snapshot.visible, passage, most)


def _hit(
    ranked: Ranked,
    passage: Passage,
    weights: Mapping[str, float],
    before: Sequence[str],
    after: Sequence[str],
) -> Hit:
    shown = snippet(passage.text, weights, passage.language)
    return Hit(
        score=ranked.score,
        scores=ranked.scores,
        distance=ranked.distance,
        chunk_id=passage.chunk_id,
        document_id=passage.document_id,
        filename=passage.filename,
        source_path=passage.source_path,
        number=passage.position,
        total=passage.total,
        start=passage.start,
        end=passage.end,
        heading_path=passage.heading_path,
        text=passage.text,
        snippet=shown.text,
        highlights=shown.highlights,
        metadata=passage.metadata,
        chunk_metadata=passage.chunk_metadata,
        before=tuple(before),
        after=tuple(after),
    )
