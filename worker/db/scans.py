"""The scans that find the nearest chunks: an exact one, and those of the vector indexes.

An exact scan compares chunks one by one; a scan of the indexes goes on until enough have passed the filter,
and compares beside it the rows that have no index yet. Which of the two answers: `nearest`.
"""

import math
import re
from collections.abc import Sequence
from typing import Any, NamedTuple
from uuid import UUID

from sqlalchemy import Connection, Row, text

from worker.db import segments
from worker.db.filters import Reach
from worker.db.segments import Seen
from worker.settings import Settings
from worker.types import Metric

# How far apart, by pgvector; of an inner product it gives the negative, so that less is nearer throughout.
DISTANCE = {Metric.COSINE: "<=>", Metric.L2: "<->", Metric.INNER_PRODUCT: "<#>"}
# For each that is asked for, so many that pass a filter are fetched, of which the nearest are kept.
_PASSED_EACH = 3
# An index stops after so many visits, of which one in ten comes to be checked; then the rest is compared.
_MOST_VISITED = 20_000
_VISITED_EACH = 40
_USUAL_ROWS = 100_000
_VECTOR = re.compile(r"'\[[^]']*\]'")


class Candidate(NamedTuple):
    """A chunk, and its distance to the vector asked for."""

    chunk_id: UUID
    number: int
    document_id: UUID
    distance: float


class Given(NamedTuple):
    """How many chunks the indexes gave; and, past a filter, how many of the tenant's they visited."""

    rows: int
    visited: int


class Scans(NamedTuple):
    """The scans of one search. `plan`: where the plans of their statements are to be written."""

    connection: Connection
    vector: Sequence[float]
    reach: Reach
    seen: Seen
    k: int
    metric: Metric
    settings: Settings
    plan: list[str] | None

    def exact(self) -> list[Candidate]:
        """Compare all."""
        _set(self.connection, ("enable_sort", "on"))
        return [_candidate(row) for row in self._ask(self._one_by_one(self.seen.all))]

    def indexed(self, passing: float) -> tuple[list[Candidate], Given]:
        """Go through the indexes; compare what has none yet. Gives the nearest, and what an index gave.

        Enough that have no index yet do not tell that the indexes did not give up before they had enough.
        """
        among = list(self.seen.sealed)
        branches = [self._by_index(among) if passing == 1.0 else self._by_index_and_filter(among)]
        branches += [self._one_by_one(list(self.seen.unsealed))] if self.seen.unsealed else []
        _set(
            self.connection,
            ("hnsw.iterative_scan", "relaxed_order"),  # what comes late is not lost, and sorted afterwards
            ("hnsw.ef_search", ef_search(self.settings.hnsw_ef_search, self.k, self.seen, passing)),
            ("hnsw.max_scan_tuples", max(_MOST_VISITED, round(_VISITED_EACH * self.k / passing))),
            ("enable_sort", "off"),  # what it guesses of a filter on metadata is far from what was counted
        )
        rows = self._ask(" UNION ALL ".join(f"({branch})" for branch in branches))
        given = Given(rows[0].by_index, rows[0].passed_over) if rows else Given(0, 0)
        return [_candidate(row) for row in rows], given

    def _one_by_one(self, among: Sequence[int]) -> str:
        """Give the exact way. `+ 0`: no vector index gives this order, whatever else the planner thinks."""
        return f"""
            SELECT {self._columns} + 0 AS distance, NULL::bigint AS visited
            FROM {self.reach.all_of(segments.in_list(among))}
            WHERE c.embedding IS NOT NULL AND {self.reach.condition}
            ORDER BY distance, chunk_id LIMIT :k"""

    def _by_index(self, among: Sequence[int]) -> str:
        """Give the way by index. WITH TIES: which of some at one distance come is not left to the graph."""
        return f"""
            SELECT {self._columns} AS distance, 0 AS visited FROM chunks c {self.reach.join}
            WHERE c.segment IN ({segments.in_list(among)}) AND c.embedding IS NOT NULL
              AND {self.reach.condition}
            ORDER BY distance FETCH FIRST :k ROWS WITH TIES"""

    def _by_index_and_filter(self, among: Sequence[int]) -> str:
        """Give the way by index past what a filter keeps back, counting the tenant's chunks on the way."""
        written = f"CAST(:vector AS {self.settings.embedding_type.value})"
        return f"""
            SELECT c.chunk_id, c.number, c.document_id, c.distance, c.visited FROM (
                SELECT c.chunk_id, c.number, c.document_id, c.project_id, c.tenant_id, c.metadata,
                       c.embedding {DISTANCE[self.metric]} {written} AS distance,
                       row_number() OVER () AS visited
                FROM chunks c
                WHERE c.segment IN ({segments.in_list(among)}) AND c.embedding IS NOT NULL
                  AND c.tenant_id = :tenant_id
                ORDER BY distance) c {self.reach.join}
            WHERE {self.reach.condition}
            ORDER BY c.distance FETCH FIRST {_PASSED_EACH * self.k} ROWS WITH TIES"""

    @property
    def _columns(self) -> str:
        written = f"CAST(:vector AS {self.settings.embedding_type.value})"
        return f"c.chunk_id, c.number, c.document_id, (c.embedding {DISTANCE[self.metric]} {written})"

    def _ask(self, branches: str) -> Sequence[Row[Any]]:
        """Ask all branches. `+ 0`: what comes from an index in relaxed order is in no order yet."""
        statement = f"""
            SELECT *, count(visited) OVER () AS by_index, coalesce(max(visited) OVER (), 0) AS passed_over
            FROM ({branches}) nearest ORDER BY distance + 0, chunk_id LIMIT :k"""
        parameters = {**self.reach.parameters, "vector": literal(self.vector), "k": self.k}
        if self.plan is not None:
            lines = self.connection.execute(text(f"EXPLAIN (COSTS OFF) {statement}"), parameters).scalars()
            self.plan.extend(_VECTOR.sub("'…'", line) for line in lines)
        return self.connection.execute(text(statement), parameters).all()


