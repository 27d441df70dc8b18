"""recall: what searches find of what is nearest; the worst segment is mended, and measured again."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy.exc import DBAPIError

from worker.db import builds, graphs, horizon, recall, recall_history, vacuums
from worker.db.engine import describe, is_late
from worker.maintenance.comparing import Comparing
from worker.maintenance.leeway import hindrance
from worker.maintenance.measuring import Found, ask_each, measure
from worker.maintenance.probes import Probe, draw
from worker.maintenance.turn import Turn
from worker.steps.falls import Fall, too_low
from worker.steps.recall import Built, History, Segment, Tally


def run(turn: Turn) -> dict[str, Any]:
    """Give recall@10 over all and by segment, what is too low, and what was done about it: one segment a run.

    `not_measured` says why, where nothing was. What the database refuses of a repair is told in `repair`,
    beside what was measured.
    """
    connection = turn.connection
    if not turn.dry_run:
        graphs.drop_leftovers(connection)
    past = recall_history.latest(connection).history
    probes = draw(turn, recall.graphs(connection))
    found = measure(turn, past, probes)
    if not found.is_something:
        return {"not_measured": found.stopped or "no segment with vectors is sealed: searches miss nothing"}
    worst = next((fall for fall in found.falls if fall.by_vacuum), None)
    did: dict[str, Any] = {}
    if worst is not None and turn.dry_run:
        did = {"to_repair": str(worst)}
    elif worst is not None and worst.segment is not None:
        repair = _Repair(turn, past, probes, found)
        found, did = repair.mend(worst, worst.segment), {"repair": repair.did}
    return {**found.as_json(), **did}


class _Repair:
    """VACUUM of a segment and, where that is not enough, a new graph. `did`: for people and for records."""

    def __init__(self, turn: Turn, past: History | None, probes: Sequence[Probe], found: Found) -> None:
        self._turn, self._past, self._probes, self._found = turn, past, probes, found
        self.did: dict[str, Any] = {}
        self._built: dict[int | None, Built] = {}

    def mend(self, fall: Fall, segment: Segment) -> Found:
        """Mend one segment and measure all again; gives what was found before where that cannot be done."""
        before = segment.figures.recall
        self.did = {"segment": segment.leaf, "why": fall.why, "did": [], "before": before}
        try:
            self._mend(fall, segment)
        except DBAPIError as error:
            if self._turn.connection.invalidated or is_late(error):  # we are to stop
                raise
            self.did["failed"] = describe(error)
        if not self.did["did"]:
            return self._found
        again = measure(self._turn, self._past, self._probes, self._built)
        if not again.is_something:
            return self._found
        mended = again.segment(segment.leaf)
        self.did["after"] = mended.figures.recall if mended else None
        return again

    def _mend(self, fall: Fall, segment: Segment) -> None:
        if not self._may_begin() or not self._vacuumed(segment.leaf):
            return
        if fall.by_rebuild and self._stays_low(segment) and self._may_begin():
            self._rebuild(segment.leaf)

    def _may_begin(self) -> bool:
        """Ask before each part: a window closes."""
        refusal = hindrance(self._turn)
        if refusal is not None:
            self.did |= {"waits_for": refusal.pop("why"), **refusal}
        return refusal is None

    def _vacuumed(self, leaf: str) -> bool:
        connection = self._turn.connection
        builds.prepare(connection, self._turn.settings)
        before = recall.times_vacuumed(connection, leaf)
        builds.vacuum(connection, leaf)
        if recall.times_vacuumed(connection, leaf) == before:
            if not vacuums.may_vacuum(connection, leaf):
                self.did["failed"] = "the role may not vacuum it: run `ingest roles`"
            else:
                held = horizon.holder(connection, leaf)
                self.did |= {"waits_for": "who has the table locked", "held_by": held}
            return False
        self.did["did"].append("vacuum")
        return True

    def _stays_low(self, segment: Segment) -> bool:
        """Ask the graph again, alone."""
        settings = self._turn.settings
        mine = [graph for graph in recall.graphs(self._turn.connection) if graph.leaf == segment.leaf]
        compared = Comparing(self._turn.connection, settings, mine)
        ask_each(self._turn, self._probes, compared.ask_alone)
        figures = compared.alone.get(segment.leaf, Tally()).figures()
        self.did["after_vacuum"] = figures.recall
        usual = self._found.history.usual_of(segment)
        return too_low(figures, settings.recall_alert, usual) is not None

    def _rebuild(self, leaf: str) -> None:
        connection, settings = self._turn.connection, self._turn.settings
        if not graphs.rebuild(connection, leaf, settings):
            return  # it was merged meanwhile
        self.did["did"].append("rebuild")
        for graph in recall.graphs(connection):
            if graph.leaf == leaf:
                self._built[graph.graph] = Built(graph.rows, settings.hnsw_m, settings.hnsw_ef_construction)
