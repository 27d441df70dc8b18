"""What must hold between a document and its chunks. Pure: what was counted in, what is wrong out."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple
from uuid import UUID

from worker.types import Status


class Fault(StrEnum):
    """What can be wrong. docs/operations/ says of each what it means and what mends it."""

    CHUNKS = "chunks"
    LEFTOVERS = "leftovers"
    DELETED = "deleted"
    TRASH = "trash"
    PROJECT = "project"
    DUPLICATE = "duplicate"
    BATCH = "batch"
    ORPHANS = "orphans"
    LEAF = "leaf"
    SEGMENT = "segment"
    SPACE = "space"
    POSTINGS = "postings"
    TERMS = "terms"


class Finding(NamedTuple):
    """One thing that is wrong: with what, what was seen, and what mends it. `document`: whose it is."""

    fault: Fault
    subject: str
    seen: str
    mend: str
    document: UUID | None = None

    def as_json(self) -> dict[str, str | None]:
        """Give it as JSON can hold it."""
        return {**self._asdict(), "document": self.document and str(self.document)}


class Tally(NamedTuple):
    """The chunks of a document, counted.

    `seen`: those in sight of searches, `trashed`: those in the trash, and at how many places each are.
    `odd`: those whose place or length cannot be. `strangers`: those of another project than the document.
    """

    seen: int = 0
    places: int = 0
    trashed: int = 0
    trashed_places: int = 0
    odd: int = 0
    strangers: int = 0


@dataclass(frozen=True, slots=True)
class Recorded:
    """What a document's row says. `total`: of its chunk set, None where it has none.

    `stray`: a duplicate of a document that does not own its content. `over`: it is in a batch that has ended.
    """

    document_id: UUID
    tenant_id: UUID
    source_path: str
    status: Status
    deleted: bool
    total: int | None
    stray: bool
    over: bool


REPAIR = "run `ingest verify --repair`"


def faults_of(document: Recorded, tally: Tally) -> Sequence[Finding]:
    """Give what is wrong with a document: of its chunks one thing, the most telling."""
    found = []
    if wrong := _of_chunks(document, tally):
        found.append(_finding(document, *wrong))
    if document.stray:
        found.append(
            _finding(document, Fault.DUPLICATE, "what it is a duplicate of does not own its content")
        )
    if document.over:
        found.append(
            _finding(document, Fault.BATCH, "its batch has ended without it", "run `ingest maintain rescue`")
        )
    return found


def _of_chunks(document: Recorded, tally: Tally) -> tuple[Fault, str] | None:
    stored = tally.seen + tally.trashed
    if document.total is None:
        seen = f"it is {document.status} and should have no chunks, stored: {stored}"
        return (Fault.LEFTOVERS, seen) if stored else None
    scattered = tally.places + tally.trashed_places != stored or tally.odd
    rules = (
        (
            document.deleted and tally.seen,
            Fault.DELETED,
            f"searches find {tally.seen} of its chunks; it is deleted",
        ),
        (
            not document.deleted and tally.trashed,
            Fault.TRASH,
            f"{tally.trashed} of its chunks are in the trash",
        ),
        (
            stored != document.total,
            Fault.CHUNKS,
            f"its row says {document.total} chunks, stored: {stored}",
        ),
        (scattered, Fault.CHUNKS, f"its {stored} chunks do not follow one another"),
        (tally.strangers, Fault.PROJECT, f"{tally.strangers} of its chunks are of another project"),
    )
    return next(((fault, seen) for wrong, fault, seen in rules if wrong), None)


def _finding(document: Recorded, fault: Fault, seen: str, mend: str = REPAIR) -> Finding:
    return Finding(fault, document.source_path, seen, mend, document.document_id)
