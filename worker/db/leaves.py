"""The leaves of `chunks` and `postings`: a table each a segment, made ahead: no DDL on the write path."""

from sqlalchemy import Connection, text

from worker.db.autovacuum import CHUNKS_LEAF, POSTINGS_LEAF, rendered
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


def postings_name(segment: int) -> str:
    """Name the table of a segment's postings. The trash has none: nothing in it is looked for by words."""
    return f"postings_s{segment:06d}"


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
        # the trash has no vector index: the server's defaults do
        *([f"ALTER TABLE {leaf} SET ({rendered(CHUNKS_LEAF)})"] if segment != TRASH else []),
        f"ALTER TABLE chunks ATTACH PARTITION {leaf} FOR VALUES IN ({segment})",
    ]


def postings_statements(segment: int) -> list[str]:
    """Give the DDL of a segment's postings, in order."""
    leaf = postings_name(segment)
    return [
        f"CREATE TABLE {leaf} (LIKE postings INCLUDING ALL)",
        f"ALTER TABLE {leaf} ALTER COLUMN segment SET DEFAULT {segment}",
        f"ALTER TABLE {leaf} SET (toast_tuple_target = 8160)",
        # numbers of chunks, which no compression makes smaller
        f"ALTER TABLE {leaf} ALTER COLUMN entries SET STORAGE EXTERNAL",
        f"ALTER TABLE {leaf} SET ({rendered(POSTINGS_LEAF)})",
        f"ALTER TABLE postings ATTACH PARTITION {leaf} FOR VALUES IN ({segment})",
    ]


def add_segment(
    connection: Connection, segment: int, state: str, dimension: int, column_type: EmbeddingType
) -> None:
    """Make a segment's leaves and record it. ATTACH waits for writers of `documents`: set a lock_timeout."""
    add_leaf(connection, "chunks", segment, dimension, column_type)
    if segment != TRASH:
        add_leaf(connection, "postings", segment, dimension, column_type)
    connection.execute(
        text("INSERT INTO segments (segment, leaf, state) VALUES (:segment, :leaf, :state)"),
        {"segment": segment, "leaf": leaf_name(segment), "state": state},
    )


def add_leaf(
    connection: Connection, parent: str, segment: int, dimension: int, column_type: EmbeddingType
) -> None:
    """Make one leaf of `chunks` or `postings`, as `add_segment` does."""
    if parent == "chunks":
        leaf, statements = leaf_name(segment), leaf_statements(segment, dimension, column_type)
    else:
        leaf, statements = postings_name(segment), postings_statements(segment)
    for statement in statements:
        connection.execute(text(statement))
    hand_over(connection, parent, leaf)


def hand_over(connection: Connection, parent: str, leaf: str) -> None:
    """Give a leaf to the owner of its parent, whoever made it, and INSERT to whom the parent grants it.

    COPY goes into leaves, the trash apart. Nothing else of the parent's grants is repeated, and what default
    privileges or somebody granted is taken away: no policy binds who reads a leaf. A leaf that is the owner's
    is not altered: that would wait for its index to be built, and have everybody wait behind it.
    """
    owner, is_owners = connection.execute(
        text("""
            SELECT p.relowner::regrole::text, l.relowner = p.relowner FROM pg_class p, pg_class l
            WHERE p.oid = CAST(:parent AS regclass) AND l.oid = CAST(:leaf AS regclass)"""),
        {"parent": parent, "leaf": leaf},
    ).one()
    if not is_owners:
        connection.execute(text(f"ALTER TABLE {leaf} OWNER TO {owner}"))
    for stranger in _granted(connection, leaf):
        connection.execute(text(f"REVOKE ALL ON {leaf} FROM {stranger}"))
    if leaf == TRASH_LEAF:
        return
    writers = connection.execute(
        text("""
            SELECT DISTINCT a.grantee::regrole::text FROM pg_class c, aclexplode(c.relacl) a
            WHERE c.oid = CAST(:parent AS regclass) AND a.privilege_type = 'INSERT'
              AND a.grantee NOT IN (0, c.relowner) ORDER BY 1"""),
        {"parent": parent},
    )
    for writer in writers.scalars():
        connection.execute(text(f"GRANT INSERT ON {leaf} TO {writer}"))


def _granted(connection: Connection, leaf: str) -> list[str]:
    found = connection.execute(
        text("""
            SELECT DISTINCT CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE a.grantee::regrole::text END
            FROM pg_class c, aclexplode(c.relacl) a
            WHERE c.oid = CAST(:leaf AS regclass) AND a.grantee <> c.relowner"""),
        {"leaf": leaf},
    )
    return list(found.scalars())
