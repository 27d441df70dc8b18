"""URLs of servers: what is wrong with one, told without connecting, and how people may see it."""

import re
from collections.abc import Mapping
from urllib.parse import SplitResult, parse_qsl, urlsplit

from pydantic import SecretStr

_POSTGRES_SCHEMES = {
    "postgres",
    "postgresql",
    "postgresql+asyncpg",
    "postgresql+psycopg",
    "postgresql+psycopg2",
}
_TLS_REQUIREMENTS = ("required", "optional", "none")
# What redis-py, kombu and Celery's result backend all take; each of them ends in a traceback at what
# another one knows (`db`, `socket_timeout`).
_BROKER_OPTIONS = {
    "redis": frozenset[str](),
    "rediss": frozenset({
        "ssl_cert_reqs", "ssl_ca_certs", "ssl_ca_path", "ssl_ca_data", "ssl_certfile", "ssl_keyfile",
        "ssl_password", "ssl_check_hostname",
    }),
    "redis+socket": frozenset({"virtual_host"}),
}  # fmt: skip
_QUERY = re.compile(r"([?#])")
_HIGHEST_PORT = 65_535
_HOST = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[^:]*)(:[0-9]+)?")
_DATABASE = re.compile(r"/[0-9]+")
# SQLAlchemy's way to find where the password ends
_LOGIN = re.compile(r"\A[^:/]*(:[^@]*)?@")


def postgres_fault(url: str) -> str | None:
    """Say what keeps a URL from naming a PostgreSQL database, None where nothing does."""
    scheme, _, rest = url.partition("://")
    hosts = _hosts(rest)
    if scheme not in _POSTGRES_SCHEMES or not all(map(_is_host, hosts)):
        return "must be a PostgreSQL URL, for example postgresql://user:password@host:5432/database"
    if len(hosts) > 1 and any(":" in host for host in hosts):
        return "names several hosts with ports: these are written ?host=one:5432&host=two:5432"
    for name, value in parse_qsl(_LOGIN.sub("", rest, count=1).partition("?")[2]):
        if not _libpq_knows(name):
            return f"has an option PostgreSQL does not know: {_printable(name)}"
        if name == "port" and not value.replace(",", "").isdecimal():
            return "has a port that is no number"
    return None


def _libpq_knows(option: str) -> bool:
    """Ask the library that will connect."""
    from psycopg2 import ProgrammingError
    from psycopg2.extensions import parse_dsn

    try:
        parse_dsn(f"{option}=''")
    except ProgrammingError:
        return False
    return option.isidentifier()


def broker_fault(url: str) -> str | None:
    """Say what keeps a URL from naming a Redis server for each of our clients, None where nothing does."""
    scheme, _, rest = url.partition("://")
    if scheme not in _BROKER_OPTIONS or not all(map(_is_host, _hosts(rest))):
        return "must be a Redis URL, for example redis://:password@host:6379/0"
    parts = _split(url)
    if parts is None or parts.netloc.rpartition("@")[2] != ",".join(_hosts(rest)):
        return "cannot be read: in a password, / ? # [ ] are written %2F %3F %23 %5B %5D"
    options = dict(parse_qsl(parts.query, keep_blank_values=True))
    unknown = next((name for name in options if name not in _BROKER_OPTIONS[scheme]), None)
    if unknown is not None:
        return f"has an option that cannot be used with {scheme}:// here: {_printable(unknown)}"
    return _local_fault(parts.path, options) if scheme == "redis+socket" else _remote_fault(parts, options)


def _split(url: str) -> SplitResult | None:
    try:
        return urlsplit(url)
    except ValueError:  # a [ that is not closed
        return None


def _local_fault(path: str, options: Mapping[str, str]) -> str | None:
    if not path.strip("/"):
        return "must name the socket, for example redis+socket:///run/redis.sock?virtual_host=0"
    if not options.get("virtual_host", "0").isdecimal():
        return "must have the number of a database as its virtual_host"
    return None


def _remote_fault(parts: SplitResult, options: Mapping[str, str]) -> str | None:
    if parts.path not in {"", "/"} and not _DATABASE.fullmatch(parts.path):
        return "must end in the number of a database, for example redis://host:6379/0"
    if parts.scheme == "rediss" and options.get("ssl_cert_reqs") not in _TLS_REQUIREMENTS:
        return "must say how the server's certificate is checked: ?ssl_cert_reqs=required (or optional, none)"
    return None


def _hosts(rest: str) -> list[str]:
    return _place(rest).partition("/")[0].split(",")


def _is_host(host: str) -> bool:
    """Tell whether this is a host whose port, where there is one, is a port's number."""
    found = _HOST.fullmatch(host)
    return found is not None and int((found[2] or ":0")[1:]) <= _HIGHEST_PORT


def _place(rest: str) -> str:
    """Give what stands between the last @ and the query: a password may hold any character."""
    return _QUERY.split(rest.rpartition("@")[2], maxsplit=1)[0]


def _printable(name: str) -> str:
    return name if name.isprintable() else ascii(name)


def hidden(uri: str) -> str:
    """Render a document's URI for people: no login, no query. Any other path is given as it is.

    An @ behind a ? may end a login that holds the ?, or be part of a signature: then nothing but the scheme.
    """
    scheme, found, rest = uri.partition("://")
    if not found:
        return uri
    place, *behind = _QUERY.split(rest, maxsplit=1)
    if "@" in "".join(behind):
        return f"{scheme}://…"
    return f"{scheme}://{place.rpartition('@')[2]}{behind[0] + '…' if behind and behind[1] else ''}"


def masked(url: SecretStr | str) -> str:
    """Render a URL for people: no user, no password, no options but the hosts that stand there."""
    text = url.get_secret_value() if isinstance(url, SecretStr) else url
    scheme, _, rest = text.partition("://")
    place = _place(rest)
    if place and not place.startswith("/"):
        return f"{scheme}://{place}"
    options = parse_qsl(rest.rpartition("@")[2].partition("?")[2])  # behind all that may be a password
    hosts = ",".join(value for name, value in options if name == "host")
    named = hosts and "/" not in hosts
    return f"{scheme}://{hosts if named else 'local socket'}{place}"
