"""What producers do to `documents`: submit them. Set-based: a query a slice."""

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple
from uuid import UUID

from sqlalchemy import Connection, TextClause, text

from worker.db.documents import same_project
from worker.steps.fingerprint import source_key
from worker.steps.storable import storable
from worker.types import FileType, Lane


@dataclass(frozen=True, slots=True)
class Submission:
    """One document as a producer hands it over, ready for its row. `cleaned`: as in `documents`."""

    source_path: str
    filename: str
    file_type: FileType
    language: str
    size_bytes: int | None
    modified_us: int | None
    content: bytes | None
    metadata_json: str
    trace: str | None = None
    cleaned: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Scope:
    """Whose documents are meant: a project's, those without a project, or the `whole_tenant`'s.

    `language`: what the project's documents are in, unless they say otherwise.
    """

    tenant_id: UUID
    project_id: UUID | None
    language: str | None = None
    whole_tenant: bool = False

    def condition(self, alias: str = "d.") -> str:
        """Give the condition on a row of `documents`."""
        mine = f"{alias}tenant_id = :tenant_id"
        return mine if self.whole_tenant else f"{mine} AND {same_project(self.project_id, alias)}"

    @property
    def parameters(self) -> dict[str, Any]:
        """Give what `condition` refers to."""
        return {"tenant_id": self.tenant_id, "project_id": self.project_id}


def ensure_scope(connection: Connection, tenant: str, project: str | None) -> Scope:
    """Find a tenant and project by name, made where they are new."""
    insert = "INSERT INTO tenants (name) VALUES (:name) ON CONFLICT (name) DO NOTHING"
    scope = find_scope(connection, tenant, project)
    if scope is not None:
        return scope
    connection.execute(text(insert), {"name": tenant})
    tenant_id = connection.execute(
        text("SELECT tenant_id FROM tenants WHERE name = :name"), {"name": tenant}
    ).scalar_one()
    if project is not None:
        connection.execute(
            text("""INSERT INTO projects (tenant_id, name) VALUES (:tenant_id, :name)
                    ON CONFLICT (tenant_id, name) DO NOTHING"""),
            {"tenant_id": tenant_id, "name": project},
        )
    found = find_scope(connection, tenant, project)
    assert found is not None
    return found


def set_language(connection: Connection, scope: Scope, language: str | None) -> None:
    """Say what a project's documents are in, from their next submission on; None: what LANGUAGE says."""
    connection.execute(
        text("""
            UPDATE projects SET language = :language, updated_at = now()
            WHERE tenant_id = :tenant_id AND project_id = :project_id"""),
        {"language": language, **scope.parameters},
    )


def find_scope(connection: Connection, tenant: str, project: str | None) -> Scope | None:
    """Find a tenant and project by name; None when either is unknown."""
    if any(storable(name) != name for name in (tenant, project or "")):
        return None
    row = connection.execute(
        text("""
            SELECT t.tenant_id, p.project_id, p.language FROM tenants t
            LEFT JOIN projects p ON p.tenant_id = t.tenant_id AND p.name = :project
            WHERE t.name = :tenant"""),
        {"tenant": tenant, "project": project},
    ).one_or_none()
    if row is None or (project is not None and row.project_id is None):
        return None
    return Scope(row.tenant_id, row.project_id, row.language)


def submit(
    connection: Connection,
    scope: Scope,
    documents: Sequence[Submission],
    *,
    lane: Lane,
    recipe: bytes,
    checksum: bool = False,
) -> tuple[list[UUID], list[UUID]]:
    """Record documents, of distinct source paths; gives the ids of the new and of the changed ones.

    A document counts as unchanged, and nothing is written, when it has the size and modification time
    (or, inline, the content) it was last submitted with and its chunk set was made by the same recipe;
    `checksum` has every one read and hashed. A changed one becomes pending; while it is being
    processed it gets a new version, which its worker finds when it finishes.
    """
    written = connection.execute(
        _statement(_SUBMIT, scope), _parameters(scope, documents, lane, recipe, checksum=checksum)
    ).all()
    new = [row.document_id for row in written if row.requested_version == 1]
    return new, [row.document_id for row in written if row.requested_version > 1]


