"""The database against what it says about itself: read only, each question in the snapshot of its caller."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate
from typing import Any, NamedTuple
from uuid import UUID

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Connection, text

from worker.db import segments
from worker.db.leaves import TRASH
from worker.db.segments import Segment
from worker.steps.postings import BLOCK, BLOCK_BITS, numbers_of
from worker.steps.soundness import Recorded, Tally
from worker.steps.terms import language_term
from worker.types import LANGUAGES, SegmentState, Status

FIRST, LAST = UUID(int=0), UUID(int=(1 << 128) - 1)
_LANGUAGE_TERMS = [language_term(language) for language in LANGUAGES]


class Piece(NamedTuple):
    """Documents in the order of their ids, up to `last`, and all chunks of ids in this range.

    `chunks` may be of documents that are not there: then `documents` has none of their tenant and id.
    """

    documents: list[Recorded]
    chunks: dict[tuple[UUID, UUID], Tally]
    last: UUID


def piece(connection: Connection, after: UUID, most: int, most_chunks: int, tenant_id: UUID | None) -> Piece:
    """Read the next documents and count their chunks: at most `most`, and fewer where they have many."""
    rows = _documents(connection, after, most, tenant_id)
    totals = accumulate(row.total or 0 for row in rows)
    few = sum(1 for total in totals if total <= most_chunks)
    documents = rows[: max(few, 1)]
    last = LAST if len(documents) == len(rows) < most else documents[-1].document_id
    return Piece(documents, _tallies(connection, after, last, tenant_id), last)


def _documents(connection: Connection, after: UUID, most: int, tenant_id: UUID | None) -> list[Recorded]:
    found = connection.execute(
        text(f"""
            SELECT d.document_id, d.tenant_id, d.source_path, d.status, d.deleted_at IS NOT NULL AS deleted,
                   CASE WHEN d.fingerprint IS NOT NULL THEN d.total_chunks END AS total,
                   d.status = 'duplicate' AND d.deleted_at IS NULL AND NOT EXISTS ({OWNER}) AS stray,
                   d.batch_id IS NOT NULL AND NOT EXISTS (
                       SELECT 1 FROM batches b
                       WHERE b.batch_id = d.batch_id AND b.finished_at IS NULL) AS over
            FROM documents d
            WHERE d.document_id > :after AND (CAST(:tenant_id AS uuid) IS NULL OR d.tenant_id = :tenant_id)
            ORDER BY d.document_id LIMIT :most"""),
        {"after": after, "most": most, "tenant_id": tenant_id},
    )
    return [
        Recorded(
            row.document_id,
            row.tenant_id,
            row.source_path,
            Status(row.status),
            row.deleted,
            row.total,
            row.stray,
            row.over,
        )
        for row in found
    ]


# The document that a duplicate `d` may point at: it owns the content, or is on its way to.
OWNER = """
    SELECT 1 FROM documents t
    WHERE t.tenant_id = d.tenant_id AND t.document_id = d.duplicate_of AND t.deleted_at IS NULL
      AND t.project_id IS NOT DISTINCT FROM d.project_id
      AND (t.status IN ('pending', 'processing')
           OR t.fingerprint IS NOT NULL AND t.content_hash = d.content_hash)"""


def tally(connection: Connection, tenant_id: UUID, document_id: UUID) -> Tally:
    """Count the chunks of one document."""
    before = UUID(int=document_id.int - 1)
    return _tallies(connection, before, document_id, tenant_id).get((tenant_id, document_id), Tally())


def _tallies(
    connection: Connection, after: UUID, last: UUID, tenant_id: UUID | None
) -> dict[tuple[UUID, UUID], Tally]:
    """Count chunks by tenant and document, from the index alone where the pages are all-visible."""
    where = f"segment IN ({segments.in_list([*segments.visible(connection), TRASH])})"
    bounds = {"after": after, "last": last, "tenant_id": tenant_id}
    found = connection.execute(
        text(f"""
            SELECT tenant_id, document_id, count(*) FILTER (WHERE segment <> {TRASH}) AS seen,
                   count(DISTINCT chunk_index) FILTER (WHERE segment <> {TRASH}) AS places,
                   count(*) FILTER (WHERE segment = {TRASH}) AS trashed,
                   count(DISTINCT chunk_index) FILTER (WHERE segment = {TRASH}) AS trashed_places,
                   count(*) FILTER (WHERE chunk_index < 0 OR char_length <= 0) AS odd
            FROM chunks
            WHERE {where} AND document_id > :after AND document_id <= :last
              AND (CAST(:tenant_id AS uuid) IS NULL OR tenant_id = :tenant_id)
            GROUP BY tenant_id, document_id"""),
        bounds,
    )
    strangers = connection.execute(
        text(f"""
            SELECT c.document_id, count(*) AS strangers FROM documents d
            JOIN chunks c ON c.document_id = d.document_id AND c.tenant_id = d.tenant_id
            WHERE c.{where} AND d.document_id > :after AND d.document_id <= :last
              AND (CAST(:tenant_id AS uuid) IS NULL OR d.tenant_id = :tenant_id)
              AND c.project_id IS DISTINCT FROM d.project_id
            GROUP BY c.document_id"""),
        bounds,
    )
    strange = {row.document_id: row.strangers for row in strangers}
    return {
        (row.tenant_id, row.document_id): Tally(
            row.seen, row.places, row.trashed, row.trashed_places, row.odd, strange.get(row.document_id, 0)
        )
        for row in found
    }


# -- segments and leaves ---------------------------------------------------------------------------------


class Misplaced(NamedTuple):
    """A leaf that is not as `segments` says. `segment` and `state`: NULL where it is in no segment.

    `there`: a table of this name exists. `attached`: it is a partition of its parent.
    """

    leaf: str
    parent: str
    segment: int | None
    state: str | None
    there: bool
    attached: bool


def misplaced(connection: Connection) -> list[Misplaced]:
    """Compare the segments with the leaves there are, both in this snapshot."""
    found = connection.execute(
        text("""
            WITH wanted AS (
                SELECT segment, state, leaf, 'chunks' AS parent FROM segments UNION ALL
                SELECT segment, state, replace(leaf, 'chunks', 'postings'), 'postings' FROM segments
                WHERE state <> 'trash'
            ), tables AS (
                SELECT oid, relname::text AS leaf FROM pg_class
                WHERE relnamespace = current_schema()::regnamespace AND relkind IN ('r', 'p')
            ), attached AS (
                SELECT l.leaf, p.leaf AS parent FROM pg_inherits i
                JOIN tables l ON l.oid = i.inhrelid JOIN tables p ON p.oid = i.inhparent
                WHERE p.leaf IN ('chunks', 'postings')
            )
            SELECT coalesce(w.leaf, a.leaf) AS leaf, coalesce(w.parent, a.parent) AS parent,
                   w.segment, w.state,
                   EXISTS (SELECT 1 FROM tables t WHERE t.leaf = coalesce(w.leaf, a.leaf)) AS there,
                   a.leaf IS NOT NULL AS attached
            FROM wanted w FULL JOIN attached a ON a.leaf = w.leaf AND a.parent = w.parent
            WHERE w.leaf IS NULL OR a.leaf IS NULL ORDER BY 1""")
    )
    return [Misplaced(*row) for row in found]


def has_open_segment(connection: Connection) -> bool:
    """Tell whether there is a segment that new rows go to."""
    return bool(segments.in_state(connection, SegmentState.OPEN))


def undercounted(connection: Connection, gone: Sequence[str]) -> Iterator[tuple[Segment, int, int]]:
    """Give the sealed segments with more rows than they were sealed with: (segment, recorded, there)."""
    for sealed in segments.in_state(connection, SegmentState.SEALED):
        if sealed.leaf in gone:
            continue
        recorded, _ = segments.sealed_size(connection, sealed)
        # through its parent: who may read that may have no grant on the leaf
        counted = text(f"SELECT count(*) FROM chunks WHERE segment = {sealed.segment}")
        if (rows := int(connection.execute(counted).scalar_one())) > recorded:
            yield sealed, recorded, rows


class Structure(NamedTuple):
    """What there is to see of segments and leaves, and of the embedding space. See the questions below."""

    misplaced: list[Misplaced]
    has_open: bool
    undercounted: list[tuple[Segment, int, int]]
    space_said: str | None
    space_stored: str


def structure(connection: Connection) -> Structure:
    """Look at segments, leaves and embedding space at once."""
    lost = misplaced(connection)
    rows = list(undercounted(connection, [leaf.leaf for leaf in lost]))
    return Structure(lost, has_open_segment(connection), rows, *spaces(connection))


def spaces(connection: Connection) -> tuple[str | None, str]:
    """Give what `embedding_space` says of the vectors, None where it says nothing, and what they are."""
    said = connection.execute(
        text("SELECT column_type || '(' || dimension || ')' FROM embedding_space")
    ).scalar_one_or_none()
    stored = connection.execute(
        text("""
            SELECT format_type(atttypid, atttypmod) FROM pg_attribute
            WHERE attrelid = 'chunks'::regclass AND attname = 'embedding'""")
    )
    return said, str(stored.scalar_one())


# -- postings --------------------------------------------------------------------------------------------


def last_block(connection: Connection) -> int:
    """Give the block of the largest number of a chunk that searches see; -1 where there is none."""
    visible = segments.in_list(segments.visible(connection))
    found = connection.execute(text(f"SELECT max(number) FROM chunks WHERE segment IN ({visible})")).scalar()
    return -1 if found is None else int(found) >> BLOCK_BITS


def unlisted(connection: Connection, block: int, tenant_id: UUID | None) -> NDArray[np.int64]:
    """Give the numbers of a block's chunks that stand in no posting of a language: words do not find them."""
    visible = segments.in_list(segments.visible(connection))
    found = connection.execute(
        text(f"""
            SELECT tenant_id, array_agg(number) AS numbers FROM chunks
            WHERE segment IN ({visible}) AND number >= :low AND number < :high
              AND (CAST(:tenant_id AS uuid) IS NULL OR tenant_id = :tenant_id)
            GROUP BY tenant_id"""),
        {"low": block << BLOCK_BITS, "high": (block << BLOCK_BITS) + BLOCK, "tenant_id": tenant_id},
    )
    stored = {row.tenant_id: np.array(row.numbers, np.int64) for row in found}
    listed = _listed(connection, visible, block, list(stored))
    missing = [np.setdiff1d(numbers, listed[tenant]) for tenant, numbers in stored.items()]
    return np.concatenate([np.empty(0, np.int64), *missing])


