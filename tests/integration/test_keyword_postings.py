"""What `postings` say of the chunks: written with them, folded, merged, never wrong about a live one."""

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import Connection, text

from worker import Document, GivenChunk, GivenDocument, delete, load, restore, submit
from worker.db import postings, segments
from worker.maintenance.run import run_chore
from worker.resources import Resources
from worker.settings import Settings
from worker.steps.postings import BLOCK_BITS, decode
from worker.steps.terms import Vocabulary
from worker.types import SegmentState

Drain = Callable[[], dict[str, int]]

SHIPS = "# Vessels\n\n" + "The ships left the harbour under sail, steered north. " * 40
BREAD = "# Food\n\n" + "The baker kneads dough of flour and bakes breads at dawn. " * 40


@pytest.fixture(autouse=True)
def _use_settings(settings: Settings) -> None:
    """The producer's calls use the process's settings: those of this test."""


def put(name: str, content: str, **options: Any) -> None:
    submit([Document.text(content, source_path=name, **options)])


def listed(connection: Connection) -> dict[tuple[str, int], tuple[int, int]]:
    """Give {(term, number of a chunk): (times, length)}; each once, and the counts of each row right."""
    found: dict[tuple[str, int], tuple[int, int]] = {}
    visible = segments.in_list(segments.visible(connection))
    for row in connection.execute(text(f"SELECT * FROM postings WHERE segment IN ({visible})")):
        entries = decode(bytes(row.entries))
        assert len(entries) == row.chunks
        counted = entries["length" if row.term.startswith("#") else "times"]
        assert int(counted.sum()) == row.occurrences
        for entry in entries:
            key = (row.term, (row.block << BLOCK_BITS) + int(entry["ordinal"]))
            assert key not in found
            found[key] = (int(entry["times"]), int(entry["length"]))
    return found


def expected(connection: Connection, segment: str = "> 0") -> dict[tuple[str, int], tuple[int, int]]:
    """Say the same from the chunks themselves."""
    visible = segments.in_list(segments.visible(connection))
    vocabulary = Vocabulary()
    found: dict[tuple[str, int], tuple[int, int]] = {}
    rows = connection.execute(
        text(f"SELECT number, text, heading_path, language FROM chunks WHERE segment IN ({visible})")
    )
    for row in rows:
        ids = vocabulary.chunk_ids(row.text, row.heading_path, row.language)
        found[f"#{row.language}", row.number] = (0, len(ids))
        for number, times in Counter(ids.tolist()).items():
            found[vocabulary.terms()[number], row.number] = (times, len(ids))
    return found


def seal(resources: Resources) -> None:
    tight = resources.settings.model_copy(update={"segment_rows": 1})
    run_chore(Resources(tight), "seal")


def test_new_chunks_are_listed_by_their_terms_with_their_segment(
    connection: Connection, drain: Drain
) -> None:
    put("ships.md", SHIPS)
    put("brot.md", BREAD, language="german")
    drain()
    found = listed(connection)
    assert found == expected(connection)
    assert {term for term, _ in found} >= {"#english", "#german", "ship", "harbour", "vessel", "bread"}


def test_given_chunks_are_listed_whichever_way_they_come(connection: Connection, drain: Drain) -> None:
    chunk = GivenChunk("Ships sail", [1.0] * 256, ("Of the sea",))
    load([GivenDocument("loaded", [chunk])])
    submit([Document.chunks([GivenChunk("Bread rises", [2.0] * 256)], source_path="submitted")])
    drain()
    assert listed(connection) == expected(connection)
    assert {term for term, _ in listed(connection)} >= {"ship", "sea", "rise"}


def test_edit_lists_the_new_chunks_and_leaves_the_old_entries(connection: Connection, drain: Drain) -> None:
    put("a.md", SHIPS)
    drain()
    before = listed(connection)
    put("a.md", SHIPS + "\n\nAnchors aweigh, and nothing else. " * 60)
    drain()
    found = listed(connection)
    assert found.items() >= before.items()
    assert found.items() >= expected(connection).items()
    assert "aweigh" in {term for term, _ in found}


def test_language_that_changes_is_an_edit(connection: Connection, drain: Drain) -> None:
    put("a.md", SHIPS)
    drain()
    put("a.md", SHIPS, language="german")
    assert drain() == {"completed": 1}
    found = connection.execute(text("SELECT DISTINCT language FROM chunks WHERE segment > 0")).scalars()
    assert set(found) == {"german"}
    assert listed(connection).items() >= expected(connection).items()


def test_unchanged_document_writes_no_posting(connection: Connection, drain: Drain) -> None:
    put("a.md", SHIPS)
    drain()
    before = listed(connection)
    submit([Document.text(SHIPS, source_path="a.md")], checksum=True)
    assert drain() == {"completed": 1}
    assert listed(connection) == before


def test_sealing_leaves_one_row_a_term_and_block(
    connection: Connection, drain: Drain, resources: Resources
) -> None:
    for n in range(5):
        put(f"{n}.md", f"{SHIPS} number {n}")
        drain()
    before = listed(connection)
    seal(resources)
    assert listed(connection) == before == expected(connection)
    assert (
        connection.execute(text("SELECT count(*) - count(DISTINCT (term, block)) FROM postings")).scalar()
        == 0
    )


def test_open_segment_is_folded_only_after_many_small_writes(
    connection: Connection, drain: Drain, resources: Resources, monkeypatch: pytest.MonkeyPatch
) -> None:
    put("a.md", SHIPS)
    drain()
    put("b.md", BREAD)
    drain()
    [opened] = segments.in_state(connection, SegmentState.OPEN)
    assert not postings.is_scattered(connection, opened.segment)
    monkeypatch.setattr(postings, "_MANY_WRITES", 1)
    assert postings.is_scattered(connection, opened.segment)
    before = listed(connection)
    run_chore(resources, "seal")
    assert not postings.is_scattered(connection, opened.segment)
    assert listed(connection) == before


def test_merge_keeps_what_lives_or_may_come_back_and_drops_the_rest(
    connection: Connection, drain: Drain, resources: Resources
) -> None:
    for name in ("gone.md", "stays.md", "trash.md", "edited.md"):
        put(name, f"{SHIPS} {name}")
        drain()
        seal(resources)
    put("edited.md", BREAD)
    delete(["gone.md", "trash.md"])
    drain()
    connection.execute(
        text("""DELETE FROM chunks WHERE segment = -1 AND document_id = (
                    SELECT document_id FROM documents WHERE source_path = 'gone.md')""")
    )
    merged = run_chore(resources, "compact")
    assert len(merged["merged"]) == 4
    found = listed(connection)
    lost = {number for _, number in found} - {number for _, number in expected(connection)}
    trashed = connection.execute(text("SELECT number FROM chunks WHERE segment = -1")).scalars().all()
    assert lost == set(trashed)
    restore(["trash.md"])
    assert listed(connection) == expected(connection) == found


def test_emptied_segment_gives_its_postings_up(
    connection: Connection, drain: Drain, resources: Resources
) -> None:
    for n in range(4):
        put(f"{n}.md", f"{SHIPS} number {n}")
        drain()
        seal(resources)
    run_chore(resources, "compact")
    run_chore(resources, "compact")
    rows = connection.execute(text("SELECT segment FROM postings GROUP BY segment")).scalars().all()
    holding = connection.execute(text("SELECT segment FROM chunks GROUP BY segment")).scalars().all()
    assert set(rows) == set(holding)