def would_write(
    connection: Connection,
    scope: Scope,
    documents: Sequence[Submission],
    *,
    lane: Lane,
    recipe: bytes,
    checksum: bool = False,
) -> bool:
    """Tell whether `submit` would find anything new or changed among these."""
    found = connection.execute(
        _statement(f"{_CHANGED} SELECT EXISTS (SELECT FROM changed)", scope),
        _parameters(scope, documents, lane, recipe, checksum=checksum),
    )
    return bool(found.scalar_one())


def _statement(statement: str, scope: Scope) -> TextClause:
    return text(
        statement.format(
            same_project=same_project(scope.project_id, "d."),
            same_as_input=_SAME.format(new="i"),
            same_as_excluded=_SAME.format(new="excluded"),
        )
    )


def _parameters(
    scope: Scope, documents: Sequence[Submission], lane: Lane, recipe: bytes, *, checksum: bool
) -> dict[str, Any]:
    return {
        **scope.parameters,
        "documents": json.dumps([_record(document) for document in documents], ensure_ascii=False),
        "lane": lane.value,
        "recipe": recipe,
        "checksum": checksum,
    }


class Present(NamedTuple):
    """A live document that is there before a load. `content_hash`: of what it holds, or points at."""

    document_id: UUID
    content_hash: bytes | None
    as_loaded: bool
    language: str
    metadata: Mapping[str, Any]


def present(
    connection: Connection, scope: Scope, source_paths: Sequence[str], recipe: bytes
) -> dict[str, Present]:
    """Lock and give a scope's live documents of these paths.

    `as_loaded`: settled, of type `chunks`, and as this recipe makes it, or a duplicate.
    """
    found = connection.execute(
        text(f"""
            SELECT d.source_path, d.document_id, d.content_hash, d.metadata,
                   d.file_type = 'chunks' AND (d.status = 'duplicate' OR d.status = 'completed' AND
                       d.fingerprint = sha256(d.content_hash || :recipe
                           || convert_to(d.file_type || '/' || d.language, 'UTF8'))
                   ) AS as_loaded, d.language
            FROM documents d
            WHERE {scope.condition()} AND d.source_key = ANY(:keys) AND d.deleted_at IS NULL
            ORDER BY d.document_id FOR NO KEY UPDATE"""),
        {
            **scope.parameters,
            "keys": [source_key(source_path) for source_path in source_paths],
            "recipe": recipe,
        },
    )
    return {
        row.source_path: Present(
            row.document_id,
            None if row.content_hash is None else bytes(row.content_hash),
            bool(row.as_loaded),
            row.language,
            row.metadata,
        )
        for row in found
    }


def unsettled(connection: Connection, scope: Scope, source_paths: Sequence[str]) -> list[UUID]:
    """Give those of a scope's documents that are not settled yet; nearly always there are none at all."""
    waiting = f"{scope.condition()} AND d.status IN ('pending', 'processing') AND d.deleted_at IS NULL"
    any_of_them = text(f"SELECT 1 FROM documents d WHERE {waiting} LIMIT 1")
    if connection.execute(any_of_them, scope.parameters).first() is None:
        return []
    keys = [source_key(source_path) for source_path in source_paths]
    found = connection.execute(
        text(f"SELECT d.document_id FROM documents d WHERE {waiting} AND d.source_key = ANY(:keys)"),
        {**scope.parameters, "keys": keys},
    )
    return list(found.scalars())


def _record(document: Submission) -> dict[str, Any]:
    return {
        "source_path": document.source_path,
        "source_key": source_key(document.source_path).hex(),
        "filename": document.filename,
        "file_type": document.file_type.value,
        "language": document.language,
        "size_bytes": document.size_bytes,
        "modified_us": document.modified_us,
        "content": None if document.content is None else base64.b64encode(document.content).decode(),
        "metadata": document.metadata_json,
        "trace": document.trace,
        "cleaned": dict(document.cleaned),
    }


