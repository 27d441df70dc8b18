"""`ingest flower`: Flower in this process, with our settings, behind a login."""

from typing import TYPE_CHECKING, Any

import typer

from worker.errors import SettingsError, StackError

if TYPE_CHECKING:  # imports cost, and --help must not
    from worker.settings import Settings

# What Flower's own variables may change: which columns its list of tasks has, how many tasks it remembers,
# and the seconds after which it forgets a worker that is gone. A restarted worker has another name.
_DEFAULTS = {
    "tasks_columns": "name,args,result,state,received,runtime,uuid",
    "max_tasks": 20_000,
    "purge_offline_workers": 3600,
}


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("flower")(run_flower)


def run_flower() -> None:
    """Run Flower, which shows workers and tasks, in the foreground. It asks for FLOWER_BASIC_AUTH."""
    from worker.cli.startup import log, prepare
    from worker.settings import export, load_settings

    environment = flower_environment(load_settings())
    settings = prepare()
    export(environment)
    from click import Abort

    from worker.app import app

    _adjust_flower()
    # Flower's page of the queues has a client of its own, which does not read them in the URL
    app.conf.broker_use_ssl = _tls_options(settings)
    log.info("flower.ready", extra={"address": settings.flower_address, "port": settings.flower_port})
    try:
        app.start(["--quiet", "flower"])
    except Abort:  # click's word for Ctrl-C before Flower answers it
        raise KeyboardInterrupt from None
    except OSError as error:
        raise StackError(
            f"port {settings.flower_port}, meant for Flower, cannot be used: {error.strerror}",
            "stop the program that has it, or set FLOWER_PORT to a free port",
        ) from None


def flower_environment(settings: "Settings") -> dict[str, str]:
    """Give what Flower reads from the environment: the password must not be in the process list.

    Raises SettingsError without one: on a machine that others use, too, its pages are not for everybody.
    """
    if settings.flower_basic_auth is None:
        raise SettingsError("Flower would be open to everybody", "set FLOWER_BASIC_AUTH=user:password")
    return {
        "FLOWER_ADDRESS": settings.flower_address,
        "FLOWER_PORT": str(settings.flower_port),
        "FLOWER_URL_PREFIX": settings.flower_url_prefix,
        "FLOWER_BASIC_AUTH": settings.flower_basic_auth.get_secret_value(),
        "FLOWER_READ_ONLY": str(settings.flower_read_only).lower(),
        "FLOWER_UNAUTHENTICATED_API": "false",
        "FLOWER_PERSISTENT": "false",  # its file is a pickle
    }


def _tls_options(settings: "Settings") -> dict[str, Any] | None:
    """Give the options of TLS that BROKER_URL has, as a client of Redis takes them; None without TLS."""
    from kombu.utils.url import parse_url

    options: dict[str, Any] | None = parse_url(settings.broker_url.get_secret_value()).get("ssl")
    return options


def _adjust_flower() -> None:
    """Set our defaults, and have it ask for the login before its metrics: 2.2 shows them to everybody."""
    from flower.options import default_options
    from flower.views.monitor import Metrics
    from tornado.options import options
    from tornado.web import authenticated

    options.logging = "none"  # else Tornado sets the level of everybody's log

    Metrics.get = authenticated(Metrics.get)
    for name, value in _DEFAULTS.items():
        setattr(default_options, name, value)
