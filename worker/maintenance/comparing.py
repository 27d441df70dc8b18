"""Ask probes by the way of searches and by the exact way, each in one snapshot, and sum up what was found.

probe ─ snapshot: tenant, segments, filter              REPEATABLE READ
    live     as a search does, and its plan
    alone    each graph by itself, where searches use it
    exact    segment by segment: their nearest are those of all
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from sqlalchemy import Connection

from worker.db import nearest
from worker.db.engine import attempt, reading
from worker.db.nearest import RARE, Found
from worker.db.recall import Graph, one_process, searched_by_index
from worker.db.scans import Scans
from worker.db.segments import Seen
from worker.errors import IngestError
from worker.maintenance.probes import Probe
from worker.searching.snapshot import Snapshot
from worker.settings import Settings
from worker.steps.recall import K, Tally

# A statement reads one leaf at most, from a slow disk perhaps.
_STATEMENT_SECONDS = 600


class Look:
    """One probe in one snapshot."""

    def __init__(self, connection: Connection, probe: Probe, settings: Settings) -> None:
        """Look at what there is. Raises IngestError for a tenant or a project that is gone."""
        one_process(connection)
        self._snapshot = Snapshot(connection, probe.query, settings)
        self._connection, self._settings = connection, settings
        self._vector = probe.query.vector or ()
        self._reach = self._snapshot.reach
        if probe.own:
            self._reach = self._reach.without([probe.own], [])

    @property
    def seen(self) -> Seen:
        """The segments that a search sees."""
        return self._snapshot.seen

    def rows(self, segments: Sequence[int]) -> int:
        """Count what the tenant has in these segments."""
        return sum(self._snapshot.corpus.by_segment[segment] for segment in segments)

    def live(self, *, explain: bool = False) -> Found:
        """Answer as a search does."""
        with attempt(self._connection, _STATEMENT_SECONDS):
            return nearest.candidates(
                self._connection,
                self._vector,
                reach=self._reach,
                seen=self.seen,
                k=K,
                settings=self._settings,
                explain=explain,
            )

    def is_asked(self, graph: Graph) -> bool:
        """Tell whether searches of this tenant go by this graph: it has enough there not to be compared."""
        return (
            graph.graph is not None
            and graph.segment in self.seen.sealed
            and self._passing(graph.segment) * RARE >= 1
        )

    def alone(self, graph: Graph) -> tuple[list[float], bool]:
        """Ask one graph alone: gives the distances of what it found, and whether it was used at all."""
        plan: list[str] = []
        with attempt(self._connection, _STATEMENT_SECONDS):
            found, _ = self._scans(graph.segment, plan).indexed(self._passing(graph.segment))
        return [one.distance for one in found], graph.leaf in searched_by_index(plan)

    def exact(self, segment: int) -> list[float]:
        """Compare what is in a segment; gives the distances of the nearest."""
        with attempt(self._connection, _STATEMENT_SECONDS):
            return [one.distance for one in self._scans(segment).exact()]

    def _passing(self, segment: int) -> float:
        return min(self.rows([segment]) / max(self.seen.sealed[segment], 1), 1.0)

    def _scans(self, segment: int, plan: list[str] | None = None) -> Scans:
        rows = self.seen.sealed.get(segment, 0)
        metric = self._settings.embedding_metric
        only = Seen({segment: rows}, {})
        return Scans(self._connection, self._vector, self._reach, only, K, metric, self._settings, plan)


@dataclass(slots=True)
class Comparing:
    """The sums of what was compared so far. `rows`: how many were compared exactly, at most RECALL_ROWS."""

    connection: Connection
    settings: Settings
    graphs: Sequence[Graph]
    over_all: Tally = field(default_factory=Tally)
    alone: dict[str, Tally] = field(default_factory=dict)
    exactly: int = 0
    rows: int = 0
    live_ms: list[float] = field(default_factory=list)
    exact_ms: list[float] = field(default_factory=list)

    @property
    def asked(self) -> int:
        """How many were asked."""
        return len(self.live_ms)

    def ask(self, probe: Probe) -> bool:
        """Ask one, and add what it came to; False, with nothing compared, where that would be too much."""
        with reading(self.connection, _STATEMENT_SECONDS):
            try:
                look = Look(self.connection, probe, self.settings)
            except IngestError:  # a project that is gone since its search was recorded
                return True
            begun = time.perf_counter()
            live = look.live()
            spent = time.perf_counter() - begun
            alone = [graph for graph in self.graphs if probe.own and look.is_asked(graph)]
            among = [graph.segment for graph in alone] if live.exact else look.seen.all
            if not self._has_room(look.rows(among)):
                return False
            exact = self._exact(look, among)
            self.live_ms.append(spent * 1000)
            self._add_alone(look, alone, exact)
            self._add_live(look, live, exact)
        return True

    def ask_alone(self, probe: Probe) -> bool:
        """Ask no more than the graphs, each by itself; False as above."""
        if probe.own is None:
            return True
        with reading(self.connection, _STATEMENT_SECONDS):
            look = Look(self.connection, probe, self.settings)
            graphs = [graph for graph in self.graphs if look.is_asked(graph)]
            among = [graph.segment for graph in graphs]
            if not self._has_room(look.rows(among)):
                return False
            self._add_alone(look, graphs, self._exact(look, among))
        return True

    def _has_room(self, rows: int) -> bool:
        return self.rows + rows <= self.settings.recall_rows

    def _exact(self, look: Look, among: Sequence[int]) -> dict[int, list[float]]:
        begun = time.perf_counter()
        exact = {segment: look.exact(segment) for segment in among}
        self.rows += look.rows(among)
        if among:
            self.exact_ms.append((time.perf_counter() - begun) * 1000)
        return exact

    def _add_alone(self, look: Look, graphs: Sequence[Graph], exact: dict[int, list[float]]) -> None:
        for graph in graphs:
            given, used = look.alone(graph)
            self._tally(graph).add(given, exact[graph.segment], used_index=used)

    def _add_live(self, look: Look, live: Found, exact: dict[int, list[float]]) -> None:
        if live.exact:
            self.exactly += 1
            return
        used = searched_by_index(look.live(explain=True).plan)
        sealed = [graph for graph in self.graphs if graph.segment in look.seen.sealed]
        for graph in sealed:
            self._tally(graph).without_index += graph.leaf not in used
        given = [one.distance for one in live.candidates]
        of_all = sorted(distance for distances in exact.values() for distance in distances)[:K]
        self.over_all.add(given, of_all, used_index=all(graph.leaf in used for graph in sealed))

    def _tally(self, graph: Graph) -> Tally:
        return self.alone.setdefault(graph.leaf, Tally())
