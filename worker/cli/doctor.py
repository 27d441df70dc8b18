"""`ingest doctor`: what is well, what is not, and what mends it; one line each."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import typer

from worker.cli.output import AsJson, emit, say
from worker.errors import Exit, IngestError, SettingsError

if TYPE_CHECKING:  # the database's adapters cost a second to import, and --help must not
    from worker.cli.checks import Finding
    from worker.settings import Settings

_MARKS = {
    "ok": ("✔", "green"),
    "warning": ("!", "yellow"),
    "failed": ("✘", "red"),
    "not checked": ("-", None),
}


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("doctor")(doctor)


def doctor(*, as_json: AsJson = False) -> None:
    """Look at settings, servers, schema, workers, schedule and disk; say what mends what is wrong.

    Exit code 1 when something was found.
    """
    findings = examine()
    well = all(finding.state == "ok" for finding in findings)
    if as_json:
        emit({"ok": well, "findings": [_as_json(finding) for finding in findings]})
    else:
        _say(findings)
    raise typer.Exit(Exit.OK if well else Exit.FINDINGS)


def examine() -> "list[Finding]":
    """Make every check; what depends on something that is missing is not checked."""
    from worker.cli.checks import Finding, State
    from worker.settings import load_settings

    try:
        settings = load_settings()
    except SettingsError as error:
        return [Finding("settings", State.FAILED, error.message, error.hint)]
    return [Finding("settings", State.OK, "all valid"), *_examine_servers(settings)]


def _examine_servers(settings: "Settings") -> "list[Finding]":
    from worker.cli import access, checks, vitals

    server, found = checks.check_database(settings)
    found += checks.check_other_databases(settings)
    migrated = server is not None and checks.check_revision(server).state == "ok"
    try:
        found += access.check_roles(settings, migrated=migrated)
        found += vitals.check_vitals(settings, migrated=migrated)
    except IngestError as error:  # the database went away between two questions
        found.append(checks.Finding("tables", checks.State.FAILED, error.message, error.hint))
    return [*found, *checks.check_broker(settings), checks.check_disk(settings)]


def _as_json(finding: "Finding") -> dict[str, str]:
    return {
        "name": finding.name,
        "state": finding.state.value,
        "seen": finding.seen,
        "mend": finding.mend,
    }


def _say(findings: "Sequence[Finding]") -> None:
    width = max(len(finding.name) for finding in findings)
    for finding in findings:
        mark, colour = _MARKS[finding.state.value]
        mend = f" → {finding.mend}" if finding.mend else ""
        say(f"{typer.style(mark, fg=colour)} {finding.name.ljust(width)}  {finding.seen}{mend}")
