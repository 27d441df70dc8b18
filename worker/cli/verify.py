"""`ingest verify`: the database against what it says about itself."""

from functools import partial
from typing import TYPE_CHECKING, Annotated, Any
from uuid import UUID

import typer

from worker.cli.output import AsJson, count, emit, note, printable, say
from worker.cli.progress import counted
from worker.errors import Exit

if TYPE_CHECKING:  # imports cost, and --help must not
    from worker.resources import Resources

_SHOWN = 20


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("verify")(verify)


def verify(
    tenant: Annotated[str | None, typer.Option(help="Only what this tenant has; without it, all.")] = None,
    *,
    repair: Annotated[bool, typer.Option("--repair", help="Mend what is always safe to mend.")] = False,
    as_json: AsJson = False,
) -> None:
    """Compare documents, chunks, segments and postings with what their rows say; change nothing.

    Exit code 1 when something is wrong and was not mended.
    """
    from worker.cli.startup import as_role
    from worker.db.engine import reach
    from worker.resources import resources
    from worker.settings import load_settings

    settings = load_settings()
    reach(settings.maintenance_url, lambda _: None, settings.setting_of(settings.maintenance_url))
    as_role(settings.maintenance_database_url)
    did = _verify(resources(), tenant, repair=repair)
    if as_json:
        emit(did)
    else:
        _say(did)
    raise typer.Exit(Exit.FINDINGS if did.get("left", 1) else Exit.OK)


def _verify(mine: "Resources", tenant: str | None, *, repair: bool) -> dict[str, Any]:
    from worker.db.overview import count_documents
    from worker.db.tenants import known_scope
    from worker.maintenance import reconcile
    from worker.maintenance.run import run_chore

    tenant_id: UUID | None = None
    if tenant is not None:
        tenant_id = mine.transact(partial(known_scope, tenant=tenant, project=None)).tenant_id
    total = mine.transact(partial(count_documents, tenant_id=tenant_id))
    with counted("verifying documents", total) as report:
        if not repair:
            return {"outcome": "done", **reconcile.examine(mine, tenant_id, report)}
        mend = partial(reconcile.mend_all, tenant_id=tenant_id, report=report)
        return run_chore(mine, "reconcile", work=mend, recorded=tenant is None)


def _say(did: dict[str, Any]) -> None:
    if did["outcome"] == "locked":
        say("reconcile is running elsewhere; nothing was done here")
        return
    for finding in did["findings"][:_SHOWN]:
        mark = ("✔", "green") if finding["mended"] else ("✘", "red")
        mend = "mended" if finding["mended"] else finding["mend"]
        seen = f"{printable(finding['subject'])}: {printable(finding['seen'])}"
        say(f"{typer.style(mark[0], fg=mark[1])} {finding['fault']:<9}  {seen} → {mend}")
    if (more := sum(did["found"].values()) - len(did["findings"][:_SHOWN])) > 0:
        say(f"  and {more:,} more")
    looked = f"{count(did['documents'], 'document')} and {count(did['chunks'], 'chunk')} looked at"
    found, mended = sum(did["found"].values()), sum(did["mended"].values())
    wrong = f"{found:,} wrong, {mended:,} mended" if found else "all as it should be"
    say(f"{looked}: {wrong}")
    if did["reason"]:
        note(did["reason"])
