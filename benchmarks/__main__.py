"""Run one benchmark by name, or `all` of them one after the other: python -m benchmarks NAME.

SCALE (default 1) shrinks or stretches the data. Exits with 1 where a demand does not hold, with 2 where the
benchmark cannot be run, with 130 where it was interrupted.
"""

import signal
import subprocess
import sys
from importlib import import_module

from benchmarks.report import BenchmarkError, Report, scale
from worker.errors import Exit

NAMES = (
    "pipeline", "writer", "rerun", "memory", "edits", "sealing", "halfvec", "quality", "peers", "files",
    "growth", "million", "hybrid", "filtered", "overhead", "vacuum", "recall", "chores",
    "priority", "exporter", "logs", "chaos", "hostile", "soak",
)  # fmt: skip


def main() -> int:
    names = sys.argv[1:]
    if names == ["all"]:
        # a process each: what one leaves in memory must not count for the next
        commands = ([sys.executable, "-m", "benchmarks", name] for name in NAMES)
        return max(subprocess.run(command, check=False).returncode for command in commands)
    if len(names) != 1 or names[0] not in NAMES:
        print(f"usage: python -m benchmarks {{{','.join((*NAMES, 'all'))}}}", file=sys.stderr)
        return 2
    try:
        report: Report = import_module(f"benchmarks.{names[0]}").run(scale())
    except BenchmarkError as error:
        print(error, file=sys.stderr)
        return 2
    print(f"written to {report.write()}")
    return 0 if report.holds else 1


if __name__ == "__main__":
    # as at Ctrl-C, servers are stopped and the folder is removed
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        code = main()
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        code = Exit.INTERRUPTED
    sys.exit(code)
