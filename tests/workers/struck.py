"""`ingest`, whose worker loses a process at the moment it begins to take work.

python -m tests.workers.struck worker ingest
"""

import os
import signal
from typing import Any

from celery.signals import worker_ready

from worker.cli import main


@worker_ready.connect  # type: ignore[untyped-decorator] # celery's
def _strike(sender: Any, **_: Any) -> None:
    process = sender.pool._pool._pool[0]
    os.kill(process.pid, signal.SIGKILL)
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)


if __name__ == "__main__":
    main()
