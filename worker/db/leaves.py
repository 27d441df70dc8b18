"""The leaves of `chunks`: one table a segment, made ahead, so that no DDL runs on the write path."""

from sqlalchemy import Connection, text

from worker.types import EmbeddingType

TRASH = -1
TRASH_LEAF = "chunks_trash"

# A vector longer than this many bytes does not fit a page beside the row's other columns and must be
# TOASTed; a shorter one is kept in line, which makes an exact scan about four times faster.
INLINE_BYTES = 7900
_BYTES_A_NUMBER = {EmbeddingType.VECTOR: 4, EmbeddingType.HALFVEC: 2}
_HEADER_BYTES = 8


def leaf_name(segment: int) -> str:
    """Name a segment's table."""
    return TRASH_LEAF if segment == TRASH else f"chunks_s{segment:06d}"


def leaf_statements(segment: int, dimension: int, column_type: EmbeddingType) -> list[str]:
    """Give the DDL of one leaf, in order: made as its parent, stored for fast scans, then attached.

    ATTACH, not CREATE … PARTITION OF: the latter takes ACCESS EXCLUSIVE on the parent and waits for
    every open reader.
    """
    leaf = leaf_name(segment)
    inline = _HEADER_BYTES + dimension * _BYTES_A_NUMBER[column_type] <= INLINE_BYTES
    storage = "PLAIN" if inline else "EXTERNAL"
    return [
        f"CREATE TABLE {leaf} (LIKE chunks INCLUDING ALL)",
        # rows are encoded before their segment is known: the leaf fills it in
        f"ALTER TABLE {leaf} ALTER COLUMN segment SET DEFAULT {segment}",
        # without it rows over 2 kB move their text out of line, at two thirds of the COPY rate
        f"ALTER TABLE {leaf} SET (toast_tuple_target = 8160)",
        f"ALTER TABLE {leaf} ALTER COLUMN embedding SET STORAGE {storage}",
        f"ALTER TABLE chunks ATTACH PARTITION {leaf} FOR VALUES IN ({segment})",
    ]


def add_segment(
    connection: Connection, segment: int, state: str, dimension: int, column_type: EmbeddingType
) -> None:
    """Make a leaf and record its segment. ATTACH waits for writers of `documents`: set a lock_timeout."""
    for statement in leaf_statements(segment, dimension, column_type):
        connection.execute(text(statement))
    connection.execute(
        text("INSERT INTO segments (segment, leaf, state) VALUES (:segment, :leaf, :state)"),
        {"segment": segment, "leaf": leaf_name(segment), "state": state},
    )
