"""`segments`: which leaves of `chunks` exist, where rows go and what a search sees."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from sqlalchemy import Connection, text

from worker.errors import SchemaError
from worker.settings import Settings
from worker.types import Lane, SegmentState

# What a search sees: every committed chunk is in exactly one of these, or in the trash.
VISIBLE = (SegmentState.OPEN, SegmentState.SEALING, SegmentState.SEALED)
# Without a vector index: searched exactly.
UNSEALED = (SegmentState.OPEN, SegmentState.SEALING)
# Where chunks are that a deletion must reach: a merge copies them before it is seen.
HOLDING = (*VISIBLE, SegmentState.MERGING)
# The states each may be entered from. The trash and the first open one are made by the migration.
TRANSITIONS: Mapping[SegmentState, tuple[SegmentState, ...]] = {
    SegmentState.OPEN: (SegmentState.SPARE,),
    SegmentState.SEALING: (SegmentState.OPEN,),
    SegmentState.MERGING: (SegmentState.SPARE,),
    SegmentState.SEALED: (SegmentState.SEALING, SegmentState.MERGING),
    SegmentState.EMPTIED: (SegmentState.SEALED, SegmentState.MERGING),
    SegmentState.SPARE: (SegmentState.EMPTIED,),
}
_OPEN_TRIES = 10
# That both leaves of a segment exist.
IS_THERE = "(to_regclass(leaf) IS NOT NULL AND to_regclass(replace(leaf, 'chunks', 'postings')) IS NOT NULL)"


class Segment(NamedTuple):
    """A segment and the table its rows are in."""

    segment: int
    leaf: str


def visible(connection: Connection) -> list[int]:
    """Give the segments a search sees. Read them in the snapshot the search runs in."""
    return [found.segment for found in in_state(connection, *VISIBLE)]


class Seen(NamedTuple):
    """What a search sees: segments with a vector index, with how many rows each, and those without."""

    sealed: Mapping[int, int]
    unsealed: Mapping[int, int]

    @property
    def rows(self) -> int:
        """About how many rows, of all tenants."""
        return sum(self.sealed.values()) + sum(self.unsealed.values())

    @property
    def all(self) -> list[int]:
        """The numbers of all of them."""
        return sorted((*self.sealed, *self.unsealed))


def seen(connection: Connection) -> Seen:
    """Give what a search sees. Read it in the snapshot the search runs in.

    The rows without an index are counted by the server's statistics: a bound on work needs no more.
    """
    found = connection.execute(
        text("""
            SELECT segment, state = 'sealed' AS sealed,
                   coalesce(sealed_rows, pg_stat_get_live_tuples(to_regclass(leaf)), 0) AS rows
            FROM segments WHERE state = ANY(:states) ORDER BY segment"""),
        {"states": [state.value for state in VISIBLE]},
    ).all()
    return Seen(
        {row.segment: int(row.rows) for row in found if row.sealed},
        {row.segment: int(row.rows) for row in found if not row.sealed},
    )


def holding(connection: Connection) -> list[int]:
    """Give the segments that hold live chunks or copies of them, to be seen or not."""
    return [found.segment for found in in_state(connection, *HOLDING)]


def in_state(connection: Connection, *states: SegmentState) -> list[Segment]:
    """Give the segments in these states, in the order of their numbers."""
    found = connection.execute(
        text("SELECT segment, leaf FROM segments WHERE state = ANY(:states) ORDER BY segment"),
        {"states": [state.value for state in states]},
    )
    return [Segment(row.segment, row.leaf) for row in found]


def lock_open(connection: Connection) -> Segment:
    """Give the segment that new rows go to. Its leaf is not emptied before this transaction ends.

    It may be closed meanwhile: rows that come a moment later are as visible there, and its index takes
    them in. What is written counts in the statistics from the commit on, for `unsealed_rows`.
    Raises SchemaError where no segment is open.
    """
    for _ in range(_OPEN_TRIES):
        row = connection.execute(
            text("""
                SELECT segment, leaf, pg_stat_force_next_flush() FROM segments
                WHERE state = 'open' FOR KEY SHARE""")
        ).one_or_none()
        if row is not None:  # else it was closed between our snapshot and our lock
            return Segment(row.segment, row.leaf)
    raise SchemaError("no segment is open", "run `ingest maintain spares`, then `ingest doctor`")


def await_writers(connection: Connection, segment: int) -> None:
    """Wait until nobody holds the segment by `lock_open` any more: its lock_timeout bounds it."""
    connection.execute(
        text("SELECT 1 FROM segments WHERE segment = :segment FOR UPDATE"), {"segment": segment}
    )


def advance(connection: Connection, segment: int, to: SegmentState, rows: int | None = None) -> bool:
    """Move a segment to its next state; False where it is in none before it. `rows`: of a sealed one."""
    moved = connection.execute(
        text("""
            UPDATE segments SET state = :to, sealed_rows = :rows, updated_at = clock_timestamp()
            WHERE segment = :segment AND state = ANY(:from_states)"""),
        {
            "segment": segment,
            "to": to.value,
            "rows": rows,
            "from_states": [state.value for state in TRANSITIONS[to]],
        },
    )
    return moved.rowcount == 1


def take_spare(connection: Connection, to: SegmentState) -> Segment | None:
    """Put the first spare leaf to use; None where none is ready."""
    row = connection.execute(
        text(f"""
            SELECT segment, leaf FROM segments WHERE state = 'spare' AND {IS_THERE}
            ORDER BY segment LIMIT 1 FOR NO KEY UPDATE""")
    ).one_or_none()
    if row is None or not advance(connection, row.segment, to):
        return None
    return Segment(row.segment, row.leaf)


def open_next(connection: Connection) -> Segment | None:
    """Close the open segment and open a spare one; gives the closed, or None where no spare is ready.

    Nobody waits for it: writers lock the open segment's key, which this does not change.
    """
    for closed in in_state(connection, SegmentState.OPEN):
        with connection.begin_nested() as trial:
            advance(connection, closed.segment, SegmentState.SEALING)
            if take_spare(connection, SegmentState.OPEN):
                return closed
            trial.rollback()
    return None


class Fill(NamedTuple):
    """How full the open segment is. `rows` is None where its leaf is gone."""

    rows: int | None
    size_bytes: int
    age_seconds: float


def fill(connection: Connection, most_rows: int) -> Fill:
    """Measure the open segment; counts at most `most_rows`.

    The server's own count is taken where it says more: by it `unsealed_rows` holds ingestion up, which
    must not wait for a segment that is never full.
    """
    row = connection.execute(
        text(f"""
            SELECT leaf, {IS_THERE} AS there,
                   extract(epoch FROM now() - updated_at) AS age,
                   pg_stat_get_live_tuples(to_regclass(leaf)) AS live,
                   coalesce(pg_table_size(to_regclass(leaf)), 0) AS size_bytes
            FROM segments WHERE state = 'open'""")
    ).one()
    rows = max(counted(connection, row.leaf, most_rows), row.live) if row.there else None
    return Fill(rows, int(row.size_bytes), float(row.age))


def next_number(connection: Connection) -> int:
    """Give the number of the next segment: beyond all that are known, and leaves that were left behind."""
    found = connection.execute(
        text("""
            SELECT 1 + greatest(max(segment), max(CAST(substring(c.relname FROM '[0-9]+$') AS int)), 0)
            FROM segments FULL JOIN (
                SELECT p.relname FROM pg_inherits i JOIN pg_class p ON p.oid = i.inhrelid
                WHERE i.inhparent IN ('chunks'::regclass, 'postings'::regclass)) c ON false""")
    )
    return int(found.scalar_one())


def counted(connection: Connection, leaf: str, most: int | None = None) -> int:
    """Count the rows of a leaf, at most `most`."""
    statement = f"SELECT count(*) FROM (SELECT 1 FROM {leaf} LIMIT :most) AS counted"
    return int(connection.execute(text(statement), {"most": most}).scalar_one())


def sealed_size(connection: Connection, sealed: Segment) -> tuple[int, int]:
    """Give (rows when it was sealed, rows that live by the server's statistics)."""
    row = connection.execute(
        text("""
            SELECT sealed_rows, coalesce(pg_stat_get_live_tuples(to_regclass(leaf)), 0) AS live
            FROM segments WHERE segment = :segment"""),
        {"segment": sealed.segment},
    ).one()
    return int(row.sealed_rows), min(int(row.live), int(row.sealed_rows))


def unsealed_rows(connection: Connection) -> int:
    """Give how many rows are searched exactly, from the server's statistics: exact but after a crash."""
    found = connection.execute(
        text("""
            SELECT coalesce(sum(pg_stat_get_live_tuples(to_regclass(leaf))), 0) FROM segments
            WHERE state = ANY(:states)"""),
        {"states": [state.value for state in UNSEALED]},
    )
    return int(found.scalar_one())


def has_room(connection: Connection, settings: Settings, rows: int, lane: Lane = Lane.BULK) -> bool:
    """Tell whether so many rows may come without an index: what every search reads is bounded.

    What a person waits for has as much again to itself, whatever bulk has written. What does not fill a
    segment may always come: only a full one is sealed.
    """
    unsealed = unsealed_rows(connection)
    most = settings.most_unsealed_rows * (20 if lane is Lane.INTERACTIVE else 9) // 10
    return unsealed + rows <= most or unsealed < settings.rows_of_segment


def in_list(segments: Sequence[int]) -> str:
    """Write segments as a literal list: the planner prunes partitions by constants."""
    return ", ".join(str(int(segment)) for segment in segments) or "NULL"
