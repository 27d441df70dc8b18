"""What is wrong between a document and its chunks, case by case."""

from dataclasses import replace
from pathlib import Path
from uuid import UUID

import pytest

from worker.steps.soundness import Fault, Recorded, Tally, faults_of
from worker.types import Status

SOUND = Recorded(
    UUID(int=1), UUID(int=2), "a.txt", Status.COMPLETED, deleted=False, total=4, stray=False, over=False
)
NONE = replace(SOUND, status=Status.SKIPPED, total=None)
DELETED = replace(SOUND, deleted=True)
WHOLE = Tally(seen=4, places=4)
TRASHED = Tally(trashed=4, trashed_places=4)


def faults(document: Recorded, tally: Tally) -> list[str]:
    return [finding.fault for finding in faults_of(document, tally)]


@pytest.mark.parametrize(("document", "tally"), [(SOUND, WHOLE), (NONE, Tally()), (DELETED, TRASHED)])
def test_what_is_as_its_row_says_is_no_fault(document: Recorded, tally: Tally) -> None:
    assert faults(document, tally) == []


@pytest.mark.parametrize(
    ("document", "tally", "fault"),
    [
        (SOUND, Tally(), Fault.CHUNKS),
        (SOUND, Tally(seen=3, places=3), Fault.CHUNKS),
        (SOUND, Tally(seen=8, places=4), Fault.CHUNKS),
        (SOUND, Tally(seen=4, places=3), Fault.CHUNKS),
        (SOUND, Tally(seen=4, places=4, odd=1), Fault.CHUNKS),
        (SOUND, Tally(seen=3, places=3, trashed=1, trashed_places=1), Fault.TRASH),
        (SOUND, Tally(seen=4, places=4, trashed=4, trashed_places=4), Fault.TRASH),
        (SOUND, Tally(seen=4, places=4, strangers=1), Fault.PROJECT),
        (NONE, Tally(seen=1, places=1), Fault.LEFTOVERS),
        (NONE, Tally(trashed=1, trashed_places=1), Fault.LEFTOVERS),
        (DELETED, WHOLE, Fault.DELETED),
        (DELETED, Tally(trashed=3, trashed_places=3), Fault.CHUNKS),
        (replace(NONE, deleted=True), WHOLE, Fault.LEFTOVERS),
        (replace(NONE, stray=True), Tally(), Fault.DUPLICATE),
        (replace(SOUND, over=True), WHOLE, Fault.BATCH),
    ],
)
def test_what_is_not_is_one(document: Recorded, tally: Tally, fault: Fault) -> None:
    assert faults(document, tally) == [fault]


def test_a_document_may_have_several() -> None:
    found = faults(replace(NONE, stray=True, over=True), Tally(seen=1, places=1))
    assert found == [Fault.LEFTOVERS, Fault.DUPLICATE, Fault.BATCH]


def test_every_fault_is_explained_to_operators() -> None:
    page = (Path(__file__).parents[2] / "docs/operations/maintenance.md").read_text()
    assert all(f"| `{fault}` |" in page for fault in Fault)
