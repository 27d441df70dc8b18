"""Documents through the whole pipeline, without Celery: what ends where, and at what cost."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, text

from worker import Document, submit
from worker.producer import find

Drain = Callable[[], dict[str, int]]


def only(connection: Connection, statement: str, **parameters: Any) -> Any:
    return connection.execute(text(statement), parameters).scalar_one()


def test_a_file_becomes_searchable_chunks(drain: Drain, connection: Connection, tmp_path: Path) -> None:
    file = tmp_path / "a.md"
    file.write_text("# Title\n\n" + "Some words about ships. " * 200)
    receipt = submit([Document.path(file)])
    assert len(receipt.new) == 1
    assert drain() == {"completed": 1}
    row = find([receipt.new[0]])[0]
    assert row.status == "completed"
    assert row.total_chunks == only(connection, "SELECT count(*) FROM chunks") > 1
    assert only(connection, "SELECT count(*) FROM chunks WHERE embedding IS NULL") == 0
