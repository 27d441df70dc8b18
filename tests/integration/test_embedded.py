"""The servers of one machine: real ones, killed, moved, refused."""

import os
import signal
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import psutil
import psycopg2
import pytest
import redis

from worker.embedded import RunningPostgres, RunningValkey, start_postgres, start_valkey
from worker.embedded.postgres import _failure
from worker.embedded.process import refusal, runs_on
from worker.embedded.tuning import Machine, configuration
from worker.errors import StackError

GB = 1 << 30


def query(server: RunningPostgres, sql: str) -> str:
    with closing(psycopg2.connect(server.url)) as connection:
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute(sql)
            return str(cursor.fetchone()[0]) if cursor.description else ""  # type: ignore[index]


def processes_on(folder: Path) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        try:
            where = process.cwd()
        except psutil.Error:
            continue
        if process.pid != os.getpid() and (where.startswith(str(folder)) or runs_on(process, folder)):
            found.append(process)
    return found


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("embedded")


@pytest.fixture(scope="module")
def postgres(base: Path) -> Iterator[RunningPostgres]:
    with start_postgres(base / "pg", version=18, durable=False) as server:
        yield server


@pytest.fixture(scope="module")
def valkey(base: Path) -> Iterator[RunningValkey]:
    with start_valkey(base / "vk") as server:
        yield server


@pytest.mark.parametrize(
    ("name", "value"), [("fsync", "off"), ("shared_buffers", "128MB"), ("max_wal_size", "4GB")]
)
def test_configuration_is_in_effect(postgres: RunningPostgres, name: str, value: str) -> None:
    assert query(postgres, f"SHOW {name}") == value


def test_postgres_listens_on_a_private_socket_only(postgres: RunningPostgres) -> None:
    assert query(postgres, "SHOW listen_addresses") == ""
    folder = Path(query(postgres, "SHOW unix_socket_directories").strip('"'))
    assert folder.stat().st_mode & 0o077 == 0


def test_pgvector_is_there(postgres: RunningPostgres) -> None:
    query(postgres, "CREATE EXTENSION IF NOT EXISTS vector")
    assert query(postgres, "SELECT '[1,2]'::vector <=> '[1,2]'") == "0.0"


def test_second_start_is_refused_and_harms_nothing(postgres: RunningPostgres, valkey: RunningValkey) -> None:
    with pytest.raises(StackError, match="already running"):
        start_postgres(postgres.folder, version=18)
    with pytest.raises(StackError, match="already running"):
        start_valkey(valkey.folder)
    assert query(postgres, "SELECT 1") == "1"


def test_postgres_recovers_from_kill(tmp_path: Path) -> None:
    with start_postgres(tmp_path / "pg", version=18, durable=False) as server:
        query(server, "CREATE TABLE kept AS SELECT 42 AS answer")
        os.kill(server.pid, signal.SIGKILL)
        server.start()
        assert query(server, "SELECT answer FROM kept") == "42"
    assert processes_on(tmp_path) == []


def test_postgres_starts_again_when_its_old_number_belongs_to_a_stranger(tmp_path: Path) -> None:
    start_postgres(tmp_path / "pg", version=18, durable=False).stop()
    (tmp_path / "pg" / "postmaster.pid").write_text(f"{os.getppid()}\n{tmp_path}/pg\n1\n5432\n\n\n\nready\n")
    with start_postgres(tmp_path / "pg", version=18, durable=False) as server:
        assert query(server, "SELECT 1") == "1"


@pytest.mark.parametrize("name", ["long" * 50, 'it\'s $(an) "odd", name'])
def test_any_path_works(tmp_path: Path, name: str) -> None:
    with (
        start_postgres(tmp_path / name / "pg", version=16, durable=False) as server,
        start_valkey(tmp_path / name / "vk", durable=False) as broker,
    ):
        assert query(server, "SELECT current_database()") == "ingest"
        assert redis.Redis.from_url(broker.url).ping()
        sockets = Path(query(server, "SHOW unix_socket_directories").strip('"'))
    assert not sockets.exists()
    assert processes_on(tmp_path) == []


def test_stop_leaves_no_process_and_may_be_repeated(tmp_path: Path) -> None:
    server = start_postgres(tmp_path / "pg", version=18, durable=False)
    broker = start_valkey(tmp_path / "vk")
    assert len(processes_on(tmp_path)) > 2
    for _ in range(2):
        broker.stop()
        server.stop()
    assert processes_on(tmp_path) == []


