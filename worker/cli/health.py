"""`ingest health`: for orchestrators, whether processes live and whether the system is ready."""

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from worker.cli.output import AsJson, columns, emit, printable
from worker.errors import Exit, IngestError

if TYPE_CHECKING:  # the database's adapters cost a second to import, and --help must not
    from worker.monitoring.health import Check


class Question(StrEnum):
    """What is asked."""

    LIVE = "live"
    READY = "ready"


class Served(StrEnum):
    """The processes without a heartbeat: they are asked over HTTP."""

    FLOWER = "flower"
    EXPORTER = "exporter"


class Kind(StrEnum):
    """The processes with a heartbeat."""

    INGEST = "ingest"
    INTERACTIVE = "interactive"
    SEARCH = "search"
    MAINTENANCE = "maintenance"
    BEAT = "beat"


_HTTP_SECONDS = 5


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("health")(health)


def health(
    question: Annotated[Question, typer.Argument(help="Do processes live, or is the system ready for work?")],
    process: Annotated[
        Served | None, typer.Argument(help="Of live: one that has no heartbeat, of this host.")
    ] = None,
    need: Annotated[
        list[Kind] | None, typer.Option(help="Of ready: a kind of process that must live; all without.")
    ] = None,
    *,
    as_json: AsJson = False,
) -> None:
    """Check that this host's processes live and get on with their work, or that the system is ready.

    Exit code 1 where a check fails.
    """
    from worker.monitoring import health as checking

    if process if question is Question.READY else need:
        raise IngestError("a process is named with live, --need with ready", "see --help")
    if question is Question.READY:
        checks = checking.ready([kind.value for kind in need or Kind])
    elif process is not None:
        checks = [_served(process)]
    else:
        import socket

        checks = checking.live(socket.gethostname())
    _show(checks, as_json=as_json)
    raise typer.Exit(Exit.OK if all(check.ok for check in checks) else Exit.FINDINGS)


def _show(checks: "list[Check]", *, as_json: bool) -> None:
    if as_json:
        from dataclasses import asdict

        well = all(check.ok for check in checks)
        emit({"ok": well, "checks": [asdict(check) for check in checks]})
    else:
        columns([("ok" if check.ok else "failed", check.name, check.reason) for check in checks], indent=0)


def _served(process: Served) -> "Check":
    """Ask a process of this host over HTTP whether it answers; a proxy of the environment's is passed by."""
    from http.client import HTTPException
    from urllib.request import ProxyHandler, build_opener

    from worker.monitoring.health import Check
    from worker.settings import load_settings

    settings = load_settings()
    healthcheck = f"{settings.flower_url_prefix}/healthcheck".strip("/")
    address, port, path = {
        Served.FLOWER: (settings.flower_address, settings.flower_port, healthcheck),
        Served.EXPORTER: (settings.metrics_address, settings.metrics_port, ""),
    }[process]
    url = f"http://{_reachable(address)}:{port}/{path}"
    try:
        build_opener(ProxyHandler({})).open(url, timeout=_HTTP_SECONDS).close()
    except (HTTPException, OSError) as error:  # the first: another program has the port
        return Check(process.value, False, f"{url} does not answer: {_why(error)}")
    return Check(process.value, True, f"{url} answers")


def _why(error: Exception) -> str:
    """Say it in one line; what a stranger on the port sent may be anything."""
    return printable(str(getattr(error, "reason", error)).strip()) or type(error).__name__


def _reachable(address: str) -> str:
    """Give an address of this host for one that means all of them."""
    known = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}  # noqa: S104 -- what was bound, not what is
    return known.get(address, f"[{address}]" if ":" in address else address)
