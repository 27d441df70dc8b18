"""`segments`: which leaves of `chunks` exist, where rows go and what a search sees."""

from sqlalchemy import Connection, text

# What a search sees: every committed chunk is in exactly one of these, or in the trash.
VISIBLE_STATES = ("open", "sealing", "sealed")


def visible(connection: Connection) -> list[int]:
    """Give the segments a search sees. Read them in the snapshot the search runs in."""
    found = connection.execute(
        text("SELECT segment FROM segments WHERE state = ANY(:states) ORDER BY segment"),
        {"states": list(VISIBLE_STATES)},
    )
    return list(found.scalars())


def lock_open(connection: Connection) -> tuple[int, str]:
    """Give the open segment and its leaf; it stays open until this transaction ends."""
    row = connection.execute(text("SELECT segment, leaf FROM segments WHERE state = 'open' FOR SHARE")).one()
    return row.segment, row.leaf


def in_list(segments: list[int]) -> str:
    """Write segments as a literal list: the planner prunes partitions by constants."""
    return ", ".join(str(int(segment)) for segment in segments) or "NULL"
