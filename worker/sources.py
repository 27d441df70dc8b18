"""Where a document's bytes come from: inline, a local file under the allowed roots, or a storage URI."""

import errno
import os
import re
import stat
from contextlib import suppress
from pathlib import Path
from urllib.parse import quote_from_bytes, unquote_to_bytes

from worker.errors import DocumentError, TransientError
from worker.settings import Settings, masked

# why a file cannot be opened now and will not be later; the rest (too many open files, I/O) may pass
_FINAL = {
    errno.EACCES, errno.EPERM, errno.ELOOP, errno.ENOTDIR, errno.ENAMETOOLONG, errno.ENXIO, errno.EISDIR,
}  # fmt: skip
_FILE_URI = "file://"
_THIS_HOST = re.compile(r"\Alocalhost(?=/)", re.IGNORECASE)  # RFC 8089: as good as no host
_URI = re.compile(r"[a-z][a-z0-9+.-]*://", re.IGNORECASE)
# O_NONBLOCK: opening a FIFO must not wait for its writer; O_NOFOLLOW: the path is resolved already.
_OPEN_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


def source_path_of(path: Path) -> str:
    """Write a local path as text: itself, or a file:// URI where its bytes are not UTF-8."""
    raw = os.fsencode(path)
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return _FILE_URI + quote_from_bytes(raw)


def prefixes_of(folder: Path) -> list[str]:
    """Give what the source paths of the files below a folder begin with, in either spelling."""
    raw = os.fsencode(folder)
    slash = "" if raw.endswith(b"/") else "/"
    return [source_path_of(folder) + slash, _FILE_URI + quote_from_bytes(raw) + slash]


def local_path(source_path: str) -> Path | None:
    """Give the local path a source path names; None for a URI of another scheme."""
    if source_path.startswith(_FILE_URI):
        written = _THIS_HOST.sub("", source_path.removeprefix(_FILE_URI))
        return Path(os.fsdecode(unquote_to_bytes(written)))
    return None if is_uri(source_path) else Path(source_path)


def is_uri(source_path: str) -> bool:
    """Tell whether a source path is a URI, file:// included."""
    return _URI.match(source_path) is not None


def load(source_path: str, content: bytes | None, settings: Settings) -> bytes:
    """Give a document's bytes, at most MAX_DOCUMENT_BYTES of them.

    Raises DocumentError: "too_large", "not_found", "unreadable", "not_a_file", "outside_roots",
    "scheme_not_allowed", "no_driver"; TransientError "source_unavailable".
    """
    if content is not None:
        return _within_limit(content, settings.max_document_bytes)
    path = local_path(source_path)
    if path is not None:
        return _read_file(path, settings)
    return _read_uri(source_path, settings)


def check_root(path: Path, settings: Settings) -> str:
    """Resolve a path and hold it against ALLOWED_ROOTS. Raises DocumentError "outside_roots"."""
    try:
        real = _resolved(path)
    except (OSError, ValueError):  # a loop of links, too long a name, a NUL
        raise DocumentError("unreadable", f"the path cannot be resolved: {str(path)!r}") from None
    if not any(_with_slash(real).startswith(_with_slash(root)) for root in settings.allowed_roots):
        shown = str(path) if real == str(path) else f"{path}, which leads to {real},"
        raise DocumentError(
            "outside_roots", f"{shown} is outside ALLOWED_ROOTS; add its folder there to ingest it"
        )
    return real


def _with_slash(folder: str | Path) -> str:
    return os.path.join(folder, "")  # noqa: PTH118 -- a Path drops the slash, without which /a holds /ab


def _resolved(path: Path) -> str:
    """Resolve every link, also where the file is missing. Raises OSError and ValueError."""
    with suppress(FileNotFoundError):
        return os.path.realpath(path, strict=True)
    real = os.path.realpath(path)
    # Not strict, it takes what follows a loop of links as it stands: `loop/../link/file` would keep its link.
    if os.path.realpath(real) != real:
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
    return real


def _read_file(path: Path, settings: Settings) -> bytes:
    real = check_root(path, settings)
    try:
        descriptor = os.open(real, _OPEN_FLAGS)
    except FileNotFoundError:
        raise DocumentError("not_found", f"there is no file {path}") from None
    except OSError as error:
        kind = DocumentError if error.errno in _FINAL else TransientError
        raise kind("unreadable", f"{path} cannot be opened: {error.strerror}") from None
    try:
        return _read_regular(descriptor, path, settings.max_document_bytes)
    finally:
        os.close(descriptor)


def _read_regular(descriptor: int, path: Path, limit: int) -> bytes:
    found = os.fstat(descriptor)
    if not stat.S_ISREG(found.st_mode):
        raise DocumentError("not_a_file", f"{path} is not a regular file")
    if found.st_size > limit:
        raise _too_large(found.st_size, limit)
    try:
        return _within_limit(_read_all(descriptor, found.st_size, limit + 1), limit)
    except OSError as error:
        raise TransientError("source_unavailable", f"{path} cannot be read: {error.strerror}") from None


def _read_all(descriptor: int, size: int, limit: int) -> bytes:
    """Read up to `limit` bytes: one system call for a file that still has its `size`.

    Never asks for much more than there is: Python sets aside whatever is asked for.
    """
    parts = [os.read(descriptor, min(size + 1, limit))]
    done = len(parts[0])
    if done == size:
        return parts[0]
    while done < limit and (part := os.read(descriptor, min(limit - done, 1 << 20))):
        parts.append(part)
        done += len(part)
    return b"".join(parts)


def _read_uri(uri: str, settings: Settings) -> bytes:
    import fsspec

    scheme = uri.partition("://")[0].lower()
    for link in uri.split("::"):  # fsspec unpacks zip://name::s3://bucket/archive
        if (name := link.partition("://")[0].lower()) not in settings.allowed_uri_schemes:
            raise DocumentError("scheme_not_allowed", f"{name}:// is not in ALLOWED_URI_SCHEMES")
    limit = settings.max_document_bytes
    try:
        with fsspec.open(uri, "rb") as file:
            return _within_limit(file.read(limit + 1), limit)
    except FileNotFoundError:
        raise DocumentError("not_found", f"there is nothing at {masked(uri)}") from None
    except PermissionError:
        raise DocumentError("unreadable", f"access to {masked(uri)} is refused") from None
    except (ImportError, ValueError) as error:
        raise DocumentError("no_driver", f"{scheme}:// cannot be read here: {error}") from None
    except OSError as error:
        raise TransientError(
            "source_unavailable", f"{masked(uri)} does not answer: {type(error).__name__}"
        ) from None


def _within_limit(data: bytes, limit: int) -> bytes:
    if len(data) > limit:
        raise _too_large(len(data), limit)
    return data


def _too_large(size: int, limit: int) -> DocumentError:
    return DocumentError("too_large", f"{size:,} bytes or more; MAX_DOCUMENT_BYTES allows {limit:,}")
