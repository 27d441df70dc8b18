"""What is committed, read at once, and what must hold of it at every moment and from one to the next."""

import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple
from uuid import UUID

from sqlalchemy import Connection, text

from worker.types import SETTLED

Move = tuple[str, str]

_PAGE = Path(__file__).parents[3] / "docs/architecture.md"
UNDER_WAY = ("queued", "running")
# What a row says beside the moments at which it was written.
_DOCUMENTS = """
    SELECT d.document_id, t.name AS tenant, p.name AS project, d.source_path AS path, d.lane, d.status,
           d.deleted_at IS NOT NULL AS deleted, d.attempts, d.batch_id, d.isolated,
           d.claimed_version = d.requested_version AS newest, d.total_chunks AS total,
           encode(d.content_hash, 'hex') AS content, d.fingerprint IS NOT NULL AS owns, d.duplicate_of,
           coalesce(c.seen, '{}') AS seen, coalesce(c.trashed, '{}') AS trashed,
           coalesce(c.places, 0) AS places,
           md5(concat(CAST(to_jsonb(d) - '{updated_at}'::text[] AS text), c.ids)) AS whole
    FROM documents d JOIN tenants t USING (tenant_id) LEFT JOIN projects p USING (project_id)
    LEFT JOIN (
        SELECT document_id, count(DISTINCT chunk_index) AS places,
               array_agg(text ORDER BY chunk_index) FILTER (WHERE state <> 'trash') AS seen,
               array_agg(text ORDER BY chunk_index) FILTER (WHERE state = 'trash') AS trashed,
               string_agg(CAST(chunk_id AS text), ' ' ORDER BY chunk_id) AS ids
        FROM chunks JOIN segments USING (segment)
        WHERE state IN ('open', 'sealing', 'sealed', 'trash') GROUP BY document_id) c USING (document_id)
    ORDER BY t.name, p.name NULLS FIRST, d.source_path, d.created_at"""
_BATCHES = """
    SELECT batch_id, state, lane, lease_token AS token, lease_expires_at < now() AS expired,
           documents, progress, settled,
           md5(CAST(to_jsonb(b) - '{updated_at,lease_expires_at}'::text[] AS text)) AS whole
    FROM batches b ORDER BY created_at"""


class Doc(NamedTuple):
    """A document's row, and its chunks in sight and in the trash."""

    document_id: UUID
    tenant: str
    project: str | None
    path: str
    lane: str
    status: str
    deleted: bool
    attempts: int
    batch_id: UUID | None
    isolated: bool
    newest: bool
    total: int | None
    content: str | None
    owns: bool
    duplicate_of: UUID | None
    seen: list[str]
    trashed: list[str]
    places: int
    whole: str

    @property
    def key(self) -> tuple[str, str | None, str]:
        return self.tenant, self.project, self.path

    @property
    def stored(self) -> str:
        return "".join(self.seen + self.trashed)


class Batch(NamedTuple):
    """A batch's row."""

    batch_id: UUID
    state: str
    lane: str
    token: UUID | None
    expired: bool | None
    documents: int
    progress: int
    settled: int
    whole: str


class State(NamedTuple):
    """All documents by path and age, and all batches by age."""

    documents: Mapping[UUID, Doc]
    batches: Mapping[UUID, Batch]

    def live(self) -> list[Doc]:
        return [doc for doc in self.documents.values() if not doc.deleted]

    def in_state(self, *states: str) -> list[Batch]:
        return [batch for batch in self.batches.values() if batch.state in states]

    def held_by(self, batch_id: UUID) -> list[Doc]:
        return [doc for doc in self.documents.values() if doc.batch_id == batch_id]


def read(connection: Connection) -> State:
    documents = [Doc(*row) for row in connection.execute(text(_DOCUMENTS))]
    batches = [Batch(*row) for row in connection.execute(text(_BATCHES))]
    return State({doc.document_id: doc for doc in documents}, {batch.batch_id: batch for batch in batches})


def drawn(title: str) -> set[Move]:
    """Give the moves that a drawing in docs/architecture.md has; what is new comes from `[*]`."""
    section = _PAGE.read_text().partition(f"\n### {title}\n")[2].partition("\n### ")[0]
    return set(re.findall(r"^ +(\S+) --> (\w+) :", section, re.MULTILINE))


OF_DOCUMENTS, OF_BATCHES = drawn("Documents"), drawn("Batches")


def moves(before: Mapping[UUID, Any], after: Mapping[UUID, Any], field: str) -> dict[UUID, Move]:
    """What became of each row, where its state or status is another one now."""
    pairs = {
        one: (getattr(before[one], field) if one in before else "[*]", getattr(row, field))
        for one, row in after.items()
    }
    return {one: move for one, move in pairs.items() if move[0] != move[1]}


# -- at every moment ----------------------------------------------------------------------------------


def check(state: State, max_attempts: int) -> None:
    for doc in state.documents.values():
        _check_chunks(doc)
        assert doc.attempts <= max_attempts, doc
        if doc.duplicate_of and not doc.deleted:
            _check_duplicate(doc, state.documents[doc.duplicate_of])
        if doc.batch_id:
            _check_batch(doc, state)
    for batch in state.in_state("finished"):
        assert batch.progress == batch.documents >= batch.settled, batch
    owned = Counter((doc.tenant, doc.project, doc.content) for doc in state.live() if doc.owns)
    assert set(owned.values()) <= {1}
    paths = Counter(doc.key for doc in state.live())
    assert set(paths.values()) <= {1}


def _check_chunks(doc: Doc) -> None:
    """One chunk set, of as many chunks as the row says, on its side of the trash."""
    chunks, others = (doc.trashed, doc.seen) if doc.deleted else (doc.seen, doc.trashed)
    assert not others, doc
    assert len(chunks) == doc.places == (doc.total or 0), doc
    assert doc.owns == (doc.total is not None), doc
    assert doc.owns >= (doc.status == "completed"), doc


def _check_duplicate(doc: Doc, owner: Doc) -> None:
    assert owner.key[:2] == doc.key[:2], (doc, owner)
    assert not owner.deleted, (doc, owner)
    on_its_way = owner.status not in SETTLED
    assert on_its_way or (owner.owns and owner.content == doc.content), (doc, owner)


def _check_batch(doc: Doc, state: State) -> None:
    """Nobody is in a batch that has ended, and who is to go alone does."""
    batch = state.batches[doc.batch_id]  # type: ignore[index] # asked before
    assert batch.state == ("running" if doc.status == "processing" else "queued"), (doc, batch)
    if doc.isolated:
        assert batch.documents == 1, (doc, batch)


# -- from one moment to the next ----------------------------------------------------------------------


def check_chunks(before: State, after: State, restored: UUID | None = None) -> None:
    """No chunk set is another one but where its document is done, and nobody is gone who was not deleted.

    The `restored` one gives its own up where another owns the content by now.
    """
    for one, doc in after.documents.items():
        if doc.status not in {"completed", "duplicate", "skipped"}:
            was = before.documents[one].stored if one in before.documents else ""
            given_up = one == restored and doc.status == "pending" and not doc.owns
            assert doc.stored == ("" if given_up else was), (was, doc)
    for one in before.documents.keys() - after.documents.keys():
        assert before.documents[one].deleted, before.documents[one]


def rows(state: State) -> list[str]:
    """All of what is committed, to be compared."""
    return [row.whole for part in (state.documents, state.batches) for row in part.values()]
