"""What a database holds, by content: two of them are the same when these are."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

from benchmarks.chaos.invariants import LIVE
from benchmarks.chaos.script import TENANT

# Attempts, chunks embedded and the rows of segments are the history of a database: no two have the same.
# Of those that share a content, which one owns it and which are its duplicates is chance: each is as good.
_DOCUMENTS = """
    SELECT p.name || ' ' || d.source_path, CASE d.status WHEN 'duplicate' THEN 'completed' ELSE d.status END,
           encode(d.content_hash, 'hex'), d.size_bytes, d.error_code, o.total_chunks,
           d.filename, d.file_type, d.language, d.metadata::text, d.cleaned::text,
           encode(coalesce(d.content_digest, sha256(d.content)), 'hex')
    FROM documents d JOIN projects p USING (project_id) JOIN tenants t ON t.tenant_id = d.tenant_id
    LEFT JOIN documents o ON o.document_id = coalesce(d.duplicate_of, d.document_id)
    WHERE t.name = %s AND d.deleted_at IS NULL"""
_DELETED = """SELECT p.name || ' ' || d.source_path FROM documents d JOIN projects p USING (project_id)
    JOIN tenants t ON t.tenant_id = d.tenant_id WHERE t.name = %s AND d.deleted_at IS NOT NULL"""
_CHUNKS = f"""
    SELECT p.name, encode(d.content_hash, 'hex'), row_number() OVER w,
           coalesce(sum(c.char_length) OVER (w ROWS UNBOUNDED PRECEDING), 0),
           md5(c.text), c.heading_path::text, encode(c.content_hash, 'hex'), md5(c.embedding::text),
           c.language, c.metadata::text
    FROM (SELECT c.* FROM {LIVE}) c JOIN documents d USING (document_id)
    JOIN projects p ON p.project_id = d.project_id JOIN tenants t ON t.tenant_id = d.tenant_id
    WHERE t.name = %s
    WINDOW w AS (PARTITION BY c.document_id ORDER BY c.chunk_index)"""
_STATES = """SELECT status, count(*) FROM documents JOIN tenants t USING (tenant_id)
    WHERE t.name = %s AND deleted_at IS NULL GROUP BY 1"""

Chunk = tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class Holdings:
    """`documents`: by project and path. `chunk_sets`: by project and content, a hash of all there is."""

    documents: Mapping[str, tuple[Any, ...]]
    deleted: Counter[str]
    chunk_sets: Mapping[tuple[str, str], str]
    chunks: int
    states: Mapping[str, int]


def holdings(servers: Any) -> Holdings:
    """Read what the database in use holds of the producers' documents."""
    rows = servers.ask(_CHUNKS, TENANT)
    sets: dict[tuple[str, str], list[Chunk]] = {}
    for project, content, *chunk in rows:
        sets.setdefault((project, content), []).append(tuple(chunk))
    return Holdings(
        {path: tuple(found) for path, *found in servers.ask(_DOCUMENTS, TENANT)},
        Counter(path for (path,) in servers.ask(_DELETED, TENANT)),
        {key: sha256(repr(sorted(chunks)).encode()).hexdigest() for key, chunks in sets.items()},
        len(rows),
        dict(servers.ask(_STATES, TENANT)),
    )


@dataclass(frozen=True, slots=True)
class Difference:
    """How one database differs from another: a few examples of each way, and how many there are."""

    lost: list[str]
    extra: list[str]
    other: list[str]

    @property
    def total(self) -> int:
        """All of them."""
        return len(self.lost) + len(self.extra) + len(self.other)


def difference(mine: Holdings, meant: Holdings) -> Difference:
    """Compare what is there with what should be."""
    lost = [f"{path}: no such document" for path in meant.documents.keys() - mine.documents.keys()]
    lost += [f"{key}: no such chunks" for key in meant.chunk_sets.keys() - mine.chunk_sets.keys()]
    extra = [f"{path}: not deleted" for path in mine.documents.keys() - meant.documents.keys()]
    extra += [f"{key}: chunks of nothing" for key in mine.chunk_sets.keys() - meant.chunk_sets.keys()]
    other = [
        f"{path}: {mine.documents[path]}, not {found}"
        for path, found in meant.documents.items()
        if path in mine.documents and mine.documents[path] != found
    ]
    other += [
        f"{key}: other chunks"
        for key, found in meant.chunk_sets.items()
        if key in mine.chunk_sets and mine.chunk_sets[key] != found
    ]
    if mine.deleted != meant.deleted:
        other.append(
            f"deleted: {sum((mine.deleted - meant.deleted).values())} more, "
            f"{sum((meant.deleted - mine.deleted).values())} fewer"
        )
    if mine.states != meant.states:
        other.append(f"states: {mine.states}, not {meant.states}")
    return Difference(lost, extra, other)
