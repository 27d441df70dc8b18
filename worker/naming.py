"""Documents as callers name them, by id, source path or local path; and changing them slice by slice."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import UUID

from sqlalchemy import Connection

from worker import sources
from worker.db import changes, overview
from worker.db.submissions import Scope
from worker.db.tenants import known_scope
from worker.errors import IngestError
from worker.resources import resources
from worker.steps.storable import storable


def ids_and_paths(names: Sequence[str | UUID]) -> tuple[list[UUID], list[str]]:
    """Read names as ids and as source paths: each may be both."""
    ids: list[UUID] = []
    paths: list[str] = []
    for name in several(names):
        if isinstance(name, UUID):
            ids.append(name)
            continue
        with suppress(ValueError):
            ids.append(UUID(name))
        paths.append(storable(name))
        if not sources.is_uri(name):
            with suppress(ValueError):  # no file has such a name
                paths.append(storable(sources.source_path_of(Path(name).absolute())))
    return ids, paths


def several(names: Sequence[str | UUID]) -> Sequence[str | UUID]:
    """Give names as several: one alone is not a list of letters."""
    return [names] if isinstance(names, str | UUID) else names


def on_documents(
    change: Callable[..., Sequence[Any]],
    documents: Sequence[str | UUID] | None,
    tenant: str,
    project: str | None,
) -> Iterator[Sequence[Any]]:
    """Yield what was changed, slice by slice, each committed; of all, in the order of their ids.

    So the end is reached whatever becomes meanwhile of what was changed before.
    """
    after: UUID | None = None

    def run(connection: Connection) -> Sequence[Any]:
        scope = known_scope(connection, tenant, project)
        if documents is None:  # what others have in their projects is never swept along
            return change(connection, replace(scope, whole_tenant=False), None, after=after)
        return change(connection, scope, identify(connection, scope, documents))

    yield (changed := resources().transact(run))
    while documents is None and len(changed) == changes.SLICE:
        after = max(row.document_id for row in changed)
        yield (changed := resources().transact(run))


def identify(
    connection: Connection, scope: Scope, names: Sequence[str | UUID], *, deleted: bool = False
) -> list[UUID]:
    """Give the ids of named documents, the live or the deleted ones.

    Raises IngestError for a path that names one in several projects.
    """
    ids, paths = ids_and_paths(names)
    rows = overview.documents(connection, scope, ids=ids, paths=paths)
    found = [row for row in rows if (row.deleted_at is not None) is deleted]
    projects: dict[str, UUID | None] = {}
    for row in found:
        first = projects.setdefault(row.source_path, row.project_id)
        if first != row.project_id and row.document_id not in ids:
            raise IngestError(
                f"{row.source_path} is a document of several projects", "name the project, or give the id"
            )
    return [row.document_id for row in found]
