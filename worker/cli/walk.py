"""Find the files below a folder: one pass of os.scandir, one stat a file, nothing opened."""

import os
import stat
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Found:
    """A file and what `stat` said of it. `path` holds bytes that are not UTF-8 as Python's surrogates."""

    path: str
    size: int
    modified_ns: int


@dataclass(slots=True)
class Walk:
    """What lies below a folder. `unreadable` names the folders that could not be listed, and why."""

    files: list[Found] = field(default_factory=list)
    unreadable: list[tuple[str, str]] = field(default_factory=list)
    special: int = 0
    linked_folders: int = 0

    def take(self, entry: os.DirEntry[str]) -> None:
        """Sort in one entry that is not a folder."""
        try:
            info = _stat(entry)
        except FileNotFoundError:  # deleted since it was listed
            return
        if stat.S_ISDIR(info.st_mode):
            self.linked_folders += 1
        elif stat.S_ISREG(info.st_mode) or stat.S_ISLNK(info.st_mode):
            self.files.append(Found(entry.path, info.st_size, info.st_mtime_ns))
        else:
            self.special += 1


def walk(folder: str, *, hidden: bool = False) -> Walk:
    """Walk a folder; symbolic links to folders are not followed, names with a leading dot are `hidden`."""
    found = Walk()
    folders = [folder]
    while folders:
        folders += _list(folders.pop(), found, hidden=hidden)
    found.files.sort(key=lambda file: file.path)
    found.unreadable.sort()
    return found


def _list(folder: str, found: Walk, *, hidden: bool) -> list[str]:
    """Sort in the entries of one folder; gives its subfolders."""
    below: list[str] = []
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.name.startswith(".") and not hidden:
                    continue
                if entry.is_dir(follow_symlinks=False):
                    below.append(entry.path)
                else:
                    found.take(entry)
    except OSError as error:
        found.unreadable.append((folder, error.strerror or str(error)))
    return below


def _stat(entry: os.DirEntry[str]) -> os.stat_result:
    """Look through a link; a broken one stands for itself, and the worker reports it."""
    try:
        return entry.stat()
    except OSError:
        return entry.stat(follow_symlinks=False)


def gone(path: str) -> bool:
    """Tell whether a file is certainly not there any more; a folder we may not enter proves nothing."""
    try:
        os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return True
    except OSError:
        return False
    return False
