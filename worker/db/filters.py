"""What a search may see: how many chunks a filter lets through, and how a statement asks for them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, text

from worker.db.conditions import Conditions
from worker.db.segments import Seen, in_list
from worker.errors import IngestError
from worker.filtering import Filter

# So many documents are listed by their ids; where a filter lets more through, each chunk asks for its own.
LISTED = 4000


@dataclass(frozen=True, slots=True)
class Reach:
    """Which chunks of a tenant a search may see, before it is asked what for.

    `chunks` is how many the conditions on documents let through, or at least so many where not `counted`.
    `sealed`: how many of the tenant's have a vector index, and `of_tenant` how many there are, where that is
    known. `documents` lists those let through, as an array's text, or is None where they are too many, or all
    of them.
    `of_chunks` and `of_metadata` are conditions on a row `c` of chunks, the latter of unknown effect;
    `of_documents` are conditions on a row `d` of documents.
    """

    tenant_id: UUID
    chunks: int
    counted: bool
    sealed: int | None = None
    of_tenant: int | None = None
    documents: str | None = None
    of_chunks: tuple[str, ...] = ()
    of_metadata: tuple[str, ...] = ()
    of_documents: tuple[str, ...] = ()
    bound: Mapping[str, Any] = field(default_factory=dict)
    excludes: bool = False

    @property
    def exactly(self) -> int | None:
        """How many chunks there are to find, where that is known."""
        return self.chunks if self.counted and not self.of_metadata and not self.excludes else None

    @property
    def parameters(self) -> dict[str, Any]:
        """What `condition` and `join` refer to."""
        return {**self.bound, "tenant_id": self.tenant_id, "documents": self.documents}

    @property
    def condition(self) -> str:
        """The condition on a row `c` of chunks, but for what `join` asks."""
        return " AND ".join(("c.tenant_id = :tenant_id", *self.of_chunks, *self.of_metadata))

    @property
    def join(self) -> str:
        """What stands behind `chunks c` where each chunk's document must be asked; else nothing.

        LATERAL with a LIMIT leaves the planner one way: for each chunk as it comes, nearest first.
        """
        if not self.of_documents:
            return ""
        asked = " AND ".join(("d.tenant_id = :tenant_id", "d.deleted_at IS NULL", *self.of_documents))
        return f"""
            CROSS JOIN LATERAL (
                SELECT 1 FROM documents d WHERE d.document_id = c.document_id AND {asked}
                UNION ALL
                SELECT 1 FROM documents d WHERE d.duplicate_of = c.document_id AND {asked} LIMIT 1) passes"""

    def all_of(self, among: str) -> str:
        """Give what to read all chunks `c` of these segments from: by documents, where they are listed.

        Here, too, one way is left: an array of thousands takes the planner longer than the search.
        """
        if self.documents is None:
            return f"(SELECT * FROM chunks c WHERE c.segment IN ({among})) c {self.join}"
        return f"""
            unnest(CAST(:documents AS uuid[])) listed(document_id) CROSS JOIN LATERAL (
                SELECT * FROM chunks c
                WHERE c.document_id = listed.document_id AND c.segment IN ({among}) OFFSET 0) c"""

    def without(self, chunks: Sequence[UUID], documents: Sequence[UUID]) -> "Reach":
        """Leave these chunks, and all of these documents, out."""
        left_out = {"without_chunks": list(chunks), "without_documents": list(documents)}
        conditions = ("c.chunk_id <> ALL(:without_chunks)", "c.document_id <> ALL(:without_documents)")
        bound = {**self.bound, **left_out}
        return replace(self, of_chunks=(*self.of_chunks, *conditions), bound=bound, excludes=True)


def projects_named(connection: Connection, tenant_id: UUID, names: Sequence[str]) -> list[UUID]:
    """Give the ids of a tenant's projects. Raises IngestError naming the first that it has not."""
    found = connection.execute(
        text("SELECT name, project_id FROM projects WHERE tenant_id = :tenant_id AND name = ANY(:names)"),
        {"tenant_id": tenant_id, "names": list(names)},
    )
    ids = {row.name: row.project_id for row in found}
    for name in names:
        if name not in ids:
            raise IngestError(f"there is no project {name!r:.200}", "`ingest status` lists what there is")
    return [ids[name] for name in dict.fromkeys(names)]


