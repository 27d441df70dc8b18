"""One measuring of recall: all probes are asked, bounded, and what needs an index goes first."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from worker.db import recall
from worker.db.recall import Graph
from worker.maintenance.comparing import Comparing
from worker.maintenance.probes import Probe
from worker.maintenance.turn import Turn
from worker.steps.falls import Fall, falls
from worker.steps.recall import Built, History, Measured, Segment, Tally

# How long it lasts, and how long it waits, altogether, while segments wait for their first index.
_MOST_SECONDS, _PATIENCE_SECONDS = 900, 600


@dataclass(frozen=True, slots=True)
class Found:
    """What a measuring came to. `stopped`: why it ended before all was asked."""

    compared: Comparing
    history: History
    falls: Sequence[Fall]
    stopped: str | None

    @property
    def is_something(self) -> bool:
        """Tell whether anything was asked."""
        return self.compared.asked > 0

    def segment(self, leaf: str) -> Segment | None:
        """Give what was found of a segment; None where it is not sealed any more."""
        return next((one for one in self.history.newest.segments if one.leaf == leaf), None)

    def as_json(self) -> dict[str, Any]:
        """Sum it up, for `recall_history` and for people."""
        compared = self.compared
        return {
            **self.history.newest.as_json(),
            "rows_compared": compared.rows,
            "live_ms": _median(compared.live_ms),
            "exact_ms": _median(compared.exact_ms),
            "alerts": [f"{fall} → {fall.mend}" for fall in self.falls],
            **({"stopped": self.stopped} if self.stopped else {}),
        }


def _median(values: Sequence[float]) -> float | None:
    return round(median(values), 1) if values else None


def measure(
    turn: Turn, past: History | None, probes: Sequence[Probe], built: Mapping[int | None, Built] | None = None
) -> Found:
    """Ask all probes, and judge by what was found before. `built`: graphs that are new since."""
    settings = turn.settings
    compared = Comparing(turn.connection, settings, recall.graphs(turn.connection))
    stopped = ask_each(turn, probes, compared.ask)
    segments = tuple(_segment(graph, compared, past, built or {}) for graph in compared.graphs)
    newest = Measured(compared.over_all.figures(), compared.exactly, segments)
    history = History(newest, (past.newest, *past.earlier) if past else ())
    found = falls(history, settings.recall_alert, settings.hnsw_m, settings.hnsw_ef_construction)
    return Found(compared, history, found, stopped)


def ask_each(turn: Turn, probes: Sequence[Probe], ask: Callable[[Probe], bool]) -> str | None:
    """Ask one after the other, each in a transaction of its own; gives why not all were asked."""
    until, patience = time.monotonic() + _MOST_SECONDS, _PATIENCE_SECONDS
    for probe in probes:
        while why := recall.held_up(turn.connection, turn.settings):
            if patience <= 0:
                return why
            patience -= 1
            recall.pause(turn.connection)
        if time.monotonic() > until:
            return f"it took over {_MOST_SECONDS} s"
        if not ask(probe):
            return f"RECALL_ROWS is {turn.settings.recall_rows:,}: the next question compares more"
    return None


def _segment(
    graph: Graph, compared: Comparing, past: History | None, built: Mapping[int | None, Built]
) -> Segment:
    before = past.newest.segment(graph.leaf, graph.graph) if past else None
    rebuilt = built.get(graph.graph) or (before.rebuilt if before else None)
    figures = compared.alone.get(graph.leaf, Tally()).figures()
    return Segment(graph.leaf, graph.graph, graph.rows, figures, rebuilt)
