"""Child processes that are ours alone: started, found again after a crash, and never left behind."""

import ctypes
import errno
import fcntl
import operator
import os
import signal
import subprocess
import sys
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, Self

import psutil
from tenacity import RetryError, Retrying, retry_if_result, stop_after_delay, wait_fixed

from worker.embedded.account import Account
from worker.errors import StackError

STOPPING_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_PR_SET_PDEATHSIG = 1
_LOG_BYTES = 16 << 20
_prctl = ctypes.CDLL(None).prctl if sys.platform == "linux" else None


class ServerDiedError(Exception):
    """A server ended while we waited for it; the argument is what it logged last."""


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Put off Ctrl-C and its like to the end of the block.

    Without it an interrupt can fall between the birth of a process and the line that remembers it.
    A signal mask would do, were it not inherited by the child, which then cannot be stopped.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    arrived: list[int] = []

    def note(number: int, _frame: FrameType | None) -> None:
        arrived.append(number)

    # SIGALRM is how the command line repeats an interruption that was dropped
    previous = {number: signal.signal(number, note) for number in (*STOPPING_SIGNALS, signal.SIGALRM)}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
        if arrived:
            signal.raise_signal(arrived[0])


def _dying_with_parent(number: signal.Signals) -> Callable[[], None] | None:
    """Give `death_wish`, or None outside the main thread, which may end long before its process."""
    return death_wish(number) if threading.current_thread() is threading.main_thread() else None


def death_wish(number: signal.Signals) -> Callable[[], None] | None:
    """Give what a child runs before its program, so that a parent killed with -9 takes it along.

    Linux only (elsewhere None). The kernel watches the thread that forks, not its process.
    """
    if _prctl is None:
        return None
    parent = os.getpid()

    def ask() -> None:
        _prctl(_PR_SET_PDEATHSIG, int(number))
        if os.getppid() != parent:  # it died before we could ask
            os._exit(1)

    return ask


@contextmanager
def explained(folder: Path) -> Iterator[None]:
    """Turn the operating system's refusals into one line about `folder`."""
    try:
        yield
    except OSError as error:
        raise refusal(folder, error) from None


def refusal(folder: Path, error: OSError) -> StackError:
    """Say what the operating system refused."""
    if error.errno in {errno.ENOSPC, errno.EDQUOT}:
        return StackError(f"the disk is full: {folder}", "free some space, or set DATA_DIR to another disk")
    if (
        isinstance(error, PermissionError | NotADirectoryError | FileExistsError)
        or error.errno == errno.EROFS
    ):
        return StackError(
            f"the data folder is not writable: {folder} ({error.strerror})",
            "set DATA_DIR to a folder of yours",
        )
    return StackError(f"cannot use the data folder {folder}: {error.strerror or error}", "look at DATA_DIR")


class FolderLock:
    """One owner a folder, for as long as its process lives."""

    def __init__(self, path: Path, folder: Path) -> None:
        self._path = path
        self._folder = folder
        self._handle: int | None = None

    def acquire(self) -> None:
        """Take the lock, or raise StackError when another process (or object) has it."""
        if self._handle is not None:
            return
        with uninterrupted():
            # Read-only is enough for flock, and lets an owner open what root left behind.
            handle = os.open(self._path, os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC, 0o644)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(handle)
                raise StackError(
                    f"already running on {self._folder}", "stop it first, or set DATA_DIR to another folder"
                ) from None
            self._handle = handle

    def release(self) -> None:
        """Give the lock back, also on behalf of forks that inherited it."""
        if self._handle is not None:
            handle, self._handle = self._handle, None
            fcntl.flock(handle, fcntl.LOCK_UN)
            os.close(handle)


