"""reconcile: the database against what it says about itself; what is always safe to mend is mended.

    structure │ segments, leaves, counters, the embedding space                        each run
    postings  │ each chunk has postings, block by block                                from where the last
    documents │ each row against its chunks and what it points at, piece by piece      run ended

Each piece is one short snapshot, so that what is written meanwhile is no finding. `ingest verify` does all of
it at once.
"""

import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from worker.db import operations
from worker.db.inspection import FIRST, LAST
from worker.maintenance.cases import Case, Inspector
from worker.maintenance.turn import Turn
from worker.resources import Resources
from worker.steps.soundness import Fault, Finding

MOST_SECONDS = 300
# A run of the schedule mends at most so many: whatever is wrong, or believed to be, it cannot have everything
# ingested anew.
MOST_MENDED = 1_000
MOST_NAMED = 50
_STRUCTURE = frozenset({Fault.LEAF, Fault.SEGMENT})


class _EnoughError(Exception):
    """The run has had its time, or mended what it may."""


@dataclass(slots=True)
class Survey:
    """One look at the database, and how far it came.

    `mends`: whether it repairs, at most `most` of what it finds. `document`, `block`: from where on; a pass
    begins with FIRST and 0. `report` is told of documents that were looked at. `held`: what could have been
    mended and was not, since `mends` is off.
    """

    inspector: Inspector
    mends: bool = False
    most: float = float("inf")
    ends: float = float("inf")
    halted: Callable[[], bool] = lambda: False
    report: Callable[[int], None] = lambda _more: None
    document: UUID = FIRST
    block: int = 0
    documents: int = 0
    chunks: int = 0
    found: Counter[str] = field(default_factory=Counter)
    mended: Counter[str] = field(default_factory=Counter)
    held: int = 0
    named: dict[bool, list[Finding]] = field(default_factory=lambda: {False: [], True: []})  # by: mended

    def go(self) -> str:
        """Look to the end, or as long as it may; gives why it ended before."""
        try:
            self._structure()
            while self.block <= self.inspector.last_block():
                self._take(self.inspector.postings(self.block))
                self.block += 1
                self._check()
            while self.document != LAST:
                self._look_at_documents()
                self._check()
        except _EnoughError as reason:
            return str(reason)
        self.document, self.block = FIRST, 0
        return ""

    def _look_at_documents(self) -> None:
        piece, cases = self.inspector.documents(self.document)
        self._take(cases)
        self.documents += len(piece.documents)
        self.chunks += sum(tally.seen + tally.trashed for tally in piece.chunks.values())
        self.report(len(piece.documents))
        self.document = piece.last

    def _structure(self) -> None:
        """Look at the structure first; while a person has to mend it, documents are left as they are."""
        self._take(self.inspector.structure())
        if any(finding.fault in _STRUCTURE for finding in self.named[False]):
            self.mends = False

    def _take(self, cases: Iterable[Case]) -> None:
        for finding, repair in cases:
            if self.mends and repair and self.mended.total() >= self.most:
                raise _EnoughError(f"{self.mended.total():,} were mended: the next run goes on")
            mended = bool(self.mends and repair and repair())
            self.held += repair is not None and not self.mends
            self.found[finding.fault.value] += 1
            self.mended[finding.fault.value] += mended
            if len(self.named[mended]) < MOST_NAMED:
                self.named[mended].append(finding)

    def _check(self) -> None:
        if self.halted() or time.monotonic() > self.ends:
            raise _EnoughError("its time was up: the next run goes on")

    def details(self, reason: str) -> dict[str, Any]:
        """Give what it came to, as it is recorded."""
        left = self.found - self.mended
        return {
            "documents": self.documents,
            "chunks": self.chunks,
            "found": dict(self.found),
            "mended": dict(+self.mended),
            "left": left.total(),
            "findings": [
                {**finding.as_json(), "mended": mended}
                for mended, findings in self.named.items()
                for finding in findings
            ],
            "reason": reason,
            "next": None if (self.document, self.block) == (FIRST, 0) else [str(self.document), self.block],
        }


def run(turn: Turn) -> dict[str, Any]:
    """Go on where the last run ended; gives what was looked at, what was wrong, and what was mended of it."""
    document, block = operations.last_details(turn.connection, "reconcile").get("next") or (str(FIRST), 0)
    survey = _survey(turn, most=MOST_MENDED, ends=time.monotonic() + MOST_SECONDS)
    survey.document, survey.block = UUID(document), block
    began = survey.document, survey.block
    reason = survey.go()
    if survey.held and not turn.dry_run:
        survey.document, survey.block = began  # it is not passed over
    return survey.details(reason or _why_held(turn, survey))


def mend_all(turn: Turn, tenant_id: UUID | None, report: Callable[[int], None]) -> dict[str, Any]:
    """Look at everything and mend what is safe, without a bound: a person asked for it."""
    survey = _survey(turn, tenant_id=tenant_id, report=report)
    reason = survey.go()
    survey.document, survey.block = FIRST, 0  # the schedule begins anew
    return survey.details(reason or _why_held(turn, survey))


def examine(mine: Resources, tenant_id: UUID | None, report: Callable[[int], None]) -> dict[str, Any]:
    """Look at everything, and change nothing."""
    survey = Survey(Inspector(mine, tenant_id), report=report)
    return survey.details(survey.go())


def _survey(turn: Turn, tenant_id: UUID | None = None, **options: Any) -> Survey:
    """Mend only while nobody merges segments: chunks then stay in the segments where they were seen."""
    mends = not turn.dry_run and operations.lock_chore(turn.connection, "compact")
    return Survey(Inspector(turn.resources, tenant_id), mends, halted=turn.halted, **options)


def _why_held(turn: Turn, survey: Survey) -> str:
    if turn.dry_run or not survey.held:
        return ""
    return "segments are being merged, or a leaf is to be mended first: documents were left as they are"