def test_folder_that_cannot_be_made_is_explained(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for start in (
        lambda: start_postgres(tmp_path / "file" / "pg", version=18),
        lambda: start_valkey(tmp_path / "file" / "vk"),
    ):
        with pytest.raises(StackError, match=r"not writable.*DATA_DIR"):
            start()


def test_data_of_another_version_is_refused(postgres: RunningPostgres, tmp_path: Path) -> None:
    folder = tmp_path / "pg"
    folder.mkdir()
    (folder / "PG_VERSION").write_text("16\n")
    with pytest.raises(StackError, match=r"PostgreSQL 16, not 18.*POSTGRES_VERSION=16"):
        start_postgres(folder, version=18)


def test_folder_with_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "pg").mkdir()
    (tmp_path / "pg" / "letter.txt").touch()
    with pytest.raises(StackError, match="holds no PostgreSQL data"):
        start_postgres(tmp_path / "pg", version=18)
    assert (tmp_path / "pg" / "letter.txt").exists()


def test_broken_configuration_gives_one_line(tmp_path: Path) -> None:
    start_postgres(tmp_path / "pg", version=18, durable=False).stop()
    with (tmp_path / "pg" / "postgresql.conf").open("a") as file:
        file.write("nonsense = 1\n")
    with pytest.raises(StackError, match=r"PostgreSQL does not start: .*contains errors") as caught:
        start_postgres(tmp_path / "pg", version=18, durable=False)
    assert "\n" not in str(caught.value)


def test_valkey_is_configured(valkey: RunningValkey) -> None:
    settings = redis.Redis.from_url(valkey.url).config_get("maxmemory-policy", "append*", "bind")
    assert settings["maxmemory-policy"] == "noeviction"
    assert settings["appendonly"] == "yes"
    assert settings["bind"] == "127.0.0.1"


def test_valkey_wants_its_password(valkey: RunningValkey) -> None:
    with pytest.raises(redis.AuthenticationError):
        redis.Redis(host="127.0.0.1", port=valkey.port or 0).ping()
    assert (valkey.folder / "valkey.conf").stat().st_mode & 0o077 == 0


def test_valkey_comes_back_after_a_kill_with_its_data_and_address(tmp_path: Path) -> None:
    with start_valkey(tmp_path / "vk") as server:
        before = server.url
        client = redis.Redis.from_url(before)
        client.set("kept", "42")
        client.config_set("appendfsync", "always")
        client.set("kept", "42")
        os.kill(server.pid, signal.SIGKILL)
        server.start()
        assert server.url == before
        assert redis.Redis.from_url(server.url).get("kept") == b"42"


def test_valkey_on_a_taken_port_is_explained(valkey: RunningValkey, tmp_path: Path) -> None:
    with pytest.raises(StackError, match=f"port {valkey.port} is taken"):
        start_valkey(tmp_path / "vk", port=valkey.port)


def test_valkey_with_broken_data_says_what_may_be_deleted(tmp_path: Path) -> None:
    start_valkey(tmp_path / "vk").stop()
    (tmp_path / "vk" / "appendonlydir" / "appendonly.aof.manifest").write_text("garbage\n")
    with pytest.raises(StackError, match=r"Valkey does not start: .*may be deleted"):
        start_valkey(tmp_path / "vk")


def test_full_disk_is_named() -> None:
    full = OSError(28, "No space left on device")
    assert "the disk is full" in str(refusal(Path("data"), full))
    said = "FATAL:  could not write lock file: No space left on device"
    assert "the disk is full" in str(_failure("PostgreSQL does not start", said, Path("log")))


def test_sizes_follow_the_machine() -> None:
    small = configuration(Machine(1 * GB, 64 << 20, 8), durable=True, socket_folder="/s")
    large = configuration(Machine(256 * GB, 128 * GB, 8), durable=True, socket_folder="/s")
    assert small["shared_buffers"] == "128MB"
    assert small["max_parallel_maintenance_workers"] == "0"
    assert large["shared_buffers"] == "4096MB"
    assert large["maintenance_work_mem"] == "2048MB"
    assert large["max_parallel_maintenance_workers"] == "2"


@pytest.mark.parametrize(("cores", "workers"), [(1, "0"), (2, "0"), (3, "1"), (64, "2")])
def test_a_build_leaves_a_core_to_searches(cores: int, workers: str) -> None:
    machine = Machine(8 * GB, 8 * GB, cores)
    built = configuration(machine, durable=True, socket_folder="/s")
    assert built["max_parallel_maintenance_workers"] == workers
