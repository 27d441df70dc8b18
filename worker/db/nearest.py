"""The nearest chunks to a vector among those a search may see: which way they are found, and how far.

Few are compared one by one; many are found by the vector indexes, which go on until enough have passed
the filter, and are checked against the exact way where they give up. Rows without an index yet are
always compared one by one.
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
from worker.errors import IngestError
from worker.settings import Settings
from worker.types import Metric

# How far apart, by pgvector; of an inner product it gives the negative, so that less is nearer throughout.
DISTANCE = {Metric.COSINE: "<=>", Metric.L2: "<->", Metric.INNER_PRODUCT: "<#>"}
# So many chunks compared one by one take about 25 ms at 1,536 dimensions; where there are more rows, an
# index that has to pass over 199 of 200 takes longer than comparing the rest (docs/decisions/0013).
EXACT_CHUNKS = 10_000
RARE = 200
# Smaller vectors are compared faster; by so many times more chunks, where a filter leaves half or fewer.
_EXACT_NUMBERS, _MOST_TIMES = 1536 + 256, 4
# What a filter lets through may lie away from what is asked for: the first to be met are not the nearest. It
# does where so many times more chunks are passed over than its share of them says, which chance does not do.
_PASSED_EACH, _FAR, _FEWEST_TO_TELL = 3, 4, 5
# With another metric than the indexed one.
MOST_COMPARED = 200_000
# How many chunks tell what share a filter on their metadata lets through, and how far that may be out.
_SAMPLE, _UNSURE = 1000, 2
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


class Found(NamedTuple):
    """The nearest first. `exact`: none can be missing. `note`: how they were found; `plan`: PostgreSQL's.

    `far`: what the filter lets through lies away from what is asked for, and is too much to be compared.
    """

    candidates: list[Candidate]
    exact: bool
    note: str
    plan: tuple[str, ...] = ()
    far: bool = False


def score(metric: Metric, distance: float) -> float:
    """Give what is the higher the nearer: cosine similarity, inner product, or the negative L2 distance."""
    return 1.0 - distance if metric is Metric.COSINE else -distance


def most_counted(seen: Seen, metric: Metric | None, settings: Settings) -> int:
    """Give how far `filters.resolve` must count for a search by this metric."""
    other = metric is not None and metric is not settings.embedding_metric
    return MOST_COMPARED if other else exact_most(seen, settings)


def exact_most(seen: Seen, settings: Settings) -> int:
    """Give how many chunks are few enough to be compared one by one, where they are half or fewer of all."""
    times = min(_EXACT_NUMBERS / (settings.embedding_dimension + 256), _MOST_TIMES)
    return max(EXACT_CHUNKS, round(EXACT_CHUNKS * max(times, 1)), seen.rows // RARE)


def candidates(
    connection: Connection,
    vector: Sequence[float],
    *,
    reach: Reach,
    seen: Seen,
    k: int,
    metric: Metric | None = None,
    settings: Settings,
    explain: bool = False,
) -> Found:
    """Give the k nearest chunks within reach: by distance, and where that is equal by id.

    Call it in an `attempt` of a transaction for `reading`, with `seen` read in it: the list of segments and
    their rows must be of one snapshot, or a chunk that moves between them would be seen twice or never.
    Raises IngestError where another metric than the indexed one would read more than MOST_COMPARED.
    """
    plan: list[str] | None = [] if explain else None
    search = _Search(connection, vector, reach, seen, k, metric or settings.embedding_metric, settings, plan)
    return search.run()._replace(plan=tuple(plan or ()))


class Given(NamedTuple):
    """How many chunks the indexes gave; and, past a filter, how many of the tenant's they visited."""

    rows: int
    visited: int


