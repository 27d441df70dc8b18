"""`python -m worker.stack PROCFILE STATE`: the child of the stack that runs the Procfile's processes."""

import sys
from pathlib import Path

from worker.settings import child_environment
from worker.stack.processes import run_processes


def main() -> int:
    """Run with the environment the stack gave us."""
    procfile, state = map(Path, sys.argv[1:])
    return run_processes(procfile, child_environment(), state=state)


if __name__ == "__main__":
    sys.exit(main())
