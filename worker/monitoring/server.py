"""The exporter: a small HTTP server for Prometheus and for what restarts processes."""

import json
import logging
import socket
import sys
from collections.abc import Callable, Iterable
from dataclasses import asdict
from functools import partial
from typing import Any
from urllib.parse import parse_qs
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from prometheus_client import CollectorRegistry, make_wsgi_app
from prometheus_client.exposition import ThreadingWSGIServer

from worker import metricfiles
from worker.errors import StackError
from worker.monitoring import health
from worker.monitoring.exposition import COUNT_LOAD, KEEP_SECONDS, ProcessCollector, StateCollector
from worker.monitoring.health import KINDS, Check
from worker.monitoring.sampler import Sampler
from worker.settings import Settings

log = logging.getLogger(__name__)

HEALTH_KEEP_SECONDS, HEALTH_PATIENCE_SECONDS = 2, 8
CLIENT_SECONDS = 10
_SERVED = "/metrics\n/health/live\n/health/ready\n"

StartResponse = Callable[[str, list[tuple[str, str]]], Any]


class Application:
    """The exporter's pages, as WSGI. Whoever asks at the same time shares one question to the servers."""

    def __init__(
        self, settings: Settings, keep: float = KEEP_SECONDS, count_load: float = COUNT_LOAD
    ) -> None:
        registry = CollectorRegistry(support_collectors_without_names=True)  # /metrics?name[]=…
        registry.register(ProcessCollector(metricfiles.folder_of(settings)))
        self.state = StateCollector(settings, keep, count_load)
        registry.register(self.state)
        self._metrics = make_wsgi_app(registry)
        self._live = Sampler("live", _live, HEALTH_KEEP_SECONDS)
        self._ready: dict[tuple[str, ...], Sampler[list[Check]]] = {}

    def __call__(self, environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
        """Answer one request."""
        path = environ["PATH_INFO"]
        if path == "/metrics":
            return self._page_of_metrics(environ, start_response)
        if environ["REQUEST_METHOD"] not in {"GET", "HEAD"}:
            return _text(start_response, "405 Method Not Allowed", "only GET\n")
        if path == "/health/live":
            return _as_json(start_response, self._live.get(HEALTH_PATIENCE_SECONDS))
        if path == "/health/ready":
            return self._readiness(parse_qs(environ.get("QUERY_STRING", "")), start_response)
        if path == "/":
            return _text(start_response, "200 OK", _SERVED)
        return _text(start_response, "404 Not Found", _SERVED)

    def _readiness(self, query: dict[str, list[str]], start_response: StartResponse) -> Iterable[bytes]:
        """Answer for the kinds of processes that `need` names; for all without."""
        asked = set(query.get("need", KINDS))
        if query.keys() - {"need"} or asked - set(KINDS):
            return _text(start_response, "400 Bad Request", f"need=KIND, one of {', '.join(KINDS)}\n")
        needed = tuple(kind for kind in KINDS if kind in asked)
        fresh = Sampler("ready", partial(health.ready, needed), HEALTH_KEEP_SECONDS)
        return _as_json(start_response, self._ready.setdefault(needed, fresh).get(HEALTH_PATIENCE_SECONDS))

    def _page_of_metrics(self, environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
        try:
            page: Iterable[bytes] = self._metrics(environ, start_response)
        except (TypeError, ValueError) as error:  # what prometheus_client makes of a broken Accept
            log.warning("request.refused", extra={"reason": error})
            return _text(start_response, "400 Bad Request", "its headers cannot be read\n")
        return page


def _live() -> list[Check]:
    """Judge the other processes of this host, where there are any: that we answer is all there is of us."""
    found = health.live(socket.gethostname())
    others = [check for check in found if check.name != "heartbeat"]
    return [Check("exporter", True, "answers"), *others]


def _as_json(start_response: StartResponse, checks: list[Check] | None) -> list[bytes]:
    checks = checks or [Check("servers", False, f"no answer within {HEALTH_PATIENCE_SECONDS} s")]
    well = all(check.ok for check in checks)
    body = json.dumps({"ok": well, "checks": [asdict(check) for check in checks]}, indent=2).encode()
    status = "200 OK" if well else "503 Service Unavailable"
    start_response(status, [("Content-Type", "application/json"), ("Cache-Control", "no-store")])
    return [body]


def _text(start_response: StartResponse, status: str, body: str) -> list[bytes]:
    start_response(status, [("Content-Type", "text/plain; charset=utf-8")])
    return [body.encode()]


class _Server(ThreadingWSGIServer):
    """One thread a request; those that come at once wait in line, and are not turned away."""

    request_queue_size = 128

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ARG002 -- the base's
        """Say in a line what would be a traceback beside the log: mostly a client that went away."""
        log.debug("request.broken", extra={"reason": sys.exc_info()[1]})


class _Handler(WSGIRequestHandler):
    """Who connects and says nothing is left."""

    timeout = CLIENT_SECONDS

    def log_message(self, *_: object) -> None:
        """Say nothing of a request: there are four a minute."""


def listen(settings: Settings, application: Application) -> WSGIServer:
    """Bind the exporter's port. Raises StackError where it cannot be had."""
    address, port = settings.metrics_address, settings.metrics_port
    try:
        family = socket.getaddrinfo(address, port, type=socket.SOCK_STREAM)[0][0]
        kind = type("Server", (_Server,), {"address_family": family})
        return make_server(address, port, application, kind, _Handler)
    except OSError as error:
        raise StackError(
            f"port {port} of {address}, meant for metrics, cannot be used: {error.strerror}",
            "stop the program that has it, or set METRICS_PORT to a free port",
        ) from None
