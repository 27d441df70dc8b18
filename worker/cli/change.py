"""`ingest retry`, `cancel`, `delete`, `restore`: what operators do to documents."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated
from uuid import UUID

import typer

from worker.cli.moments import read_moment
from worker.cli.output import AsJson, Project, Tenant, count, emit, printable, say
from worker.cli.status import WHERE_TO_LOOK, NotFoundError, nothing_matched
from worker.errors import Exit, IngestError

Documents = Annotated[list[str], typer.Argument(metavar="DOCUMENT…", help="Ids or paths.")]
SomeDocuments = Annotated[list[str] | None, typer.Argument(metavar="[DOCUMENT…]", help="Ids or paths.")]
All = Annotated[bool, typer.Option("--all", help="All of the project, or of none.")]

_SHOWN = 3
_NEEDED = {
    "tried again": "only what has failed or was cancelled is tried again",
    "cancelled": "only what is not settled can be cancelled; `ingest delete` takes it out of searches",
    "deleted": "`ingest restore` brings back what is deleted",
    "restored": "only what is deleted comes back, where no newer document has its path",
}


class NothingToDoError(IngestError):
    """The documents are there, and none of them is in a state that the command changes."""

    exit_code = Exit.FINDINGS


def register(app: typer.Typer) -> None:
    """Add the commands."""
    for command in (retry, cancel, delete, restore):
        app.command(command.__name__)(command)


def retry(
    documents: SomeDocuments = None,
    tenant: Tenant = "default",
    project: Project = None,
    *,
    code: Annotated[str | None, typer.Option(help="Those that failed with this code.")] = None,
    since: Annotated[str | None, typer.Option(metavar="WHEN", help="Those that ended since then.")] = None,
    until: Annotated[str | None, typer.Option(metavar="WHEN", help="Those that ended before then.")] = None,
    every: All = False,
    as_json: AsJson = False,
) -> None:
    """Try failed and cancelled documents again, with all their attempts.

    WHEN is how long ago, 30s, 90min, 2h or 3d by the database's clock, or a time, as 2026-11-30T08:00+01:00;
    UTC where it has no zone.
    """
    from worker import producer

    many = every or any(option is not None for option in (project, code, since, until))
    if every or not documents:  # named ones may be narrowed down
        _require_choice(documents, every=many)
    names = spellings(documents) if documents else None
    changed = producer.retry(
        names,
        tenant=tenant,
        project=project,
        error_code=code,
        since=read_moment("--since", since),
        until=read_moment("--until", until),
    )
    _report(changed, "tried again", documents, tenant, project, as_json=as_json)


def cancel(
    documents: SomeDocuments = None,
    tenant: Annotated[str | None, typer.Option(help="Whose documents; without it, default.")] = None,
    project: Project = None,
    *,
    every: All = False,
    batch: Annotated[str | None, typer.Option(metavar="ID", help="The documents of this batch.")] = None,
    requeue: Annotated[bool, typer.Option("--requeue", help="Of a batch: have them done again.")] = False,
    as_json: AsJson = False,
) -> None:
    """Cancel documents that are not settled yet. What was searchable stays so.

    With --batch: those of one batch, whoever has it; a worker that has it writes nothing of it.
    """
    from worker import producer

    if batch is not None or requeue:
        if documents or every or batch is None:
            raise IngestError("--batch stands alone, and --requeue is for it", "see --help")
        if tenant is not None or project is not None:  # it was not looked at, whatever it said
            raise IngestError("a batch is of one tenant: --batch goes without --tenant", "see --help")
        _cancel_batch(batch, requeue=requeue, as_json=as_json)
        return
    _require_choice(documents, every=every)
    tenant = "default" if tenant is None else tenant
    names = spellings(documents) if documents else None
    changed = producer.cancel(names, tenant=tenant, project=project)
    _report(changed, "cancelled", documents, tenant, project, as_json=as_json)


def _cancel_batch(batch: str, *, requeue: bool, as_json: bool) -> None:
    from worker import producer

    changed = producer.cancel_batch(batch, requeue=requeue)
    if as_json:
        emit({"documents": changed})
    if changed == 0:
        raise NothingToDoError(f"nothing cancelled: batch {batch} has ended", "name its documents instead")
    if not as_json:
        say(f"{count(changed, 'document')} {'went back into the queue' if requeue else 'cancelled'}")


def delete(
    documents: Documents, tenant: Tenant = "default", project: Project = None, *, as_json: AsJson = False
) -> None:
    """Delete documents: at once gone from every search; `ingest restore` brings them back."""
    from worker import producer

    _named(producer.delete, "deleted", documents, tenant, project, as_json=as_json)


def restore(
    documents: Documents, tenant: Tenant = "default", project: Project = None, *, as_json: AsJson = False
) -> None:
    """Bring deleted documents back."""
    from worker import producer

    _named(producer.restore, "restored", documents, tenant, project, as_json=as_json)


def _named(
    change: Callable[..., int],
    done: str,
    documents: Sequence[str],
    tenant: str,
    project: str | None,
    *,
    as_json: bool,
) -> None:
    changed = change(spellings(documents), tenant=tenant, project=project)
    _report(changed, done, documents, tenant, project, as_json=as_json)


def _require_choice(documents: Sequence[str] | None, *, every: bool) -> None:
    """Refuse documents and an option for many together, and neither of them."""
    if bool(documents) == every:
        raise IngestError("name documents, or choose many with an option, as --all, not both", "see --help")


def _report(
    changed: int,
    done: str,
    names: Sequence[str] | None,
    tenant: str,
    project: str | None,
    *,
    as_json: bool,
) -> None:
    if as_json:
        emit({"documents": changed})
    if changed == 0:
        raise _nothing(done, names, tenant, project)
    if not as_json:
        say(f"{count(changed, 'document')} {done}")


def _nothing(done: str, names: Sequence[str] | None, tenant: str, project: str | None) -> IngestError:
    """Tell documents that are not there from those that need nothing."""
    from worker import producer

    rows = producer.find(spellings(names), tenant=tenant, project=project) if names else ()
    if not rows:
        return NotFoundError(f"nothing {done}: {nothing_matched(names, tenant, project)}", WHERE_TO_LOOK)
    newest = {row.source_path: "deleted" if row.deleted_at else row.status for row in reversed(rows)}
    states = [f"{printable(path)} is {state}" for path, state in newest.items()]
    more = "…" if len(states) > _SHOWN else ""
    return NothingToDoError(f"nothing {done}: {', '.join(states[:_SHOWN])}{more}", _NEEDED[done])


def spellings(names: Sequence[str]) -> list[str]:
    """Give names as they may be stored: as given, and a local path from the root and without dots."""
    from worker import sources

    given: list[str] = []
    for name in names:
        given.append(name)
        path = None if _is_id(name) else sources.local_path(name)
        if path is not None:
            given.append(sources.source_path_of(Path(os.path.abspath(path))))  # noqa: PTH100 -- links stay
    return given


def _is_id(name: str) -> bool:
    try:
        UUID(name)
    except ValueError:
        return False
    return True
