"""The nearest chunks to a vector among those a search may see: which way they are found, and how far.

Few are compared one by one; many are found by the vector indexes, which go on until enough have passed
the filter, and are checked against the exact way where they give up. Rows without an index yet are
always compared one by one.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

from sqlalchemy import Connection, text

from worker.db.filters import Reach
from worker.db.scans import Candidate, Given, Scans
from worker.db.segments import Seen
from worker.errors import IngestError
from worker.settings import Settings
from worker.types import Metric

# So many chunks compared one by one take about 25 ms at 1,536 dimensions; where there are more rows, an
# index that has to pass over 199 of 200 takes longer than comparing the rest (docs/decisions/0013).
EXACT_CHUNKS = 10_000
RARE = 200
# Smaller vectors are compared faster; by so many times more chunks, where a filter leaves half or fewer.
_EXACT_NUMBERS, _MOST_TIMES = 1536 + 256, 4
# What a filter lets through may lie away from what is asked for: the first to be met are not the nearest. It
# does where so many times more chunks are passed over than its share of them says, which chance does not do.
_FAR, _FEWEST_TO_TELL = 4, 5
# With another metric than the indexed one.
MOST_COMPARED = 200_000
# How many chunks tell what share a filter on their metadata lets through, and how far that may be out.
_SAMPLE, _UNSURE = 1000, 2


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
    scans = Scans(connection, vector, reach, seen, k, metric or settings.embedding_metric, settings, plan)
    return _Search(scans, reach, seen, settings).run()._replace(plan=tuple(plan or ()))


class _Search(NamedTuple):
    """One search: which of its scans answer."""

    scans: Scans
    reach: Reach
    seen: Seen
    settings: Settings

    def run(self) -> Found:
        """Choose between the ways; where the indexes give too few, take the other."""
        if self.scans.metric is not self.settings.embedding_metric:
            return self.by_other_metric()
        counted = _counted(self.reach)
        if self.few:
            return Found(self.scans.exact(), True, f"compared one by one: {counted}")
        share = _share(self.scans.connection, self.reach, self.seen)
        rows = max(sum(self.seen.sealed.values()), 1)
        if share * (rows if self.sealed is None else self.sealed) * RARE < rows:
            return Found(self.scans.exact(), True, f"compared one by one: the few that fit, of {counted}")
        return self.by_index(share, min(share * self.at_least / rows, 1.0))

    def by_index(self, share: float, passing: float) -> Found:
        """Go through the indexes; compare where they give too few, or what a filter leaves lies far off."""
        found, given = self.scans.indexed(passing)
        if given.rows < self.scans.k and len(found) < (self.reach.exactly or math.inf):
            said = f"compared one by one: the indexes gave {given.rows} of {self.scans.k}"
            return Found(self.scans.exact(), True, said)
        if not self.is_far(given, share):
            return Found(found, False, "by the vector indexes")
        if self.reach.counted and share * self.reach.chunks <= MOST_COMPARED:
            said = f"compared one by one: {_counted(self.reach)}, far from what is asked for"
            return Found(self.scans.exact(), True, said)
        return Found(found, False, "by the vector indexes, far from what is asked for", far=True)

    def is_far(self, given: Given, share: float) -> bool:
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
        indexed, metric = self.settings.embedding_metric, self.scans.metric
        if self.reach.chunks > MOST_COMPARED or not self.reach.counted:
            raise IngestError(
                f"by {metric} at most {MOST_COMPARED:,} chunks are compared, and there are more",
                f"limit it to fewer documents, or ask by {indexed}, which has an index",
            )
        said = f"compared one by one: {_counted(self.reach)}; the index is for {indexed}, not {metric}"
        return Found(self.scans.exact(), True, said)


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


def _counted(reach: Reach) -> str:
    return f"{'' if reach.counted else 'over '}{reach.chunks:,} chunks"