class _Search(NamedTuple):
    """One search, and its two ways. `plan`: where the plans of its statements are to be written."""

    connection: Connection
    vector: Sequence[float]
    reach: Reach
    seen: Seen
    k: int
    metric: Metric
    settings: Settings
    plan: list[str] | None

    def run(self) -> Found:
        """Choose between the ways; where the indexes give too few, take the other."""
        if self.metric is not self.settings.embedding_metric:
            return self.by_other_metric()
        counted = _counted(self.reach)
        if self.few:
            return Found(self.exact(), True, f"compared one by one: {counted}")
        share, rows = _share(self.connection, self.reach, self.seen), max(sum(self.seen.sealed.values()), 1)
        if share * (rows if self.sealed is None else self.sealed) * RARE < rows:
            return Found(self.exact(), True, f"compared one by one: the few that fit, of {counted}")
        return self.by_index(share, min(share * self.at_least / rows, 1.0))

    def by_index(self, share: float, passing: float) -> Found:
        """Go through the indexes; compare where they give too few, or what a filter leaves lies far off."""
        found, given = self.indexed(passing)
        if given.rows < self.k and len(found) < (self.reach.exactly or math.inf):
            return Found(
                self.exact(), True, f"compared one by one: the indexes gave {given.rows} of {self.k}"
            )
        if not self.is_far(given, share):
            return Found(found, False, "by the vector indexes")
        if self.reach.counted and share * self.reach.chunks <= MOST_COMPARED:
            said = f"compared one by one: {_counted(self.reach)}, far from what is asked for"
            return Found(self.exact(), True, said)
        return Found(found, False, "by the vector indexes, far from what is asked for", far=True)

    def is_far(self, given: "Given", share: float) -> bool:
        """Tell whether the indexes passed over far more of the tenant's chunks than the filter's share says.

        `share`: of the metadata's conditions alone.
        """
        among = self.reach.of_tenant or self.seen.rows
        passing = min(share * self.reach.chunks / max(among, 1), 1.0)
        return given.visited * passing > _FAR * max(given.rows, _FEWEST_TO_TELL)

    @property
    def few(self) -> bool:
        """Whether comparing one by one takes less than the indexes, or little more: it misses nothing."""
        counted = self.reach.chunks if self.reach.counted else None
        bounds = [bound for bound in (counted, self.sealed) if bound is not None]
        fewest = min(bounds, default=math.inf)
        usual = max(EXACT_CHUNKS, self.seen.rows // RARE)
        return fewest <= usual or 2 * fewest <= min(self.seen.rows, 2 * exact_most(self.seen, self.settings))

    @property
    def sealed(self) -> int | None:
        """How many chunks within reach have an index, at most; None: nobody knows."""
        if not self.seen.sealed:
            return 0
        bounds = (self.reach.sealed, self.reach.chunks if self.reach.counted else None)
        return min((bound for bound in bounds if bound is not None), default=None)

    @property
    def at_least(self) -> int:
        """How many chunks that conditions on documents let through likely have one, at least."""
        return self.reach.chunks if self.sealed is None else min(self.reach.chunks, self.sealed)

    def by_other_metric(self) -> Found:
        """Compare one by one, however many there are within the bound."""
        indexed = self.settings.embedding_metric
        if self.reach.chunks > MOST_COMPARED or not self.reach.counted:
            raise IngestError(
                f"by {self.metric} at most {MOST_COMPARED:,} chunks are compared, and there are more",
                f"limit it to fewer documents, or ask by {indexed}, which has an index",
            )
        said = f"compared one by one: {_counted(self.reach)}; the index is for {indexed}, not {self.metric}"
        return Found(self.exact(), True, said)

    def exact(self) -> list[Candidate]:
        """Compare all."""
        _set(self.connection, ("enable_sort", "on"))
        return [_candidate(row) for row in self._ask(self._one_by_one(self.seen.all))]

    def indexed(self, passing: float) -> tuple[list[Candidate], "Given"]:
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
        return [_candidate(row) for row in rows], Given(
            rows[0].by_index, rows[0].passed_over
        ) if rows else Given(0, 0)

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


def _share(connection: Connection, reach: Reach, seen: Seen) -> float:
    """Estimate what share of chunks their metadata lets through, from those whose hashes come first.

    A hash knows nothing of metadata: it is a fair draw, and the same one each time.
    """
    if not reach.of_metadata:
        return 1.0
    among = ", ".join(f"({segment})" for segment in seen.all)
    sampled = connection.execute(
        text(f"""
            SELECT coalesce(avg(CASE WHEN {" AND ".join(reach.of_metadata)} THEN 1.0 ELSE 0.0 END), 1.0)
            FROM (VALUES {among}) s(segment) CROSS JOIN LATERAL (
                SELECT c.metadata FROM chunks c
                WHERE c.segment = s.segment AND c.tenant_id = :tenant_id
                ORDER BY c.content_hash LIMIT :most) c"""),
        {**reach.parameters, "most": 1 + _SAMPLE // len(seen.all)},
    )
    share = float(sampled.scalar_one())
    return share if share > _UNSURE / RARE else share / _UNSURE


def literal(vector: Sequence[float]) -> str:
    """Write a vector as pgvector reads it: nine digits are a number of single precision."""
    return f"[{','.join(['%.9g'] * len(vector)) % tuple(vector)}]"


def _candidate(row: Row[Any]) -> Candidate:
    return Candidate(row.chunk_id, row.number, row.document_id, float(row.distance))


def _counted(reach: Reach) -> str:
    return f"{'' if reach.counted else 'over '}{reach.chunks:,} chunks"


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
