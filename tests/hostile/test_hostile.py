"""The manifest of hostile files holds, at a sixty-fourth of the size; `make hostile` has the whole."""

import warnings
from pathlib import Path

import pytest

from tests.hostile import running
from tests.hostile.files import MOST_BYTES
from tests.hostile.manifest import CASES, PASSED_OVER
from worker.settings import Settings

SCALE = 1 / 64
MEMORY = 32 << 20  # of one document

if not running.CORPORA:
    warnings.warn("CORPORA is not set: only the files that are made here are ingested", stacklevel=1)


@pytest.fixture
def environment() -> dict[str, str]:
    return {
        "MAX_DOCUMENT_BYTES": str(round(MOST_BYTES * SCALE)),
        "MAX_DOCUMENT_MEMORY_BYTES": str(MEMORY),
    }


def test_every_hostile_file_ends_as_the_manifest_says_and_harms_no_neighbour(
    settings: Settings, tmp_path: Path
) -> None:
    found = running.run(tmp_path, SCALE)
    assert found.wrong == []
    assert found.counts["completed"] > running.NEIGHBOURS
    assert found.twins >= 1
    assert found.answer["special_files"] == 2
    assert found.answer["linked_folders"] == 1
    assert sum(case.expected.status == PASSED_OVER for case in CASES) == 3
    assert found.peak_mib <= found.idle_mib + running.bound_mib(settings)