class OwnedProcess:
    """A server of ours, known again by its recorded pid and by `folder` in its command line."""

    def __init__(self, folder: Path, *, stop_with: signal.Signals, patience: float) -> None:
        self.folder = folder
        self.log = folder.with_name(f"{folder.name}.log")
        self._record = folder.with_name(f"{folder.name}.pid")
        self._stop_with = stop_with
        self._patience = patience
        self._popen: subprocess.Popen[bytes] | None = None
        self._log_start = 0

    @property
    def pid(self) -> int:
        """The process id of the one that was launched last."""
        assert self._popen is not None, "launch it first"
        return self._popen.pid

    @property
    def alive(self) -> bool:
        """Whether what we launched still runs."""
        return self._popen is not None and self._popen.poll() is None

    @property
    def returncode(self) -> int | None:
        """How it ended, None while it runs."""
        return self._popen.poll() if self._popen else None

    def launch(self, command: Sequence[str], *, account: Account | None = None, **options: Any) -> None:
        """Start it in a session of its own: the terminal's Ctrl-C is for us to pass on, in order."""
        as_account = account.popen_options if account else {}
        with uninterrupted(), self._open_log() as log:
            self._popen = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                **{"stdout": log, "stderr": subprocess.STDOUT, "umask": 0o077, **as_account, **options},
                start_new_session=True,
                preexec_fn=_dying_with_parent(self._stop_with),  # noqa: PLW1509 -- one system call, bound early
            )
            self._record.write_text(str(self._popen.pid))

    def wait_until(self, ready: Callable[[], bool], *, seconds: float) -> None:
        """Return when `ready()`; raise ServerDiedError with the last log lines when it ended instead."""

        def look() -> bool:
            if not self.alive:
                raise ServerDiedError(self.logged())
            return ready()

        try:
            Retrying(
                stop=stop_after_delay(seconds), wait=wait_fixed(0.02), retry=retry_if_result(operator.not_)
            )(look)
        except RetryError:
            raise StackError(
                f"{self.folder.name} was not ready after {seconds:.0f} s", f"read {self.log}"
            ) from None

    def wait(self) -> int:
        """Wait for its own end; gives how it ended."""
        assert self._popen is not None, "launch it first"
        return self._popen.wait()

    def ended_within(self, seconds: float) -> bool:
        """Wait so long for its own end; tell whether it came."""
        assert self._popen is not None, "launch it first"
        with suppress(subprocess.TimeoutExpired):
            self._popen.wait(seconds)
        return not self.alive

    def stop(self, *, last_resort: signal.Signals = signal.SIGKILL) -> None:
        """Ask it to end, insist after a while, and forget it. Does nothing twice."""
        with uninterrupted():
            if self._popen is not None:
                _end(
                    psutil.Process(self.pid) if self.alive else None,
                    self._stop_with,
                    last_resort,
                    self._patience,
                )
                self._popen.wait()
                self._popen = None
                self._record.unlink(missing_ok=True)

    def stop_leftover(self) -> None:
        """End what a killed parent of ours left running on this folder. The caller holds the lock."""
        with suppress(FileNotFoundError, ValueError, psutil.NoSuchProcess):
            process = psutil.Process(int(self._record.read_text()))
            if runs_on(process, self.folder):
                _end(process, self._stop_with, signal.SIGKILL, self._patience)
        self._record.unlink(missing_ok=True)

    def logged(self) -> str:
        """Give what it wrote since its launch."""
        with self.log.open("rb") as log:
            log.seek(self._log_start)
            return log.read().decode(errors="replace")

    def _open_log(self) -> Any:
        if self.log.exists() and (self.log.stat().st_size > _LOG_BYTES or not os.access(self.log, os.W_OK)):
            self.log.replace(self.log.with_name(f"{self.log.name}.1"))
        handle = os.open(self.log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        self._log_start = os.fstat(handle).st_size
        return os.fdopen(handle, "ab")


class Server(ABC):
    """A server that is one process of ours: stopped at the end of its `with` block."""

    _process: OwnedProcess

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    @property
    def alive(self) -> bool:
        """Whether it still runs."""
        return self._process.alive

    @property
    def log(self) -> Path:
        """What it writes."""
        return self._process.log

    @abstractmethod
    def stop(self) -> None:
        """End it in order; no process stays."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def runs_on(process: psutil.Process, folder: Path) -> bool:
    """Whether this process was started for `folder`; a recycled pid belongs to a stranger."""
    try:
        return any(str(folder) in argument for argument in process.cmdline())
    except psutil.Error:
        return False


def _end(
    process: psutil.Process | None, ask: signal.Signals, insist: signal.Signals, patience: float
) -> None:
    if process is None:
        return
    with suppress(psutil.NoSuchProcess):
        for number, seconds in ((ask, patience), (insist, 10.0), (signal.SIGKILL, None)):
            process.send_signal(number)
            with suppress(psutil.TimeoutExpired):
                process.wait(seconds)
                return
