"""http and https, from a server of this machine: what is asked, what is refused, what is cut off."""

import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
import trustme

from worker.allowlist import AllowedHost
from worker.errors import DocumentError, TransientError
from worker.settings import Settings, read_settings
from worker.sources import load, web

LIMIT = 100
HERE = "{0}=127.0.0.0/8,{0}=::1/128"  # where `localhost` has both


class Site(ThreadingHTTPServer):
    """A web server that does what the path says, and notes what it was asked."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked: list[str] = []
        self.stopping = threading.Event()

    def handle_error(self, *_: Any) -> None:
        """Say nothing of who hangs up."""

    @property
    def place(self) -> str:
        return f"localhost:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    server: Site

    def do_GET(self) -> None:
        self.server.asked.append(f"{self.headers['Host']}{self.path}")
        what, _, given = self.path[1:].partition("/")
        getattr(self, what.partition("?")[0])(given)

    def head(self, status: int = 200, **headers: Any) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), str(value))
        self.end_headers()

    def say(self, given: str) -> None:
        self.head(Content_Length=len(given))
        self.wfile.write(given.encode())

    def size(self, given: str) -> None:
        self.head(Content_Length=given)
        self.wfile.write(b"x" * int(given))

    def chunks(self, given: str) -> None:
        self.head(Transfer_Encoding="chunked")
        self.wfile.write(b"1\r\nx\r\n" * int(given) + b"0\r\n\r\n")

    def endless(self, _: str) -> None:
        self.head()
        while True:
            self.wfile.write(b"x" * 1000)

    def chunk(self, given: str) -> None:
        """Say the size of a chunk, and go on for ever."""
        self.head(Transfer_Encoding="chunked")
        self.wfile.write(given.encode() + b"\r\n")
        while True:
            self.wfile.write(b"x" * 1000)

    def half(self, _: str) -> None:
        self.head(Content_Length=20)
        self.wfile.write(b"x" * 10)

    def status(self, given: str) -> None:
        self.head(int(given), Content_Length=0)

    def to(self, given: str) -> None:
        self.head(302, Location=unquote(given), Content_Length=0)

    def nonsense(self, _: str) -> None:
        self.wfile.write(b"what?\r\n\r\n")

    def slow_head(self, _: str) -> None:
        self.wfile.write(b"HTTP/1.1 200 OK\r\nX: ")
        self._drip()

    def slow_body(self, _: str) -> None:
        self.head()
        self._drip()

    def _drip(self) -> None:
        """Write a byte now and then, until the other side is gone."""
        while not self.server.stopping.wait(0.05):
            self.wfile.write(b"x")

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


@contextmanager
def running(site: Site) -> Iterator[Site]:
    with site:
        threading.Thread(target=site.serve_forever, args=[0.02], daemon=True).start()
        yield site
        site.stopping.set()
        site.shutdown()


@pytest.fixture
def site() -> Iterator[Site]:
    with running(Site()) as here:
        yield here


def allowing(hosts: str, schemes: str = "http,https") -> Settings:
    return read_settings(
        database_url="postgresql://h/d",
        broker_url="redis://h",
        allowed_uri_schemes=schemes,
        allowed_uri_hosts=hosts,
        max_document_bytes=LIMIT,
        uri_timeout_seconds=1,
    )


@pytest.fixture
def settings(site: Site) -> Settings:
    return allowing(HERE.format(site.place))


def refusal(uri: str, settings: Settings) -> DocumentError:
    with pytest.raises(DocumentError) as caught:
        load(uri, None, settings)
    assert isinstance(caught.value, TransientError) == (caught.value.code == "source_unavailable")
    assert "\n" not in caught.value.message
    return caught.value


def code_of(uri: str, settings: Settings) -> str:
    return refusal(uri, settings).code


# -- what is read ------------------------------------------------------------------------------------


def test_document_is_read_up_to_the_limit(site: Site, settings: Settings) -> None:
    assert load(f"http://{site.place}/say/words", None, settings) == b"words"
    assert load(f"HTTP://{site.place}/size/{LIMIT}", None, settings) == b"x" * LIMIT
    assert load(f"http://{site.place}/say/", None, settings) == b""
    assert code_of(f"http://{site.place}/size/{LIMIT + 1}", settings) == "too_large"
    assert code_of(f"http://{site.place}/endless", settings) == "too_large"


def test_what_a_uri_names_is_asked_for_as_it_is_written(site: Site, settings: Settings) -> None:
    load(f"http://{site.place}/say/caf%C3%A9 é?q=a%20b&c#part", None, settings)
    assert site.asked == [f"{site.place}/say/caf%C3%A9%20%C3%A9?q=a%20b&c"]


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        ("status/404", "not_found"),
        ("status/410", "not_found"),
        ("status/401", "unreadable"),
        ("status/403", "unreadable"),
        ("status/204", "unreadable"),
        ("status/429", "source_unavailable"),
        ("status/503", "source_unavailable"),
        ("half", "source_unavailable"),
        ("nonsense", "source_unavailable"),
    ],
)
def test_answer_that_is_no_document(site: Site, settings: Settings, answer: str, code: str) -> None:
    assert code_of(f"http://{site.place}/{answer}", settings) == code


def test_server_that_is_away_may_answer_later(settings: Settings) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        place = f"localhost:{closed.getsockname()[1]}"
        assert code_of(f"http://{place}/", allowing(HERE.format(place))) == "source_unavailable"


@pytest.mark.parametrize("size", ["-1", "-5", "-ffffffffffffffffffff"])
def test_chunk_of_a_size_that_cannot_be_does_not_lift_the_limit(
    site: Site, settings: Settings, size: str
) -> None:
    said = refusal(f"http://{site.place}/chunk/{size}", settings)
    assert said.code == "source_unavailable"
    assert "URI_TIMEOUT_SECONDS" not in said.message, "it read on until its time was up"


def test_document_in_chunks_is_read_up_to_the_limit(site: Site, settings: Settings) -> None:
    assert load(f"http://{site.place}/chunks/{LIMIT}", None, settings) == b"x" * LIMIT
    assert code_of(f"http://{site.place}/chunks/{LIMIT + 1}", settings) == "too_large"
    assert code_of(f"http://{site.place}/chunk/ffffffffffffffffffff", settings) == "too_large"


@pytest.mark.parametrize("answer", ["slow_head", "slow_body"])
def test_answer_that_never_ends_is_cut_off(site: Site, settings: Settings, answer: str) -> None:
    assert (
        "it takes over 1 s (URI_TIMEOUT_SECONDS)"
        in refusal(f"http://{site.place}/{answer}", settings).message
    )


# -- what is refused ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "host", ["localhost", "127.0.0.1", "127.1", "2130706433", "0x7f000001", "0.0.0.0", "017700000001"]
)
def test_host_of_this_machine_is_not_public_however_it_is_written(site: Site, host: str) -> None:
    place = f"{host}:{site.server_port}"
    assert "neither public nor in a network" in refusal(f"http://{place}/say/x", allowing(place)).message
    assert (
        "neither public nor in a network"
        in refusal(f"http://{place}/say/x", allowing(f"*:{site.server_port}")).message
    )
    assert code_of(f"http://{place}/say/x", allowing(f"{place}=10.0.0.0/8")) == "uri_not_allowed"
    assert site.asked == []


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("93.184.216.34", True),
        ("2606:4700::1", True),
        ("::ffff:93.184.216.34", True),
        ("10.0.0.1", False),
        ("172.16.0.1", False),
        ("192.168.0.1", False),
        ("127.0.0.1", False),
        ("169.254.169.254", False),
        ("100.64.0.1", False),
        ("192.0.2.1", False),
        ("198.18.0.1", False),
        ("224.0.0.1", False),
        ("255.255.255.255", False),
        ("0.0.0.0", False),
        ("::", False),
        ("::1", False),
        ("::127.0.0.1", False),
        ("::ffff:127.0.0.1", False),
        ("::ffff:169.254.169.254", False),
        ("64:ff9b::7f00:1", False),
        ("2002:7f00:1::", False),
        ("2001:0:4136:e378:8000:63bf:3fff:fdd2", False),
        ("2001:db8::1", False),
        ("fe80::1%eth0", False),
        ("fec0::1", False),
        ("fd00::1", False),
        ("ff02::1", False),
    ],
)
def test_address_is_public_or_not(address: str, public: bool) -> None:
    assert AllowedHost("h").admits(address) is public


def test_network_of_a_host_is_all_that_it_may_be_in(settings: Settings) -> None:
    inside = allowing("h=10.1.0.0/16").allowed_uri_hosts[0]
    assert inside.admits("10.1.2.3")
    assert inside.admits("::ffff:10.1.2.3")
    assert not any(map(inside.admits, ("10.2.0.1", "93.184.216.34", "fd00::1", "127.0.0.1")))


@pytest.mark.parametrize(
    ("uri", "code"),
    [
        ("http://127.0.0.1:{0}/say/x", "uri_not_allowed"),
        ("http://localhost/say/x", "uri_not_allowed"),
        ("http://localhost:1/say/x", "uri_not_allowed"),
        ("http://localhost.:{0}/say/x", "uri_not_allowed"),
        ("http://user:hush@localhost:{0}/say/x", "uri_not_allowed"),
        ("http://localhost:{0}@127.0.0.1:{0}/say/x", "uri_not_allowed"),
        ("http://localhost:{0}\\@127.0.0.1:{0}/say/x", "uri_not_allowed"),
        ("http://127.0.0.1:{0}#@localhost:{0}/say/x", "uri_not_allowed"),
        ("http://[::ffff:127.0.0.1]:{0}/say/x", "uri_not_allowed"),
        ("http://127.0.0.1\0.localhost:{0}/say/x", "uri_not_allowed"),
        ("http:///say/x", "uri_not_allowed"),
        ("http://local\nhost:{0}/say/x", "uri_not_allowed"),
        ("http://localhost:{0}/say/\udcff", "uri_not_allowed"),
        ("ftp://localhost:{0}/say/x", "scheme_not_allowed"),
    ],
)
def test_only_the_host_that_was_named_is_asked(site: Site, settings: Settings, uri: str, code: str) -> None:
    assert code_of(uri.format(site.server_port), settings) == code
    assert site.asked == []


def test_names_below_a_host_are_its_own(settings: Settings) -> None:
    below = allowing("*.example.com").allowed_uri_hosts[0]
    assert below.covers("https", "docs.example.com", 443)
    assert not below.covers("https", "example.com", 443)
    assert not below.covers("https", "badexample.com", 443)
    assert not below.covers("https", "docs.example.com", 8443)
    assert not AllowedHost("*").covers("s3", "bucket", None), "a bucket is named"


def test_name_too_long_for_a_resolver_is_a_documents_error() -> None:
    assert code_of(f"http://{'a' * 64}.example/", allowing("*")) == "uri_not_allowed"


# -- redirects ---------------------------------------------------------------------------------------


def test_redirects_are_followed_and_not_for_ever(site: Site, settings: Settings) -> None:
    to = f"http://{site.place}/to/"
    assert load(f"{to}/say/there", None, settings) == b"there"
    assert load(f"{to * 5}http://{site.place}/say/there", None, settings) == b"there"
    assert code_of(f"{to}", settings) == "unreadable"
    assert len(site.asked) == 2 + 6 + 6


def test_redirect_in_utf8_leads_where_it_says(site: Site, settings: Settings) -> None:
    written = "/say/é".encode().decode("latin-1")  # as http.server sends it
    assert load(f"http://{site.place}/to/{written}", None, settings) == b"%C3%A9"


@pytest.mark.parametrize(
    ("target", "code"),
    [
        ("http://127.0.0.1:{0}/say/x", "uri_not_allowed"),
        ("//127.0.0.1:{0}/say/x", "uri_not_allowed"),
        ("http://private.test:{0}/say/x", "uri_not_allowed"),
        ("file:///etc/passwd", "scheme_not_allowed"),
        ("memory://box/a", "uri_not_allowed"),
        ("gopher://localhost:{0}/", "scheme_not_allowed"),
        ("http://[", "unreadable"),
        ("x:hush%0D%0A forged", "uri_not_allowed"),
        ("http://localhost/" + "x" * 8_000, "unreadable"),
        ("http://localhost/\xff", "unreadable"),
    ],
)
def test_redirect_is_held_against_the_settings_as_the_first_uri_was(
    site: Site, target: str, code: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    resolved(monkeypatch, "private.test", "127.0.0.1")
    hosts = f"{HERE.format(site.place)},private.test:{site.server_port},box"
    first = f"http://{site.place}/to/{target.format(site.server_port)}"
    assert code_of(first, allowing(hosts, "http,memory")) == code
    assert len(site.asked) == 1


# -- names -------------------------------------------------------------------------------------------


def resolved(monkeypatch: pytest.MonkeyPatch, name: str, *addresses: str) -> list[str]:
    """Have a name resolve to these, each time to the next one; gives what was resolved."""
    known, left = socket.getaddrinfo, iter(addresses)
    asked: list[str] = []

    def resolve(host: str, *arguments: Any, **options: Any) -> Any:
        asked.append(host)
        return known(next(left) if host == name else host, *arguments, **options)

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    return asked


def test_address_that_was_checked_is_the_one_connected_to(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = resolved(monkeypatch, "moving.test", "127.0.0.1", "127.0.0.2")
    place = f"moving.test:{site.server_port}"
    assert load(f"http://{place}/say/words", None, allowing(f"{place}=127.0.0.1/32")) == b"words"
    assert site.asked == [f"{place}/say/words"]
    assert asked.count("moving.test") == 1


def test_host_with_one_address_too_many_is_not_asked(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    known = socket.getaddrinfo
    both = [*known("127.0.0.1", site.server_port), *known("10.0.0.1", site.server_port)]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: both)
    place = f"two.test:{site.server_port}"
    assert code_of(f"http://{place}/say/x", allowing(f"{place}=127.0.0.0/8")) == "uri_not_allowed"
    assert site.asked == []


def test_resolver_that_does_not_answer_is_not_waited_for(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    answers = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: answers.wait())
    place = f"slow.test:{site.server_port}"
    with pytest.raises(TransientError) as caught:
        load(f"http://{place}/say/x", None, allowing(place).model_copy(update={"uri_timeout_seconds": 1}))
    answers.set()
    assert caught.value.message.endswith("it takes over 1 s (URI_TIMEOUT_SECONDS)")


# -- certificates ------------------------------------------------------------------------------------


@pytest.fixture
def trust(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[trustme.CA], None]]:
    def run(authority: trustme.CA) -> None:
        authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
        web._trust.cache_clear()

    yield run
    web._trust.cache_clear()


def test_certificate_is_checked(trust: Callable[[trustme.CA], None], monkeypatch: pytest.MonkeyPatch) -> None:
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(context)
    secure = Site()
    secure.socket = context.wrap_socket(secure.socket, server_side=True)
    with running(secure) as site:
        settings = allowing(f"{HERE.format(site.place)},other.test:{site.server_port}=127.0.0.0/8")
        trust(trustme.CA())
        assert "certificate is not accepted" in refusal(f"https://{site.place}/say/x", settings).message
        trust(authority)
        assert load(f"https://{site.place}/say/words", None, settings) == b"words"
        resolved(monkeypatch, "other.test", "127.0.0.1")
        other = f"https://other.test:{site.server_port}/say/x"
        assert "certificate is not accepted: Hostname mismatch" in refusal(other, settings).message
        assert site.asked == [f"{site.place}/say/words"]
