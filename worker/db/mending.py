"""Repairs that are always safe: what is left is what the rows say, or is made again from the source.

Nobody merges segments meanwhile: the caller holds the lock of `compact`. So chunks stay in the segments that
a look at the list has shown.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, Row, text

from worker.db import chunks, postings, segments
from worker.db.documents import move
from worker.db.duplicates import release_duplicates
from worker.db.inspection import OWNER, Misplaced, Sampled, chunks_numbered, tally
from worker.db.leaves import TRASH, add_leaf
from worker.db.segments import Segment
from worker.settings import Settings
from worker.steps.copyrows import HEADER, TRAILER, CopyStream
from worker.steps.postings import Words, copy_parts, invert
from worker.steps.terms import Vocabulary
from worker.types import SegmentState, Status


def mend_document(connection: Connection, document_id: UUID) -> bool:
    """Make a document and its chunks agree; False where it is gone, or a worker has it.

    Chunks on the wrong side of the trash go to the right one. Where a chunk set is not whole then, or has a
    chunk too many, what is left stays searchable and the document is processed again: its fingerprint is made
    one that no content has, so that every chunk is compared.
    """
    row = connection.execute(
        text("""
            SELECT document_id, tenant_id, project_id, status, deleted_at IS NOT NULL AS deleted,
                   fingerprint IS NOT NULL AS has_set, total_chunks
            FROM documents WHERE document_id = :id FOR NO KEY UPDATE"""),
        {"id": document_id},
    ).one_or_none()
    if row is None or row.status == Status.PROCESSING:
        return False
    if not row.has_set:
        chunks.purge_trash(connection, [document_id])
        chunks.remove_sets(connection, [document_id])
        return True
    surplus = _remove_surplus(connection, row)
    _change_sides(connection, row)
    _adopt(connection, row)
    found = tally(connection, row.tenant_id, document_id)
    stored = found.seen + found.trashed
    if surplus or stored != row.total_chunks:
        _put_back(connection, row, stored)
    return True


def _remove_surplus(connection: Connection, row: Row[Any]) -> int:
    """Delete what cannot be a chunk, and of several at one place all but the one of the newest segment."""
    where = segments.in_list(segments.visible(connection))
    removed = connection.execute(
        text(f"""
            DELETE FROM chunks c WHERE c.segment IN ({where}) AND c.document_id = :id
              AND (c.chunk_index < 0 OR c.char_length <= 0 OR EXISTS (
                SELECT 1 FROM chunks o WHERE o.segment IN ({where}) AND o.document_id = :id
                  AND o.chunk_index = c.chunk_index AND o.segment > c.segment))"""),
        {"id": row.document_id},
    )
    return removed.rowcount


def _change_sides(connection: Connection, row: Row[Any]) -> None:
    """Move chunks into the trash of a deleted document, and out of it of a living one."""
    visible = segments.in_list(segments.visible(connection))
    wrong, right = (visible, str(TRASH)) if row.deleted else (str(TRASH), visible)
    connection.execute(
        text(f"""
            DELETE FROM chunks c WHERE c.segment IN ({wrong}) AND c.document_id = :id AND EXISTS (
                SELECT 1 FROM chunks o WHERE o.segment IN ({right}) AND o.document_id = :id
                  AND o.chunk_index = c.chunk_index)"""),
        {"id": row.document_id},
    )
    if row.deleted:
        chunks.trash(connection, [row.document_id])
    else:
        chunks.untrash(connection, [row.document_id])


def _adopt(connection: Connection, row: Row[Any]) -> None:
    """Make chunks those of their document's project."""
    connection.execute(
        text(f"""
            UPDATE chunks SET project_id = :project_id, updated_at = now()
            WHERE segment IN ({segments.in_list([*segments.visible(connection), TRASH])})
              AND document_id = :id AND project_id IS DISTINCT FROM :project_id"""),
        {"id": row.document_id, "project_id": row.project_id},
    )


# A fingerprint that no content has; none where nothing is left.
_OTHER_SET = (
    "total_chunks = nullif(CAST(:stored AS int), 0), chunks_embedded = 0, chunks_reused = 0,"
    " fingerprint = CASE WHEN :stored > 0 THEN sha256(fingerprint) END"
)


def _put_back(connection: Connection, row: Row[Any], stored: int) -> None:
    """Say what is left, and have it processed again; who failed or was cancelled waits for a retry."""
    parameters = {"id": row.document_id, "stored": stored}
    moved = move(
        connection,
        Status.PENDING,
        where="d.document_id = :id AND d.status = 'completed'",
        change=f"queued_at = now(), error_code = 'damaged', error_message = :message, {_OTHER_SET}",
        message=f"{stored} of its {row.total_chunks} chunks were left: it is processed again",
        **parameters,
    )
    if not moved:
        connection.execute(
            text(f"UPDATE documents SET updated_at = now(), {_OTHER_SET} WHERE document_id = :id"), parameters
        )
        release_duplicates(connection, [row.document_id])


def release_stray(connection: Connection, document_id: UUID) -> bool:
    """Have a duplicate of nobody processed: it finds the owner of its content, or becomes it."""
    moved = move(
        connection,
        Status.PENDING,
        where=f"d.document_id = :id AND d.status = 'duplicate' AND NOT EXISTS ({OWNER})",
        change="queued_at = now()",
        id=document_id,
    )
    return bool(moved)


def restore_leaf(connection: Connection, lost: Misplaced, settings: Settings) -> None:
    """Make a leaf that is gone anew, empty. Call it in a transaction of a short lock_timeout."""
    assert lost.segment is not None
    add_leaf(connection, lost.parent, lost.segment, settings.embedding_dimension, settings.embedding_type)


def open_spare(connection: Connection) -> bool:
    """Open a spare segment where none is open; False where none is ready."""
    return segments.take_spare(connection, SegmentState.OPEN) is not None


def correct_rows(connection: Connection, sealed: Segment, rows: int) -> bool:
    """Correct the number of rows that a segment was sealed with, where it is too low."""
    changed = connection.execute(
        text("""
            UPDATE segments SET sealed_rows = :rows
            WHERE segment = :segment AND state = 'sealed' AND sealed_rows < :rows"""),
        {"segment": sealed.segment, "rows": rows},
    )
    return changed.rowcount == 1


def write_postings(connection: Connection, numbers: Sequence[int], vocabulary: Vocabulary) -> int:
    """Write the postings of these chunks anew, into the open segment's leaf; gives of how many chunks."""
    segment, _ = segments.lock_open(connection)
    by_tenant: dict[UUID, list[Sampled]] = defaultdict(list)
    for chunk in chunks_numbered(connection, numbers):
        by_tenant[chunk.tenant_id].append(chunk)
    for tenant_id, found in by_tenant.items():
        postings.copy_rows(connection, segment, CopyStream(_encoded(tenant_id, found, vocabulary)))
    return sum(map(len, by_tenant.values()))


def _encoded(tenant_id: UUID, found: Sequence[Sampled], vocabulary: Vocabulary) -> Iterator[bytes]:
    words = [
        Words(one.number, one.language, vocabulary.chunk_ids(one.text, one.heading_path, one.language))
        for one in found
    ]
    yield from chain([HEADER, b"".join(copy_parts(invert(words, vocabulary), tenant_id)), TRAILER])