def ef_search(configured: int, k: int, seen: Seen, passing: float) -> int:
    """Give how many candidates each graph keeps, so that recall stays what HNSW_EF_SEARCH gives at k = 10.

    That is meant for one graph of up to _USUAL_ROWS. Of n equal graphs each has to find only an n-th, so
    fewer will do, and few of them make up for many graphs to visit; it takes more among more rows, where a
    filter lets a share through, or where more is asked for. The power is measured (docs/decisions/0013).
    Graphs of unequal size count by their shares of the rows.
    """
    rows = sum(seen.sealed.values())
    graphs = rows**2 / sum(sealed**2 for sealed in seen.sealed.values()) if rows else 1.0
    crowd = max(k / 10, 1) * max(rows / _USUAL_ROWS, 1)
    wanted = configured * math.pow(crowd / (graphs * passing), 0.4)
    return max(10, min(round(wanted), 1000))


def _set(connection: Connection, *settings: tuple[str, str | int]) -> None:
    """Set these for the attempt."""
    connection.exec_driver_sql("; ".join(f"SET LOCAL {name} TO {value}" for name, value in settings))


def literal(vector: Sequence[float]) -> str:
    """Write a vector as pgvector reads it: nine digits are a number of single precision."""
    return f"[{','.join(['%.9g'] * len(vector)) % tuple(vector)}]"


def _candidate(row: Row[Any]) -> Candidate:
    return Candidate(row.chunk_id, row.number, row.document_id, float(row.distance))


def compared(
    connection: Connection,
    vector: Sequence[float],
    numbers: Sequence[int],
    *,
    reach: Reach,
    seen: Seen,
    metric: Metric,
    settings: Settings,
) -> list[Candidate]:
    """Compare the chunks of these numbers, as far as they are within reach; the nearest first."""
    distance = f"c.embedding {DISTANCE[metric]} CAST(:vector AS {settings.embedding_type.value})"
    found = connection.execute(
        text(f"""
            SELECT c.chunk_id, c.number, c.document_id, {distance} AS distance FROM chunks c {reach.join}
            WHERE c.segment IN ({segments.in_list(seen.all)}) AND c.number = ANY(:numbers)
              AND c.embedding IS NOT NULL AND {reach.condition}
            ORDER BY ({distance}) + 0, c.chunk_id"""),
        {**reach.parameters, "vector": literal(vector), "numbers": list(numbers)},
    )
    return [_candidate(row) for row in found]
