"""Where bytes come from, and the word for each way it can fail."""

import io
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest
from hypothesis import example, given
from hypothesis import settings as limits
from hypothesis import strategies as st

from worker.errors import DocumentError, TransientError
from worker.settings import Settings, read_settings
from worker.sources import check_root, files, is_uri, load, local_path, source_path_of
from worker.sources.deadline import until

LIMIT = 100
NOBODY = 65534


class Broken(fsspec.AbstractFileSystem):  # type: ignore[misc] # untyped
    """Storage that fails as the name of what is asked for says."""

    def _open(self, path: str, **_: Any) -> None:
        raise {"away": TimeoutError, "secret": PermissionError, "odd": LookupError}[path.rpartition("/")[2]](
            path
        )


fsspec.register_implementation("broken", Broken, clobber=True)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return read_settings(
        database_url="postgresql://h/d",
        broker_url="redis://h",
        allowed_roots=(tmp_path / "root",),
        allowed_uri_schemes=("memory", "broken", "nope"),
        allowed_uri_hosts="sources,box,x",
        max_document_bytes=LIMIT,
    )


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "root"
    folder.mkdir()
    return folder


@pytest.fixture
def ordinary() -> Iterator[None]:
    """The rights of an ordinary user: permission bits do not bind root."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(NOBODY)
    yield
    os.seteuid(0)


def read(source: str | Path, settings: Settings) -> bytes:
    return load(str(source), None, settings)


def code_of(source: str | Path, settings: Settings) -> str:
    with pytest.raises(DocumentError) as caught:
        read(source, settings)
    error = caught.value
    assert "\n" not in error.message
    assert isinstance(error, TransientError) == (error.code == "source_unavailable")
    return error.code


# -- local files -----------------------------------------------------------------------------------


def test_file_is_read_whole_up_to_the_limit(root: Path, settings: Settings) -> None:
    (root / "a").write_bytes(b"x" * LIMIT)
    assert read(root / "a", settings) == b"x" * LIMIT
    (root / "empty").touch()
    assert read(root / "empty", settings) == b""


def test_link_and_dots_that_stay_inside_are_followed(root: Path, settings: Settings) -> None:
    (root / "sub").mkdir()
    (root / "a").write_text("words")
    (root / "link").symlink_to("sub/../a")
    assert read(root / "link", settings) == b"words"
    assert read(root / "sub" / ".." / "a", settings) == b"words"


def test_file_over_the_limit_is_too_large(root: Path, settings: Settings) -> None:
    (root / "a").write_bytes(b"x" * (LIMIT + 1))
    assert code_of(root / "a", settings) == "too_large"


def test_file_larger_than_it_said_is_too_large(settings: Settings) -> None:
    # a file of /proc has the size 0 and gives more: as one does that grows while it is read
    process = settings.model_copy(update={"allowed_roots": (Path("/proc").resolve(),)})
    assert Path("/proc/self/status").stat().st_size == 0
    assert code_of("/proc/self/status", process) == "too_large"


def test_file_that_cannot_be_read_now_may_be_later(settings: Settings) -> None:
    process = settings.model_copy(update={"allowed_roots": (Path("/proc").resolve(),)})
    assert code_of("/proc/self/mem", process) == "source_unavailable"


@pytest.mark.parametrize("name", ["missing", "missing/below", "dangling"])
def test_what_is_not_there_is_not_found(root: Path, settings: Settings, name: str) -> None:
    (root / "dangling").symlink_to(root / "nowhere")
    assert code_of(root / name, settings) == "not_found"


@pytest.mark.parametrize("name", ["folder", "pipe"])
def test_what_is_no_file_is_refused_without_waiting(root: Path, settings: Settings, name: str) -> None:
    (root / "folder").mkdir()
    os.mkfifo(root / "pipe")
    assert code_of(root / name, settings) == "not_a_file"


def test_device_is_no_file(settings: Settings) -> None:
    devices = settings.model_copy(update={"allowed_roots": (Path("/dev"),)})
    assert code_of("/dev/zero", devices) == "not_a_file"


@pytest.mark.parametrize("name", ["file/below", "loop", "loop/below", "x" * 300])
def test_path_that_cannot_be_walked_is_unreadable(root: Path, settings: Settings, name: str) -> None:
    (root / "file").touch()
    (root / "loop").symlink_to(root / "loop")
    assert code_of(root / name, settings) == "unreadable"


@pytest.mark.parametrize("way", ["loop/../link/secret", "missing/../loop/../link/secret", "link/secret"])
def test_no_way_through_a_loop_of_links_leads_out_of_the_root(
    tmp_path: Path, root: Path, settings: Settings, way: str
) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "secret").write_text("secret")
    (root / "loop").symlink_to(root / "loop")
    (root / "link").symlink_to(tmp_path / "outside")
    assert code_of(f"{root}/{way}", settings) in {"unreadable", "outside_roots"}


@pytest.mark.parametrize("swapped", ["root", "root/sub", "root/sub/deep", "root/sub/deep/file"])
def test_what_becomes_a_link_after_it_was_resolved_is_not_followed(
    tmp_path: Path, root: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch, swapped: str
) -> None:
    for folder in (root, tmp_path / "outside"):
        (folder / "sub" / "deep").mkdir(parents=True)
        (folder / "sub" / "deep" / "file").write_text(folder.name)
    placed = files._placed

    def swap(path: Path, settings: Settings) -> tuple[Path, str]:
        found = placed(path, settings)
        (tmp_path / swapped).rename(tmp_path / "aside")
        (tmp_path / swapped).symlink_to(tmp_path / swapped.replace("root", "outside"))
        return found

    assert read(root / "sub" / "deep" / "file", settings) == b"root"
    monkeypatch.setattr(files, "_placed", swap)
    assert code_of(root / "sub" / "deep" / "file", settings) == "source_unavailable"
    assert (root / "sub" / "deep" / "file").read_text() == "outside", "by its name it leads out by now"


def test_root_may_be_one_file(root: Path, settings: Settings) -> None:
    (root / "a").write_text("words")
    one = settings.model_copy(update={"allowed_roots": (root / "a",)})
    assert read(root / "a", one) == b"words"
    assert code_of(root / "b", one) == "outside_roots"


def test_file_without_permission_is_unreadable(root: Path, settings: Settings, ordinary: None) -> None:
    secret = root / "secret"
    if os.geteuid() != NOBODY:
        secret.touch(0)
    assert code_of(secret, settings) == "unreadable"


def test_path_out_of_the_roots_is_refused_however_it_is_spelled(
    root: Path, tmp_path: Path, settings: Settings
) -> None:
    outside = tmp_path / "rooted.txt"
    outside.write_text("secret")
    (root / "link").symlink_to(outside)
    (root / "away").symlink_to(tmp_path)
    for spelled in (
        outside,
        root / ".." / "rooted.txt",
        root / "link",
        root / "away" / "rooted.txt",
        Path("/etc/passwd"),
        f"file://{outside}",
        f"file://{root}/%2e%2e/rooted.txt",
        f"file://{root}/..%2frooted.txt",
        tmp_path / "root2" / "missing",
    ):
        assert code_of(spelled, settings) == "outside_roots", spelled


def test_what_holds_passwords_of_ours_is_no_document(
    root: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(root)
    (root / "data" / "docs").mkdir(parents=True)
    for name in (".env", "data/stack.env", "data/docs/a", "database"):
        (root / name).write_text("words")
    (root / "link").symlink_to(".env")
    mine = settings.model_copy(update={"data_dir": root / "data"})
    for name in (".env", "link", "data/stack.env", "data/docs/a", "docs/../data/missing"):
        assert code_of(root / name, mine) == "own_file", name
    assert read(root / "database", mine) == b"words"
    named = mine.model_copy(update={"allowed_roots": (root, root / "data" / "docs")})
    assert read(root / "data" / "docs" / "a", named) == b"words"
    assert code_of(root / "data" / "stack.env", named) == "own_file"
    everything = settings.model_copy(update={"allowed_roots": (Path("/"),)})
    assert code_of("/proc/self/environ", everything) == "own_file"


def test_root_itself_and_several_roots_count(tmp_path: Path, root: Path, settings: Settings) -> None:
    assert check_root(root, settings) == str(root)
    more = settings.model_copy(update={"allowed_roots": (root, tmp_path / "other")})
    assert check_root(tmp_path / "other" / "a", more) == str(tmp_path / "other" / "a")


@pytest.mark.parametrize("source", ["file:///a%00b", "/a\0b"])
def test_path_with_a_nul_is_a_documents_error(settings: Settings, source: str) -> None:
    assert code_of(source, settings) in {"unreadable", "not_found", "outside_roots"}


# -- inline content --------------------------------------------------------------------------------


def test_inline_content_is_taken_as_it_is_and_its_path_is_only_a_name(settings: Settings) -> None:
    assert load("/etc/passwd", b"\0\xff", settings) == b"\0\xff"
    assert load("s3://b/k", b"", settings) == b""
    with pytest.raises(DocumentError) as caught:
        load("a", b"x" * (LIMIT + 1), settings)
    assert caught.value.code == "too_large"


# -- storage URIs ----------------------------------------------------------------------------------


def put(uri: str, data: bytes) -> str:
    with fsspec.open(uri, "wb") as file:
        file.write(data)
    return uri


def test_uri_is_read_up_to_the_limit(settings: Settings) -> None:
    assert read(put("memory://sources/a", b"x" * LIMIT), settings) == b"x" * LIMIT
    assert code_of(put("memory://sources/b", b"x" * (LIMIT + 1)), settings) == "too_large"


def test_uri_of_nothing_is_not_found(settings: Settings) -> None:
    assert code_of("memory://sources/none", settings) == "not_found"


def test_uri_that_fails_otherwise_may_answer_later(settings: Settings) -> None:
    assert code_of("broken://box/away", settings) == "source_unavailable"
    assert code_of("broken://box/odd", settings) == "source_unavailable"


def test_uri_without_permission_is_unreadable(settings: Settings) -> None:
    assert code_of("broken://box/secret", settings) == "unreadable"


@pytest.mark.parametrize(
    "uri",
    ["s3://b/k", "http://127.0.0.1/", "FTP://h/x", "gs+x.y-z://h", "zip://a::memory://b.zip"],
)
def test_scheme_must_be_allowed(settings: Settings, uri: str) -> None:
    assert code_of(uri, settings) == "scheme_not_allowed"


def test_allowed_scheme_without_a_driver_says_so(settings: Settings) -> None:
    assert code_of("nope://x/y", settings) == "no_driver"


@pytest.mark.parametrize(
    "uri",
    [
        "memory://other/a", "memory://sources.other/a", "memory://sources:80/a", "memory:///sources/a", "memory://",
        "memory://user:hush@box/a", "memory://box@other/a", "memory://other@box/a",
        "memory://box/a::memory://other/a", "memory://box::local:///etc/passwd", "memory://a::zip::memory://b.zip",
        "memory://[x", "memory://box:port/a", "memory://x\\@box/a", "memory://b\nox/a",
    ],
)  # fmt: skip
def test_host_must_be_allowed_whatever_stands_around_it(settings: Settings, uri: str) -> None:
    put("memory://other/a", b"secret")
    assert code_of(uri, settings) == "uri_not_allowed"


class Waiting(fsspec.AbstractFileSystem):  # type: ignore[misc] # untyped
    """Storage that answers when it is let, or a byte at a time without an end."""

    let, closed = threading.Event(), threading.Event()

    def _open(self, path: str, **_: Any) -> Any:
        return Drip(self) if "/drip" in path else self.let.wait()


class Drip(io.RawIOBase):
    def __init__(self, storage: Waiting) -> None:
        self._storage = storage

    def read(self, _size: int = -1) -> bytes:
        self._storage.let.wait(0.01)
        return b"x"

    def close(self) -> None:
        self._storage.closed.set()


@pytest.fixture
def waiting() -> Iterator[None]:
    fsspec.register_implementation("waiting", Waiting, clobber=True)
    Waiting.let.clear()
    Waiting.closed.clear()
    yield
    Waiting.let.set()


@pytest.mark.usefixtures("waiting")
@pytest.mark.parametrize("name", ["never", "drip"])
def test_storage_that_does_not_come_to_an_end_is_not_waited_for(settings: Settings, name: str) -> None:
    short = {"allowed_uri_schemes": ("waiting",), "uri_timeout_seconds": 1, "max_document_bytes": 1 << 20}
    with pytest.raises(TransientError) as caught:
        read(f"waiting://box/{name}?token=hush", settings.model_copy(update=short))
    assert (caught.value.code, caught.value.message) == (
        "source_unavailable",
        f"waiting://box/{name}?… cannot be read: it takes over 1 s (URI_TIMEOUT_SECONDS)",
    )
    if name == "drip":
        assert Waiting.closed.wait(10), "who nobody waits for goes on reading"


def test_those_who_never_answer_take_so_many_threads_and_no_more() -> None:
    let, begun = threading.Event(), threading.Semaphore(0)

    def step() -> None:
        begun.release()
        let.wait()

    def late() -> None:
        with pytest.raises(TimeoutError):
            until(time.monotonic(), step)

    for _ in range(20):
        late()
    assert 0 < sum(begun.acquire(timeout=0.1) for _ in range(20)) <= 16
    let.set()
    assert until(time.monotonic() + 60, lambda: "given") == "given"


@pytest.mark.parametrize("login", ["user:hush@", ""])
@pytest.mark.parametrize("query", ["token=hush", "id=me@there&token=hush"])
@pytest.mark.parametrize("scheme", ["memory", "nope", "s3"])
def test_what_may_be_a_secret_in_a_uri_is_not_said(
    settings: Settings, scheme: str, login: str, query: str
) -> None:
    with pytest.raises(DocumentError) as caught:
        read(f"{scheme}://{login}box/none?{query}", settings)
    assert "hush" not in caught.value.message


# -- names -----------------------------------------------------------------------------------------


@limits(max_examples=200)
@given(st.binary(max_size=20).map(lambda name: name.replace(b"\0", b"")))
@example(b"caf\xe9 %41")
@example(b"%41")
@example(b"file://x")
@example("é".encode())
def test_every_name_of_a_file_comes_back(name: bytes) -> None:
    path = Path(os.fsdecode(b"/" + name))
    written = source_path_of(path)
    written.encode()
    assert local_path(written) == path


def test_only_names_that_are_not_utf8_are_encoded() -> None:
    assert source_path_of(Path("/é %41.txt")) == "/é %41.txt"
    assert source_path_of(Path(os.fsdecode(b"/caf\xe9 %41"))) == "file:///caf%E9%20%2541"


def test_file_whose_name_is_not_utf8_is_read(root: Path, settings: Settings) -> None:
    file = Path(os.fsdecode(os.fsencode(root) + b"/caf\xe9"))
    file.write_text("words")
    assert read(source_path_of(file), settings) == b"words"


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("s3://b/k", True),
        ("S3://b/k", True),
        ("file:///a", True),
        ("git+ssh://h", True),
        ("/a/b", False),
        ("a://", True),
        ("1a://b", False),
        ("a:/b", False),
        ("://b", False),
        ("/s3://b", False),
        ("", False),
    ],
)
def test_uri_is_told_from_a_path(text: str, answer: bool) -> None:
    assert is_uri(text) is answer
    assert (local_path(text) is None) == (answer and not text.startswith("file://"))
