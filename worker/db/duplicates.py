"""Who owns a content, and who inherits it: one owner a content in a project, the others point at it."""

from collections import defaultdict
from collections.abc import Sequence
from uuid import UUID

from sqlalchemy import Connection, text

from worker.db.documents import move, same_project
from worker.types import Status


def owners_of(
    connection: Connection,
    tenant_id: UUID,
    project_id: UUID | None,
    hashes: Sequence[bytes],
    *,
    lock: bool = False,
) -> dict[bytes, UUID]:
    """Find who owns these contents in a tenant's project: {content_hash: document_id}."""
    if not hashes:
        return {}
    found = connection.execute(
        text(f"""
            SELECT content_hash, document_id FROM documents
            WHERE tenant_id = :tenant_id AND {same_project(project_id)} AND content_hash = ANY(:hashes)
              AND fingerprint IS NOT NULL AND deleted_at IS NULL
            ORDER BY document_id {"FOR NO KEY UPDATE" if lock else ""}"""),
        {"tenant_id": tenant_id, "project_id": project_id, "hashes": list(hashes)},
    )
    return {bytes(row.content_hash): row.document_id for row in found}


def release_duplicates(connection: Connection, document_ids: Sequence[UUID]) -> int:
    """Find new owners for the duplicates of documents that may have stopped owning their content.

    A duplicate whose target still owns its content, or is on its way to, is left alone. Where another
    document owns it, all are pointed there; else the oldest becomes pending, and the others point at
    it. Duplicates and new owners are locked: one that is deleted meanwhile inherits nothing. Gives the
    number of documents that became pending.
    """
    parameters = {"ids": list(document_ids)}
    if not document_ids or connection.execute(text(_HAVE_DUPLICATES), parameters).first() is None:
        return 0  # nearly always: the rest costs ten times as much to plan alone
    strays = connection.execute(text(_STRAYS), parameters).all()
    groups: dict[tuple[UUID, UUID | None, bytes], list[UUID]] = defaultdict(list)
    for row in sorted(strays, key=lambda row: (row.created_at, row.document_id)):
        groups[row.tenant_id, row.project_id, bytes(row.content_hash)].append(row.document_id)
    heirs: list[UUID] = []
    for (tenant_id, project_id, content_hash), members in groups.items():
        owner = owners_of(connection, tenant_id, project_id, [content_hash], lock=True).get(content_hash)
        if owner is None:
            owner = members[0]
            heirs.append(owner)
        _point(connection, [member for member in members if member != owner], owner)
    move(
        connection,
        Status.PENDING,
        where="d.document_id = ANY(:heirs)",
        change="queued_at = now(), attempts = 0",
        heirs=heirs,
    )
    return len(heirs)


def _point(connection: Connection, document_ids: Sequence[UUID], owner: UUID) -> None:
    connection.execute(
        text("UPDATE documents SET duplicate_of = :owner, updated_at = now() WHERE document_id = ANY(:ids)"),
        {"owner": owner, "ids": list(document_ids)},
    )


_HAVE_DUPLICATES = """
    SELECT 1 FROM documents t JOIN documents d ON d.tenant_id = t.tenant_id AND d.duplicate_of = t.document_id
    WHERE t.document_id = ANY(:ids) LIMIT 1"""
# Duplicates, among those pointing at :ids, whose target is no longer the owner nor on its way to be.
_STRAYS = """
    SELECT d.document_id, d.tenant_id, d.project_id, d.content_hash, d.created_at
    FROM documents d JOIN documents t ON t.tenant_id = d.tenant_id AND t.document_id = d.duplicate_of
    WHERE t.document_id = ANY(:ids) AND d.status = 'duplicate' AND d.deleted_at IS NULL
      AND NOT (t.deleted_at IS NULL
               AND (t.status IN ('pending', 'processing')
                    OR t.fingerprint IS NOT NULL AND t.content_hash = d.content_hash))
    ORDER BY d.document_id FOR NO KEY UPDATE OF d"""
