"""`ingest exporter`: metrics for Prometheus, and health over HTTP."""

import typer


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("exporter")(exporter)


def exporter() -> None:
    """Serve /metrics, /health/live and /health/ready in the foreground.

    It starts, and answers, also while database and broker are away, and says so.
    """
    import logging
    from contextlib import suppress

    from worker import logs
    from worker.monitoring.server import Application, listen
    from worker.settings import load_settings

    settings = load_settings()
    logs.set_up(settings.log_format, settings.log_level)
    logs.catch_crashes()
    log = logging.getLogger(__name__)
    with listen(settings, Application(settings)) as server:
        log.info("exporter.ready", extra={"address": settings.metrics_address, "port": server.server_port})
        with suppress(KeyboardInterrupt):  # SIGTERM and SIGHUP, too
            server.serve_forever()
