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

    from worker.monitoring.server import Application, listen
    from worker.settings import load_settings

    settings = load_settings()
    logging.basicConfig(level=settings.log_level, format="%(levelname)s %(name)s %(message)s")
    with listen(settings, Application(settings)) as server:
        logging.getLogger("ingest").info(
            "metrics at http://%s:%s/metrics", settings.metrics_address, server.server_port
        )
        with suppress(KeyboardInterrupt):  # SIGTERM and SIGHUP, too
            server.serve_forever()
