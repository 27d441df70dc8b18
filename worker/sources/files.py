"""Files below ALLOWED_ROOTS: a path is resolved, held against the roots, and opened from its root on."""

import errno
import os
import stat
from collections.abc import Sequence
from contextlib import suppress
from functools import cache, partial
from pathlib import Path

from worker.errors import DocumentError, TransientError
from worker.settings import Settings
from worker.sources.size import too_large, up_to, within

# why a file cannot be opened now and will not be later; the rest (too many open files, I/O) may pass
_FINAL = {errno.EACCES, errno.EPERM, errno.ENAMETOOLONG, errno.ENXIO, errno.EISDIR}
# what O_NOFOLLOW says of a link: there was none when the path was resolved
_CHANGED = {errno.ELOOP, errno.ENOTDIR}
# O_NONBLOCK: opening a FIFO must not wait for its writer; O_NOCTTY: a terminal must not become ours
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
# O_PATH, which macOS lacks: a folder that may be entered need not be readable
_FOLDER = getattr(os, "O_PATH", os.O_RDONLY) | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# where Linux shows the environment of a process
_PROCESSES = "/proc"


def check_root(path: Path, settings: Settings) -> str:
    """Resolve a path and hold it against ALLOWED_ROOTS. Raises DocumentError "outside_roots", "own_file"."""
    return _placed(path, settings)[1]


def read_file(path: Path, settings: Settings) -> bytes:
    """Give the bytes of a regular file below ALLOWED_ROOTS. Raises what `load` does."""
    root, real = _placed(path, settings)
    try:
        descriptor = _open_beneath(root, real)
    except FileNotFoundError:
        raise DocumentError("not_found", f"there is no file {path}") from None
    except OSError as error:
        if error.errno in _CHANGED:
            raise TransientError("source_unavailable", f"{path} changed while it was opened") from None
        kind = DocumentError if error.errno in _FINAL else TransientError
        raise kind("unreadable", f"{path} cannot be opened: {error.strerror}") from None
    try:
        return _read_regular(descriptor, path, settings.max_document_bytes)
    finally:
        os.close(descriptor)


def _placed(path: Path, settings: Settings) -> tuple[Path, str]:
    """Give the root a path is below, and the path without links."""
    try:
        real = _resolved(path)
    except (OSError, ValueError):  # a loop of links, too long a name, a NUL
        raise DocumentError("unreadable", f"the path cannot be resolved: {str(path)!r}") from None
    roots = [root for root in settings.allowed_roots if _is_below(real, root)]
    if roots:
        _refuse_ours(path, real, roots, settings)
        return roots[0], real
    shown = str(path) if real == str(path) else f"{path}, which leads to {real},"
    raise DocumentError(
        "outside_roots", f"{shown} is outside ALLOWED_ROOTS; add its folder there to ingest it"
    )


def _refuse_ours(path: Path, real: str, roots: Sequence[Path], settings: Settings) -> None:
    """Refuse what holds passwords of ours: a search would show them. A root within such a folder is meant."""
    dot_env, *folders = _ours(settings.data_dir)
    kept = [folder for folder in folders if not any(_is_below(root, folder) for root in roots)]
    if real == dot_env or any(_is_below(real, folder) for folder in kept):
        raise DocumentError("own_file", f"{path} is ours: .env, DATA_DIR and /proc hold no documents")


@cache
def _ours(data_dir: Path) -> tuple[str, ...]:
    return os.path.realpath(".env"), os.path.realpath(data_dir), _PROCESSES


def _is_below(path: str | Path, folder: str | Path) -> bool:
    """Tell whether a path is a folder's or the folder, both without links."""
    return _with_slash(path).startswith(_with_slash(folder))


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


def _open_beneath(root: Path, real: str) -> int:
    """Open a resolved path, each folder from the one before, following no link. Raises OSError.

    By its name as a whole, a folder that somebody swaps for a link in this moment would lead out of the root.
    """
    parts = Path(real).relative_to(root).parts
    start, parts = (root, parts) if parts else (root.parent, (root.name or ".",))
    *folders, name = parts
    at = os.open(start, _FOLDER)
    try:
        for folder in folders:
            inner = os.open(folder, _FOLDER, dir_fd=at)
            os.close(at)
            at = inner
        return os.open(name, _FILE, dir_fd=at)
    finally:
        os.close(at)


def _read_regular(descriptor: int, path: Path, limit: int) -> bytes:
    found = os.fstat(descriptor)
    if not stat.S_ISREG(found.st_mode):
        raise DocumentError("not_a_file", f"{path} is not a regular file")
    if found.st_size > limit:
        raise too_large(found.st_size, limit)
    try:
        return within(_read_all(descriptor, found.st_size, limit + 1), limit)
    except OSError as error:
        raise TransientError("source_unavailable", f"{path} cannot be read: {error.strerror}") from None


def _read_all(descriptor: int, size: int, limit: int) -> bytes:
    """Read up to `limit` bytes: one system call for a file that still has its `size`."""
    found = os.read(descriptor, min(size + 1, limit))
    if len(found) == size:
        return found
    return found + up_to(partial(os.read, descriptor), limit - len(found))
