"""One stack for all incidents of a session: each test finds it whole and leaves it so."""

import os
import shutil
import subprocess
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import psycopg2
import pytest

from tests.conftest import POSTGRES_VERSION
from tests.forks import Forks
from tests.operations.pages import Page
from tests.operations.stack import Stack
from worker.db.migrate import migrate
from worker.embedded import RunningPostgres, RunningValkey
from worker.settings import read_settings

OpenPage = Callable[..., Page]

_DISK = "size=192m"
_LAST_CHARACTERS = 3_000


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory, forks: Forks) -> Iterator[Stack]:
    folder = tmp_path_factory.mktemp("stack")
    with (
        RunningPostgres(folder / "primary", version=POSTGRES_VERSION, durable=False).start() as postgres,  # type: ignore[arg-type] # 16 or 18
        RunningValkey(folder / "valkey").start() as valkey,
        _small_disk(folder / "disk") as disk,
    ):
        if disk:
            _move_to(disk, postgres)
        migrate(read_settings(database_url=postgres.url, broker_url=valkey.url))
        running = Stack(folder, postgres, valkey, disk, forks)
        try:
            yield running
        finally:
            running.close()
            postgres.stop()


@contextmanager
def _small_disk(place: Path) -> Iterator[Path | None]:
    """Mount a small disk, as root and where that is allowed."""
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", _DISK, "tmpfs", str(place)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        yield None
        return
    try:
        yield place
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)


def _move_to(disk: Path, postgres: RunningPostgres) -> None:
    """Put the database, which is empty, on a disk."""
    place = disk / "tables"
    place.mkdir(mode=0o700)
    shutil.chown(place, postgres.folder.stat().st_uid, postgres.folder.stat().st_gid)
    with closing(psycopg2.connect(postgres.url, dbname="postgres")) as connection:
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute(f"CREATE TABLESPACE small LOCATION '{place}'")
            cursor.execute("ALTER DATABASE ingest SET TABLESPACE small")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Function, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show with a failure what each process said last, and which of them is gone."""
    report = yield
    stack = item.funcargs.get("stack")
    if report.failed and isinstance(stack, Stack):
        for kind, process in stack.processes.items():
            state = "running" if process.poll() is None else f"ended with {process.returncode}"
            report.sections.append((f"{kind}, {state}", stack.log(kind)[-_LAST_CHARACTERS:]))
    return report


@pytest.fixture
def page(stack: Stack) -> OpenPage:
    return lambda name, **settings: Page(name, stack, **settings)
