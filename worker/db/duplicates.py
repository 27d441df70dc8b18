"""Who owns a content, and who inherits it: one owner a content in a project, the others point at it."""

import json
from collections.abc import Sequence
from uuid import UUID

from sqlalchemy import Connection, text

from worker.db.documents import move, same_project
from worker.types import Status


def owners_of(
    connection: Connection, tenant_id: UUID, project_id: UUID | None, hashes: Sequence[bytes]
) -> dict[bytes, UUID]:
    """Find who owns these contents in a tenant's project: {content_hash: document_id}."""
    if not hashes:
        return {}
    found = connection.execute(
        text(f"""
            SELECT content_hash, document_id FROM documents
            WHERE tenant_id = :tenant_id AND {same_project(project_id)} AND content_hash = ANY(:hashes)
              AND fingerprint IS NOT NULL AND deleted_at IS NULL"""),
        {"tenant_id": tenant_id, "project_id": project_id, "hashes": list(hashes)},
    )
    return {bytes(row.content_hash): row.document_id for row in found}


def release_duplicates(connection: Connection, document_ids: Sequence[UUID]) -> int:
    """Find new owners for the duplicates of documents that may have stopped owning their content.

    A duplicate whose target still owns its content is left alone. Where another document owns it, all
    are pointed there; else the oldest becomes pending, and the others point at it. Gives the number
    of documents that became pending.
    """
    parameters = {"ids": list(document_ids)}
    connection.execute(text(_REPOINT), parameters)
    heirs = connection.execute(text(_HEIRS), parameters).all()
    if not heirs:
        return 0
    # first the heirs leave `duplicate`, then their siblings may point at them
    targets = {str(row.document_id): str(row.duplicate_of) for row in heirs}
    move(
        connection,
        Status.PENDING,
        where="d.document_id = ANY(:heirs)",
        change="queued_at = now(), attempts = 0",
        heirs=[row.document_id for row in heirs],
    )
    connection.execute(
        text("""
            UPDATE documents d SET duplicate_of = heir.key::uuid, updated_at = now()
            FROM json_each_text(:targets) AS heir
            WHERE d.status = 'duplicate' AND d.duplicate_of = heir.value::uuid AND d.deleted_at IS NULL"""),
        {"targets": json.dumps(targets)},
    )
    return len(heirs)


# Duplicates, among those pointing at :ids, whose target is no longer the owner nor on its way to be.
_STRAYS = """
    documents d JOIN documents t ON t.tenant_id = d.tenant_id AND t.document_id = d.duplicate_of
    WHERE t.document_id = ANY(:ids) AND d.status = 'duplicate' AND d.deleted_at IS NULL
      AND NOT (t.deleted_at IS NULL
               AND (t.status IN ('pending', 'processing')
                    OR t.fingerprint IS NOT NULL AND t.content_hash = d.content_hash))"""
_REPOINT = f"""
    UPDATE documents u SET duplicate_of = o.document_id, updated_at = now()
    FROM documents o
    WHERE u.document_id IN (SELECT d.document_id FROM {_STRAYS})
      AND o.tenant_id = u.tenant_id AND o.project_id IS NOT DISTINCT FROM u.project_id
      AND o.content_hash = u.content_hash AND o.fingerprint IS NOT NULL AND o.deleted_at IS NULL"""
_HEIRS = f"""
    SELECT DISTINCT ON (d.duplicate_of) d.document_id, d.duplicate_of FROM {_STRAYS}
    ORDER BY d.duplicate_of, d.created_at, d.document_id"""
