"""`ingest`, whose main process has a connection in its pool before it forks.

    OPENED=FILE python -m tests.workers.opened worker ingest

OPENED: the file that gets the process id of that connection's backend.
"""

import os
from pathlib import Path
from typing import Any

from celery import signals
from sqlalchemy import text

from worker.cli import main
from worker.resources import resources


def connect(**_: Any) -> None:
    """Ask something over the pool; the connection stays in it."""
    with resources().engine.connect() as connection:
        backend = connection.execute(text("SELECT pg_backend_pid()")).scalar_one()
    Path(os.environ["OPENED"]).write_text(str(backend))


if __name__ == "__main__":
    signals.worker_init.connect(connect, weak=False)
    main()
