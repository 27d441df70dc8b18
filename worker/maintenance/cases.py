"""What is wrong in the database, piece by piece, and of each what repairs it where that is always safe."""

import logging
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import NamedTuple, TypeVar
from uuid import UUID

from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError

from worker.db import inspection, mending
from worker.db.engine import describe, single_connection_engine, transaction
from worker.db.inspection import Misplaced, Piece, Sampled
from worker.errors import SchemaError
from worker.patience import briefly
from worker.resources import Resources
from worker.steps.soundness import REPAIR, Fault, Finding, Recorded, Tally, faults_of
from worker.steps.terms import language_term

log = logging.getLogger(__name__)

T = TypeVar("T")

DOCUMENTS_A_PIECE, CHUNKS_A_PIECE = 500, 50_000
SAMPLE_EVERY = 100  # documents
_TERMS_A_CHUNK = 8
_NUMBERS_A_WRITE = 2_000
_SECONDS = 300


class Case(NamedTuple):
    """A finding, and what mends it: a transaction of its own, True where it did. None: a person has to."""

    finding: Finding
    repair: Callable[[], bool] | None = None


class Inspector:
    """Looks for what is wrong, in all of the database or in what a tenant has; each piece in one snapshot."""

    def __init__(self, mine: Resources, tenant_id: UUID | None = None) -> None:
        self._mine, self._tenant_id = mine, tenant_id

    def structure(self) -> list[Case]:
        """Look at segments, leaves and the embedding space."""
        seen_now = self._read(inspection.structure)
        cases = [self._leaf(leaf) for leaf in seen_now.misplaced]
        if not seen_now.has_open:
            seen = "no segment is open: nothing can be written"
            cases.append(self._case(Finding(Fault.SEGMENT, "segments", seen, REPAIR), mending.open_spare))
        for sealed, recorded, rows in seen_now.undercounted:
            seen = f"{rows:,} rows are there, it was sealed with {recorded:,}"
            correct = partial(mending.correct_rows, sealed=sealed, rows=rows)
            cases.append(self._case(Finding(Fault.SEGMENT, sealed.leaf, seen, REPAIR), correct))
        if seen_now.space_said != seen_now.space_stored:
            seen = f"it says {seen_now.space_said or 'nothing'}, the vectors are {seen_now.space_stored}"
            mend = "put the dimension and the type of chunks.embedding into its row"
            cases.append(Case(Finding(Fault.SPACE, "embedding_space", seen, mend)))
        return cases

    def _leaf(self, leaf: Misplaced) -> Case:
        finding = _misplaced(leaf)
        if leaf.there or leaf.attached:
            return Case(finding)
        engine = single_connection_engine(self._mine.settings.maintenance_url, "ingest reconcile")
        restore = partial(mending.restore_leaf, lost=leaf, settings=self._mine.settings)
        return Case(finding, partial(_tried, partial(briefly, engine, restore)))

    def documents(self, after: UUID) -> tuple[Piece, list[Case]]:
        """Look at the next documents and their chunks, and for the words of a sample of these.

        Look at their postings first: a chunk without any lacks its words, too.
        """
        piece = self._read(
            lambda connection: inspection.piece(
                connection, after, DOCUMENTS_A_PIECE, CHUNKS_A_PIECE, self._tenant_id
            )
        )
        cases = [case for document in piece.documents for case in self._document(document, piece)]
        there = {(document.tenant_id, document.document_id) for document in piece.documents}
        cases += [Case(_orphaned(key[1], piece.chunks[key])) for key in piece.chunks.keys() - there]
        searchable = [one for one in piece.documents if one.total and not one.deleted]
        return piece, cases + self._words(searchable[::SAMPLE_EVERY])

    def _document(self, document: Recorded, piece: Piece) -> Iterator[Case]:
        tally = piece.chunks.get((document.tenant_id, document.document_id), Tally())
        for finding in faults_of(document, tally):
            if finding.fault is Fault.BATCH:
                yield Case(finding)
            else:
                stray = finding.fault is Fault.DUPLICATE
                mend = mending.release_stray if stray else mending.mend_document
                yield self._case(finding, partial(mend, document_id=document.document_id))

    def _words(self, documents: Sequence[Recorded]) -> list[Case]:
        paths = {document.document_id: document.source_path for document in documents}
        return [
            Case(_wordless(paths[chunk.document_id], missing))
            for chunk, missing in self._read(partial(self._without_words, document_ids=list(paths)))
        ]

    def _without_words(
        self, connection: Connection, document_ids: Sequence[UUID]
    ) -> list[tuple[Sampled, list[str]]]:
        found = []
        for chunk in inspection.first_chunks(connection, document_ids):
            vocabulary = self._mine.vocabulary
            ids = set(vocabulary.chunk_ids(chunk.text, chunk.heading_path, chunk.language).tolist())
            names = vocabulary.terms()
            terms = sorted((names[number] for number in ids), key=len)[-_TERMS_A_CHUNK:]
            whole = language_term(chunk.language)
            missing = {*terms, whole} - inspection.terms_listing(connection, chunk, [*terms, whole])
            if missing and whole not in missing:
                found.append((chunk, sorted(missing)))
        return found

    def last_block(self) -> int:
        """Give the last block of postings there is to look at."""
        return self._read(inspection.last_block)

    def postings(self, block: int) -> list[Case]:
        """Look whether the chunks of a block have postings."""
        numbers = self._read(partial(inspection.unlisted, block=block, tenant_id=self._tenant_id)).tolist()
        if not numbers:
            return []
        seen = f"{len(numbers):,} chunks are found by no word"
        finding = Finding(Fault.POSTINGS, f"numbers from {min(numbers)}", seen, REPAIR)
        return [Case(finding, partial(_tried, partial(self._write_postings, numbers)))]

    def _write_postings(self, numbers: Sequence[int]) -> bool:
        for start in range(0, len(numbers), _NUMBERS_A_WRITE):
            part = numbers[start : start + _NUMBERS_A_WRITE]
            write = partial(mending.write_postings, numbers=part, vocabulary=self._mine.vocabulary)
            self._mine.transact(write, _SECONDS)
        return True

    def _case(self, finding: Finding, repair: Callable[[Connection], bool]) -> Case:
        return Case(finding, partial(_tried, partial(self._mine.transact, repair, _SECONDS)))

    def _read(self, question: Callable[[Connection], T]) -> T:
        with transaction(self._mine.engine, _SECONDS, reading=True) as connection:
            return question(connection)


