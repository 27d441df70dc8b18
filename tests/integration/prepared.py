"""A database with documents in it, made once a module: each test gets a copy of it."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest
from pydantic import SecretStr
from sqlalchemy import text

from worker import Document, submit
from worker.db.engine import driver_url
from worker.dispatch import dispatch
from worker.embedded import RunningValkey
from worker.ingest import ingest_batch
from worker.maintenance.run import run_chore
from worker.resources import Resources, close_resources
from worker.settings import load_settings

SENTENCES = 4
# Two documents fill a segment.
SETTINGS = {
    "EMBEDDING_PROVIDER": "none",
    "SEGMENT_ROWS": str(2 * SENTENCES),
    "MAX_UNSEALED_ROWS": "10000",
    "BUILD_WORKERS": "0",
    "CHUNK_SIZE": "100",
}


def told(about: str, sentences: int = SENTENCES) -> str:
    """A text of so many chunks."""
    return "\n\n".join(f"Sentence {n} tells of {about} and what they are made of." for n in range(sentences))


def prepare(
    url: str, valkey: RunningValkey, environment: dict[str, str], parts: Sequence[Sequence[Document]]
) -> str:
    """Fill a database: each part is ingested, and the first sealed; gives the database's name."""
    with _process_of(url, valkey, environment) as mine:
        for number, documents in enumerate(parts):
            submit(documents)
            drained(mine)
            if number == 0:
                run_chore(mine, "seal")
    return driver_url(SecretStr(url)).database or ""


@contextmanager
def _process_of(url: str, valkey: RunningValkey, environment: dict[str, str]) -> Iterator[Resources]:
    with pytest.MonkeyPatch.context() as patched:
        for name, value in {"DATABASE_URL": url, "BROKER_URL": valkey.url, **environment}.items():
            patched.setenv(name, value)
        load_settings.cache_clear()
        mine = Resources(load_settings())
        yield mine
        mine.close()
        close_resources()
    load_settings.cache_clear()


def drained(mine: Resources) -> dict[str, int]:
    """Dispatch and process what is ready, once; give the counts by status."""
    total: dict[str, int] = {}
    dispatch(mine)
    with mine.engine.begin() as connection:
        queued: list[Any] = list(
            connection.execute(text("SELECT batch_id FROM batches WHERE state = 'queued'")).scalars()
        )
    for batch_id in queued:
        for status, count in (ingest_batch(mine, batch_id, "test") or {}).items():
            total[status] = total.get(status, 0) + count
    return total


NewDatabase = Callable[[str | None], str]
