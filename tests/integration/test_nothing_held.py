"""What sessions hold while the model thinks, and what they keep: nothing anybody could wait for."""

from collections.abc import Callable, Sequence

import pytest
from sqlalchemy import Connection, text

from worker import Document, submit
from worker.queries import read_query
from worker.resources import Resources
from worker.searching import search
from worker.steps.vectors import Matrix

# An open transaction keeps VACUUM from what was deleted since.
OPEN = """SELECT query FROM pg_stat_activity WHERE datname = current_database()
    AND pid <> pg_backend_pid() AND xact_start IS NOT NULL AND backend_type = 'client backend'"""
# A lock of the session stays with a stranger where a pooler hands sessions out by the transaction.
LOCKED = """SELECT objid::text FROM pg_locks JOIN pg_database d ON d.oid = database
    WHERE locktype = 'advisory' AND datname = current_database()"""


@pytest.fixture
def asked(resources: Resources, connection: Connection, monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """What is held each time the model is asked."""
    embed, asked = resources.embedder.embed, []

    def look(texts: Sequence[str]) -> Matrix | None:
        asked.append([*connection.execute(text(OPEN)).scalars(), *connection.execute(text(LOCKED)).scalars()])
        return embed(texts)

    monkeypatch.setattr(resources.embedder, "embed", look)
    return asked


def test_nothing_is_held_while_the_model_thinks_and_no_lock_of_a_session_stays(
    resources: Resources, connection: Connection, drain: Callable[[], dict[str, int]], asked: list[list[str]]
) -> None:
    submit([Document.text(f"Ship {n}.\n\n{n} sailors.", source_path=f"{n}") for n in range(20)])
    assert drain() == {"completed": 20}
    of_documents = len(asked)
    assert search(resources, read_query(text="sailors of ship 7")).hits
    assert 0 < of_documents < len(asked)
    assert asked == [[]] * len(asked)
    assert connection.execute(text(LOCKED)).scalars().all() == []
