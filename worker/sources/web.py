"""Documents by http and https: from allowed hosts, at allowed addresses, within bytes and a time.

A name is resolved once; every address it has is checked, and one of them is connected to: what the name
leads to a moment later changes nothing. Each redirect is checked as the first URI was. No proxy is used, no
login and no cookie sent, nothing decompressed.
"""

import socket
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from functools import cache, partial
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection, IncompleteRead
from urllib.parse import urljoin

from worker.allowlist import WEB_PORTS
from worker.errors import DocumentError, TransientError
from worker.settings import Settings
from worker.sources.deadline import until
from worker.sources.permission import Place, require_allowed
from worker.sources.size import too_large, up_to, within
from worker.urls import hidden

_OK, _SERVER_ERRORS = 200, 500
_REDIRECTS, _MOST_REDIRECTS = {301, 302, 303, 307, 308}, 5
_MISSING = {404, 410}
_LATER = {408, 425, 429}  # too slow, too early, too many
_HEADERS = {"User-Agent": "ingest-worker", "Connection": "close"}
_LONGEST_TARGET = 8_000  # characters of a redirect: they come back in errors (RFC 9110, 4.1)


def fetch(uri: str, settings: Settings) -> bytes:
    """Give what an http or https URI leads to, within MAX_DOCUMENT_BYTES and URI_TIMEOUT_SECONDS in all.

    Raises DocumentError: "scheme_not_allowed", "uri_not_allowed", "not_found", "unreadable", "too_large";
    TransientError "source_unavailable".
    """
    time_up = time.monotonic() + settings.uri_timeout_seconds
    try:
        return _follow(uri, settings, time_up)
    except (OSError, HTTPException) as error:
        late = f"it takes over {settings.uri_timeout_seconds} s (URI_TIMEOUT_SECONDS)"
        said = late if time.monotonic() >= time_up else _said(error)
        raise TransientError("source_unavailable", f"{hidden(uri)} cannot be read: {said}") from None


def _said(error: OSError | HTTPException) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not accepted: {error.verify_message}"
    return f"it does not answer: {type(error).__name__}"


def _follow(uri: str, settings: Settings, time_up: float) -> bytes:
    for _ in range(1 + _MOST_REDIRECTS):
        place = require_allowed(uri, settings)
        if place.scheme not in WEB_PORTS:
            raise DocumentError("uri_not_allowed", f"a redirect leads from the web to {hidden(uri)}")
        with _answer(place, time_up) as answer:
            if answer.status not in _REDIRECTS:
                return _content(answer, uri, settings.max_document_bytes)
            uri = _joined(uri, answer.getheader("Location", ""))
    raise DocumentError("unreadable", f"{hidden(uri)} comes after {_MOST_REDIRECTS} redirects")


def _joined(uri: str, location: str) -> str:
    with suppress(ValueError):  # bytes that are no text, a [ that is not closed
        target = location.encode("latin-1").decode()  # http.client reads headers as Latin-1
        if len(target) <= _LONGEST_TARGET:
            return urljoin(uri, target)
    raise DocumentError("unreadable", f"{hidden(uri)} leads to what is no URI")


@contextmanager
def _answer(place: Place, time_up: float) -> Iterator[HTTPResponse]:
    """Ask, and give the answer, whose body is still to be read. Raises OSError and HTTPException."""
    with closing(_connected(place, time_up)) as plain, _cut_off(plain, time_up):
        link, connection = plain, HTTPConnection(place.host, place.port)
        if place.scheme == "https":
            link = _trust().wrap_socket(plain, server_hostname=place.host)
            connection = HTTPSConnection(place.host, place.port, context=_trust())
        connection.auto_open = 0  # by its name it would connect to whatever that is by then
        connection.sock = link
        with closing(connection):
            connection.request("GET", place.target, headers=_HEADERS)
            with connection.getresponse() as answer:
                yield answer


def _connected(place: Place, time_up: float) -> socket.socket:
    """Connect to an address of a host, each of which must be allowed."""
    addresses = until(time_up, partial(_addresses, place))  # a resolver has a patience of its own
    for address in addresses:
        if not place.admits(address):
            said = f"{place.host} leads to {address}, neither public nor in a network of ALLOWED_URI_HOSTS"
            raise DocumentError("uri_not_allowed", said)
    failed: OSError = ConnectionError()
    for address in addresses:
        try:
            return socket.create_connection((address, place.port), timeout=_left(time_up))
        except OSError as error:
            failed = error
    raise failed


def _addresses(place: Place) -> list[str]:
    try:
        found = socket.getaddrinfo(place.host, place.port, type=socket.SOCK_STREAM)
    except UnicodeError:  # an empty label, or one of over 63 characters
        raise DocumentError("uri_not_allowed", f"{place.host} is no name of a host") from None
    return list(dict.fromkeys(str(where[0]) for *_, where in found))


def _left(time_up: float) -> float:
    return max(time_up - time.monotonic(), 0.001)


@contextmanager
def _cut_off(link: socket.socket, time_up: float) -> Iterator[None]:
    """Shut a connection down when its time is up, whatever it waits for, and raise TimeoutError.

    A timeout of the socket's own begins anew with every byte.
    """
    with link.dup() as twin:  # TLS takes the socket itself over
        timer = threading.Timer(_left(time_up), _shut, [twin])
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()
            timer.join()
    if time.monotonic() >= time_up:  # what seemed to be the end of the answer may be ours
        raise TimeoutError


def _shut(link: socket.socket) -> None:
    with suppress(OSError):
        link.shutdown(socket.SHUT_RDWR)


def _content(answer: HTTPResponse, uri: str, limit: int) -> bytes:
    if answer.status in _MISSING:
        raise DocumentError("not_found", f"there is nothing at {hidden(uri)}")
    if answer.status in _LATER or answer.status >= _SERVER_ERRORS:
        raise TransientError("source_unavailable", f"{hidden(uri)} answers {answer.status}")
    if answer.status != _OK:
        raise DocumentError("unreadable", f"{hidden(uri)} answers {answer.status}")
    if (answer.length or 0) > limit:
        raise too_large(answer.length or 0, limit)
    return within(_body(answer, limit + 1), limit)


def _body(answer: HTTPResponse, limit: int) -> bytes:
    found = up_to(partial(_part, answer), limit)
    if len(found) < limit and answer.length:  # it said that there is more
        raise IncompleteRead(b"")
    return found


def _part(answer: HTTPResponse, size: int) -> bytes:
    """Read into room of this size: `read` takes a chunk that says its size is -1 for all that comes."""
    room = bytearray(size)
    return bytes(memoryview(room)[: answer.readinto(room)])


@cache
def _trust() -> ssl.SSLContext:
    """Give what certificates are checked by: those that this machine trusts, or SSL_CERT_FILE names."""
    return ssl.create_default_context()
