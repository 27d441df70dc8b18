"""Which URIs may be read, and at which addresses: ALLOWED_URI_SCHEMES and ALLOWED_URI_HOSTS."""

import re
from typing import NamedTuple
from urllib.parse import SplitResult, quote, urlsplit

from worker.allowlist import WEB_PORTS, AllowedHost
from worker.errors import DocumentError
from worker.settings import Settings
from worker.urls import hidden

URI = re.compile(r"([a-z][a-z0-9+.-]*)://", re.IGNORECASE)

_WRITTEN = "%/:=&?~+!$,;'@()*[]"  # what stands in a path or a query as it is, or is encoded already
_HOST = re.compile(r"[a-z0-9_.:-]+")
# fsspec reads `one::two://…` as one file system within another, which nobody has allowed
_CHAIN = "::"
# urlsplit takes some of these out: the driver would read another host than was checked
_NEVER = re.compile("[\0-\x1f\x7f-\x9f\ud800-\udfff]")


class Place(NamedTuple):
    """What a URI names, and who allows it. `target`: path and query, as they are asked for."""

    scheme: str
    host: str
    port: int | None
    target: str
    allowed: tuple[AllowedHost, ...]

    def admits(self, address: str) -> bool:
        """Tell whether the host may have this address."""
        return any(entry.admits(address) for entry in self.allowed)


def require_allowed(uri: str, settings: Settings) -> Place:
    """Hold a URI against the settings. Raises DocumentError: "scheme_not_allowed", "uri_not_allowed"."""
    found = URI.match(uri)
    if found is None or _NEVER.search(uri):
        raise DocumentError("uri_not_allowed", "a URI has a scheme, :// and no control character")
    scheme = found[1].lower()
    if scheme not in settings.allowed_uri_schemes:
        raise DocumentError("scheme_not_allowed", f"{scheme}:// is not in ALLOWED_URI_SCHEMES")
    parts, port = _read(uri)
    if "@" in parts.netloc or (scheme not in WEB_PORTS and _CHAIN in uri):
        raise DocumentError("uri_not_allowed", f"{hidden(uri)}: a URI may hold no login and no ::")
    host, port = parts.hostname or "", port or WEB_PORTS.get(scheme)
    allowed = tuple(entry for entry in settings.allowed_uri_hosts if entry.covers(scheme, host, port))
    if not _HOST.fullmatch(host) or not allowed:
        named = parts.netloc if parts.port else host
        raise DocumentError("uri_not_allowed", f"{named or 'no host'} is not in ALLOWED_URI_HOSTS")
    asked = quote(parts.path or "/", safe=_WRITTEN)
    query = f"?{quote(parts.query, safe=_WRITTEN)}" if parts.query else ""
    return Place(scheme, host, port, asked + query, allowed)


def _read(uri: str) -> tuple[SplitResult, int | None]:
    try:
        port = (parts := urlsplit(uri)).port
    except ValueError:  # a [ that is not closed, a port that is no number
        raise DocumentError("uri_not_allowed", f"{hidden(uri)} cannot be read") from None
    return parts, port