# That a live document `d` is as it was submitted last, {new} being what is submitted now.
_SAME = """
    d.status NOT IN ('failed', 'cancelled')
    AND d.file_type = {new}.file_type AND d.language = {new}.language AND d.metadata = {new}.metadata
    AND CASE WHEN {new}.content IS NOT NULL
             THEN coalesce(d.content = {new}.content, d.content_digest = sha256({new}.content), false)
             ELSE d.content IS NULL AND coalesce(d.size_bytes = {new}.size_bytes, false)
                  AND coalesce(d.source_modified_at = {new}.source_modified_at, false) END
    AND (d.fingerprint IS NULL OR d.status <> 'completed'
         OR d.fingerprint = sha256(d.content_hash || :recipe
                || convert_to(d.file_type || '/' || d.language, 'UTF8')))
    AND NOT (d.status = 'pending' AND d.lane = 'bulk' AND :lane = 'interactive')"""

# The condition is asked twice: first so that nothing is written for what is unchanged, and again where
# a row appeared in between: of two equal submissions at once, the second is no change.
# `json` and not `jsonb`: a string of jsonb is limited to 256 MB, and inline content may come near it.
# What waits in a batch leaves it for another lane: it would come no sooner than its neighbours.
# The fingerprint is that of worker/steps/fingerprint.py; a test holds the two together.
_CHANGED = """
WITH input AS (
    SELECT i.source_path, decode(i.source_key, 'hex') AS source_key, i.filename, i.file_type, i.language,
           i.size_bytes,
           to_timestamp(i.modified_us / 1e6) AS source_modified_at, decode(i.content, 'base64') AS content,
           i.metadata::jsonb AS metadata, i.trace, i.cleaned
    FROM json_to_recordset(:documents) AS i(
        source_path text, source_key text, filename text, file_type text, language text,
        size_bytes bigint, modified_us bigint, content text, metadata text, trace text,
        cleaned jsonb)
), changed AS (
    SELECT i.* FROM input i
    LEFT JOIN documents d ON d.tenant_id = :tenant_id AND {same_project}
        AND d.source_key = i.source_key AND d.deleted_at IS NULL
    WHERE d.document_id IS NULL OR :checksum OR NOT ({same_as_input})
)"""
_SUBMIT = (
    _CHANGED
    + """
INSERT INTO documents AS d
    (tenant_id, project_id, source_path, source_key, filename, file_type, language, size_bytes,
     source_modified_at, content, metadata, lane, trace, cleaned)
SELECT :tenant_id, :project_id, source_path, source_key, filename, file_type, language, size_bytes,
       source_modified_at, content, metadata, :lane, trace, cleaned
FROM changed ORDER BY source_key
ON CONFLICT (tenant_id, project_id, source_key) WHERE deleted_at IS NULL DO UPDATE SET
    filename = excluded.filename, file_type = excluded.file_type, language = excluded.language,
    size_bytes = excluded.size_bytes,
    source_modified_at = excluded.source_modified_at, content = excluded.content, content_digest = NULL,
    searched_metadata = CASE WHEN d.fingerprint IS NOT NULL
                             THEN coalesce(d.searched_metadata, nullif(d.metadata, excluded.metadata)) END,
    metadata = excluded.metadata, lane = excluded.lane, trace = excluded.trace, cleaned = excluded.cleaned,
    requested_version = d.requested_version + 1,
    status = CASE d.status WHEN 'processing' THEN 'processing' ELSE 'pending' END,
    batch_id = CASE WHEN d.status = 'pending' AND d.lane <> excluded.lane THEN NULL ELSE d.batch_id END,
    attempts = 0, isolated = false, duplicate_of = NULL, next_attempt_at = NULL, error_code = NULL,
    error_message = NULL, settled_at = NULL, queued_at = now(), updated_at = now()
WHERE :checksum OR NOT ({same_as_excluded})
RETURNING d.document_id, d.requested_version"""
)


def live_paths(connection: Connection, scope: Scope, prefixes: Sequence[str]) -> list[tuple[UUID, str]]:
    """Give (document_id, source_path) of the scope's live documents whose path begins with one of these."""
    found = connection.execute(
        text(f"""
            SELECT d.document_id, d.source_path FROM documents d
            WHERE {scope.condition()} AND d.deleted_at IS NULL
              AND EXISTS (SELECT 1 FROM unnest(CAST(:prefixes AS text[])) AS p(prefix)
                          WHERE starts_with(d.source_path, p.prefix))
            ORDER BY d.source_path"""),
        {"prefixes": list(prefixes), **scope.parameters},
    )
    return [(row.document_id, row.source_path) for row in found]