def _tried(repair: Callable[[], bool]) -> bool:
    """Try a repair; one that is refused keeps no other from being made."""
    try:
        return repair()
    except (DBAPIError, SchemaError) as error:
        log.warning("reconcile.not_mended", extra={"reason": describe(error)})
        return False


def _misplaced(leaf: Misplaced) -> Finding:
    if leaf.segment is None:
        seen = f"it is a part of {leaf.parent} and of no segment"
        return Finding(Fault.LEAF, leaf.leaf, seen, "put its segment back into segments, or drop it")
    if leaf.there:
        seen = f"it is no part of {leaf.parent} any more"
        mend = f"run ALTER TABLE {leaf.parent} ATTACH PARTITION {leaf.leaf} FOR VALUES IN ({leaf.segment})"
        return Finding(Fault.LEAF, leaf.leaf, seen, mend)
    return Finding(
        Fault.LEAF, leaf.leaf, f"the table is gone; segment {leaf.segment} is {leaf.state}", REPAIR
    )


def _orphaned(document_id: UUID, tally: Tally) -> Finding:
    seen = f"{tally.seen + tally.trashed} chunks of a document that is not there"
    mend = f"run DELETE FROM chunks WHERE document_id = '{document_id}'"  # noqa: S608 -- told, not run; a UUID
    return Finding(Fault.ORPHANS, str(document_id), seen, mend, document_id)


def _wordless(source_path: str, missing: Sequence[str]) -> Finding:
    seen = f"no posting has its first chunk for: {', '.join(missing)}"
    return Finding(Fault.TERMS, source_path, seen, "delete the document, and submit it again")