def resolve(
    connection: Connection,
    tenant_id: UUID,
    wanted: Filter,
    *,
    projects: Sequence[UUID] | None = None,
    tenant_chunks: int | None = None,
    most: int,
) -> Reach:
    """Find what a filter lets through; `most`: beyond so many chunks it need not know how many.

    `projects`: the ids of those the filter names, or None for all. `tenant_chunks`: how many chunks the
    tenant has, where the caller knows. A filter on documents reads those of the tenant, until it has seen
    enough: there is no index on what it may ask for that row-level security would let it use.
    """
    conditions = Conditions(wanted, projects)
    reach = Reach(
        tenant_id,
        tenant_chunks or 0,
        counted=True,
        of_tenant=tenant_chunks,
        of_chunks=tuple(conditions.of_chunks),
        of_metadata=tuple(conditions.of_metadata),
        of_documents=tuple(conditions.of_documents),
        bound=conditions.bound,
    )
    if tenant_chunks is not None and projects is None and not reach.of_documents:
        return reach
    asked = ["d.tenant_id = :tenant_id", "d.deleted_at IS NULL", *conditions.of_projects, *reach.of_documents]
    chunks = 0
    count = _list if reach.of_documents else _count
    for documents in (min(LISTED, most), most):
        found, chunks, listed = count(connection, " AND ".join(asked), reach.parameters, documents + 1)
        if found <= documents:
            return replace(reach, chunks=chunks, documents=listed)
        if chunks > most:
            break
    return replace(reach, chunks=chunks, counted=False)


def _count(
    connection: Connection, asked: str, parameters: Mapping[str, Any], most: int
) -> tuple[int, int, None]:
    """Give (documents, chunks) of the first so many: what holds for a duplicate holds for its owner, too."""
    row = connection.execute(
        text(f"""
            SELECT count(*) AS found, coalesce(sum(total_chunks), 0) AS chunks
            FROM (SELECT d.total_chunks FROM documents d
                  WHERE {asked} AND d.total_chunks IS NOT NULL LIMIT :most) matching"""),
        {**parameters, "most": most},
    ).one()
    return int(row.found), int(row.chunks), None


def _list(
    connection: Connection, asked: str, parameters: Mapping[str, Any], most: int
) -> tuple[int, int, str]:
    """Give (documents, chunks, ids of owners) of the first so many. A duplicate stands for its owner."""
    row = connection.execute(
        text(f"""
            SELECT coalesce(sum(found), 0) AS found, coalesce(sum(chunks), 0) AS chunks,
                   coalesce(array_agg(document_id), '{{}}')::text AS ids
            FROM (SELECT document_id, max(chunks) AS chunks, count(*) AS found
                  FROM (SELECT coalesce(o.document_id, d.document_id) AS document_id,
                               coalesce(o.total_chunks, d.total_chunks) AS chunks
                        FROM documents d LEFT JOIN documents o ON o.document_id = d.duplicate_of
                        WHERE {asked} AND coalesce(o.total_chunks, d.total_chunks) IS NOT NULL
                          AND o.deleted_at IS NULL LIMIT :most) matching
                  GROUP BY document_id) owners"""),
        {**parameters, "most": most},
    ).one()
    return int(row.found), int(row.chunks), str(row.ids)


def numbers_within(connection: Connection, reach: Reach, seen: Seen) -> list[int]:
    """Give the numbers of all chunks within reach. Only where these are counted, and few."""
    found = connection.execute(
        text(f"""
            SELECT c.number FROM {reach.all_of(in_list(seen.all))} WHERE {reach.condition}"""),
        reach.parameters,
    )
    return list(found.scalars())


def documents_of(connection: Connection, reach: Reach, seen: Seen, numbers: Sequence[int]) -> dict[int, UUID]:
    """Give the document of each of these numbers that is a chunk within reach: {number: document_id}."""
    found = connection.execute(
        text(f"""
            SELECT c.number, c.document_id FROM chunks c {reach.join}
            WHERE c.segment IN ({in_list(seen.all)}) AND c.number = ANY(:numbers) AND {reach.condition}"""),
        {**reach.parameters, "numbers": list(numbers)},
    )
    return {row.number: row.document_id for row in found}
