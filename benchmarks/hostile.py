"""Files made to harm, beside ordinary ones: what became of each, and what it cost.

Real sizes (a line of 100 MB, 60 MiB of headings), and `$CORPORA/nasty` where it is there. The manifest is
tests/hostile/manifest.py, the processes are those of `ingest add` and `ingest worker`, which is not root.
"""

from collections import Counter
from pathlib import Path

from benchmarks.report import Demand, Report, say
from benchmarks.stack import Stack, running_stack
from tests.hostile import running
from tests.hostile.files import MOST_BYTES
from tests.hostile.manifest import CASES
from worker.cli.output import printable

SHOWN = ("max_document_bytes", "max_document_memory_bytes", "max_document_seconds", "ingest_concurrency")


def run(scale: float) -> Report:
    with running_stack(MAX_DOCUMENT_BYTES=str(round(MOST_BYTES * scale))) as stack:
        folder = stack.folder / "hostile"
        folder.mkdir()
        found = running.run(folder, scale)
        report = Report("hostile", stack.versions(), _shown(stack))
        _fill(report, found, folder)
        report.demands += _demands(found, stack)
    return report


def _shown(stack: Stack) -> dict[str, int]:
    return {name.upper(): getattr(stack.settings, name) for name in SHOWN}


def _fill(report: Report, found: running.Found, folder: Path) -> None:
    rows = []
    for case in CASES:
        outcome = running.outcome_of(found, case, folder)
        cleaned = ", ".join(f"{count} {kind}" for kind, count in outcome.cleaned.items())
        name = printable(case.name.decode("utf-8", "surrogateescape"))
        rows.append(
            (
                name if len(name) < 30 else f"{name[:24]}…",
                case.what,
                outcome.status,
                outcome.code or "",
                cleaned,
            )
        )
    report.table("made here", ("file", "what it is", "ends", "code", "cleaned"), rows)
    nasty = Counter(
        (outcome.status, outcome.code or "")
        for path, outcome in found.outcomes.items()
        if running.CORPORA and path.startswith(running.CORPORA)
    )
    if nasty:
        counts = [(status, code, count) for (status, code), count in sorted(nasty.items())]
        report.table("files of the collection", ("ends", "code", "files"), counts)
    for line in found.wrong:
        say(line)


def _demands(found: running.Found, stack: Stack) -> list[Demand]:
    above = found.peak_mib - found.idle_mib
    return [
        Demand("not as the manifest says", 0, len(found.wrong), at_most=True),
        Demand("peak above idle, MiB", running.bound_mib(stack.settings), above, at_most=True),
    ]
