"""A disk that takes no more: what waits to be written is lost whole, never half, and is made again."""

import itertools
import os
import resource
import shlex
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from sqlalchemy import Connection, text

from tests.conftest import command
from tests.integration.test_pipeline import paragraphs, text_of
from worker import submit
from worker.buffer import BufferLostError
from worker.errors import Exit
from worker.loading import load
from worker.producer import find
from worker.settings import Settings
from worker.types import GivenChunk, GivenDocument

Drain = Callable[[], dict[str, int]]


@pytest.fixture
def environment() -> dict[str, str]:
    """The first call of the model fits into memory, the second does not."""
    return {"WRITE_BUFFER_BYTES": "40000", "EMBEDDING_BATCH_SIZE": "25"}


@contextmanager
def no_file_larger_than(size: int) -> Iterator[None]:
    """Have the system refuse what this process writes beyond `size` bytes of a file."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_batch_whose_buffer_the_disk_refuses_is_put_off_whole(drain: Drain, connection: Connection) -> None:
    submit([text_of("small", "One ship."), text_of("empty", ""), text_of("large", paragraphs(60))])
    with no_file_larger_than(30_000):
        assert drain() == {"skipped": 1}
    assert connection.execute(text("SELECT count(*) FROM chunks")).scalar_one() == 0
    for document in find(["small", "large"]):
        assert (document.status, document.error_code, document.attempts) == ("pending", "worker_disk", 1)
        assert "set TMPDIR to a folder of another disk" in (document.error_message or "")
    connection.execute(text("UPDATE documents SET queued_at = now() WHERE status = 'pending'"))
    assert drain() == {"completed": 2}
    submit([text_of("small", "One ship."), text_of("large", paragraphs(60))], tenant="without trouble")
    assert drain() == {"completed": 2}
    same = connection.execute(
        text("""
            SELECT count(*) AS chunks, count(*) FILTER (WHERE one.embedding = two.embedding) AS equal
            FROM chunks one LEFT JOIN chunks two
              ON two.tenant_id <> one.tenant_id AND two.content_hash = one.content_hash""")
    ).one()
    assert same.chunks == same.equal == 2 * 61


def test_a_load_whose_buffer_the_disk_refuses_says_so_and_leaves_nothing(connection: Connection) -> None:
    chunks = [GivenChunk(f"text {n}", [float(n + 1)] * 256) for n in range(60)]
    with no_file_larger_than(30_000), pytest.raises(BufferLostError, match="File too large → free some"):
        load([GivenDocument("given", chunks)])
    assert connection.execute(text("SELECT count(*) FROM documents")).scalar_one() == 0
    assert load([GivenDocument("given", chunks)]).chunks == 60


def test_beat_on_a_full_disk_does_its_work_and_ends_when_told(settings: Settings, tmp_path: Path) -> None:
    line = f"ulimit -f 0; exec {shlex.join(command('beat'))}"
    beat = subprocess.Popen(
        ["bash", "-c", line],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        cwd=tmp_path,
        env={**os.environ, "DISPATCH_SCHEDULE": "1"},
        text=True,
    )
    assert beat.stdout is not None
    seen = list(
        itertools.takewhile(lambda line: "Sending due task maintain.dispatch" not in line, beat.stdout)
    )
    beat.terminate()
    rest = beat.stdout.read()
    assert beat.wait(timeout=30) == Exit.OK, "".join(seen) + rest
    assert "schedule.unsaved" in "".join(seen)
    assert "Traceback" not in rest