def _listed(
    connection: Connection, visible: str, block: int, tenants: Sequence[UUID]
) -> Mapping[UUID, NDArray[np.int64]]:
    found = connection.execute(
        text(f"""
            SELECT p.tenant_id, p.entries FROM unnest(CAST(:tenants AS uuid[])) AS t(tenant_id)
            JOIN postings p USING (tenant_id)
            WHERE p.segment IN ({visible}) AND p.term = ANY(:terms) AND p.block = :block"""),
        {"tenants": list(tenants), "terms": _LANGUAGE_TERMS, "block": block},
    )
    listed: dict[UUID, NDArray[np.int64]] = defaultdict(lambda: np.empty(0, np.int64))
    for row in found:
        listed[row.tenant_id] = np.concatenate([listed[row.tenant_id], numbers_of(block, row.entries)])
    return listed


class Sampled(NamedTuple):
    """A chunk whose words are looked for."""

    document_id: UUID
    number: int
    tenant_id: UUID
    language: str
    text: str
    heading_path: Sequence[str]


def first_chunks(connection: Connection, document_ids: Sequence[UUID]) -> list[Sampled]:
    """Give the first chunk of each of these documents that searches see."""
    visible = segments.in_list(segments.visible(connection))
    found = connection.execute(
        text(f"""
            SELECT DISTINCT ON (document_id) document_id, number, tenant_id, language, text, heading_path
            FROM chunks
            WHERE segment IN ({visible}) AND document_id = ANY(:ids) ORDER BY document_id, chunk_index"""),
        {"ids": list(document_ids)},
    )
    return [Sampled(*row) for row in found]


def chunks_numbered(connection: Connection, numbers: Sequence[int]) -> list[Sampled]:
    """Give the chunks of these numbers that searches see."""
    visible = segments.in_list(segments.visible(connection))
    found = connection.execute(
        text(f"""
            SELECT document_id, number, tenant_id, language, text, heading_path FROM chunks
            WHERE segment IN ({visible}) AND number = ANY(:numbers)"""),
        {"numbers": list(numbers)},
    )
    return [Sampled(*row) for row in found]


def terms_listing(connection: Connection, chunk: Sampled, terms: Sequence[str]) -> set[str]:
    """Give those of these terms whose postings have the chunk."""
    visible = segments.in_list(segments.visible(connection))
    block = chunk.number >> BLOCK_BITS
    found: Any = connection.execute(
        text(f"""
            SELECT term, entries FROM postings
            WHERE segment IN ({visible}) AND tenant_id = :tenant_id AND term = ANY(:terms)
              AND block = :block"""),
        {"tenant_id": chunk.tenant_id, "terms": list(terms), "block": block},
    )
    return {row.term for row in found if chunk.number in numbers_of(block, row.entries)}
