"""What the chore `recall` asks for: vectors like those that are stored, and searches that were recorded."""

from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import NamedTuple
from uuid import UUID

import numpy as np

from worker.db import recall
from worker.db.recall import Graph, Recorded, Stored
from worker.errors import IngestError
from worker.maintenance.turn import Turn
from worker.queries import Mode, Query, read_query
from worker.resources import Resources
from worker.searching.asking import ask
from worker.searching.stages import Stages
from worker.steps.recall import K

# A stored vector is found more easily than a question: the graph was built around it. It is moved by this
# share of its length in a random direction, and its own row is left out (docs/decisions/0016).
MOVED = 0.7
# What a recorded search asked for, beside its text, that decides which chunks are the nearest.
_KEPT = ("filter", "project")


class Probe(NamedTuple):
    """One question, by a vector. `own`: the chunk whose vector it is like; None of a recorded search."""

    query: Query
    own: UUID | None = None


def draw(turn: Turn, graphs: Sequence[Graph]) -> list[Probe]:
    """Draw RECALL_SAMPLE probes, in no order: up to half are recorded searches, the rest stored vectors."""
    if not graphs:
        return []
    many, dice = turn.settings.recall_sample, np.random.default_rng()
    searches = recall.recorded(turn.connection, turn.settings.embedding_metric, many // 2)
    asked = list(_recorded(turn.resources, searches))
    rest = many - len(asked)
    like: list[Probe] = []
    for graph, share in zip(graphs, _shares([graph.rows for graph in graphs], rest), strict=True):
        like += [moved(one, dice) for one in recall.stored(turn.connection, graph.leaf, share)]
    return _shuffled([*asked, *_shuffled(like, dice)[:rest]], dice)


def _shuffled(probes: Sequence[Probe], dice: np.random.Generator) -> list[Probe]:
    return [probes[place] for place in dice.permutation(len(probes))]


def _shares(rows: Sequence[int], many: int) -> list[int]:
    """Divide so many in proportion, with one for each at least."""
    total = max(sum(rows), 1)
    return [max(1, round(many * mine / total)) for mine in rows]


def moved(stored: Stored, dice: np.random.Generator, share: float = MOVED) -> Probe:
    """Ask for what is near a stored vector, moved by a share of its length."""
    vector = np.array(stored.vector)
    noise = dice.standard_normal(len(vector))
    vector += share * np.linalg.norm(vector) * noise / np.linalg.norm(noise)
    return Probe(read_query(vector=vector, tenant=stored.tenant, k=K), stored.chunk_id)


def _recorded(resources: Resources, found: Sequence[Recorded]) -> Iterator[Probe]:
    """Give those that can be asked by the vector of their text."""
    for one in found:
        kept = {name: one.request[name] for name in _KEPT if name in one.request}
        with suppress(IngestError):  # no model here, or what it asks by is gone
            asked = read_query(text=one.text, mode=Mode.VECTOR, tenant=one.tenant, k=K, **kept)
            vector = ask(resources, asked, Stages(resources.settings.search_timeout_seconds)).vector
            yield Probe(read_query(vector=vector, tenant=one.tenant, k=K, **kept))
