"""The stack as a user meets it: real servers, real signals, toy processes."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path

import psutil
import psycopg2
import pytest
import redis
from pydantic import SecretStr
from tenacity import Retrying, retry_if_result, stop_after_delay, wait_fixed

from worker.embedded import RunningPostgres, RunningValkey
from worker.embedded.process import runs_on
from worker.errors import Exit, StackError
from worker.settings import configured_urls, read_settings
from worker.stack import Stack, running_stack
from worker.stack.processes import find_procfile

TICKING = f"{sys.executable} -uc 'import signal; print(\"tick\"); signal.pause()'"
STUBBORN = (
    f"{sys.executable} -uc 'import signal; signal.signal(15, signal.SIG_IGN);"
    ' print("tick"); [signal.pause() for _ in range(9)]\''
)
DYING = f"{sys.executable} -uc 'print(\"no such queue\"); raise SystemExit(3)'"
UP = """
import sys
from pathlib import Path
from worker.stack import running_stack
with running_stack(Path(sys.argv[1]), flower_port=int(sys.argv[2]), procfile=Path(sys.argv[3])) as stack:
    print("ready", flush=True)
    sys.exit(stack.run_foreground())
"""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def until(condition: Callable[[], object], seconds: float = 60) -> None:
    Retrying(
        stop=stop_after_delay(seconds), wait=wait_fixed(0.01), retry=retry_if_result(lambda found: not found)
    )(condition)


def processes_on(folder: Path) -> list[str]:
    found = []
    for process in psutil.process_iter():
        try:
            ours = process.cwd().startswith(str(folder)) or runs_on(process, folder)
            if ours or process.environ().get("DATA_DIR") == str(folder):
                found.append(" ".join(process.cmdline()))
        except psutil.Error:
            continue
    return found


def procfile(folder: Path, **commands: str) -> Path:
    path = folder / "Procfile"
    path.write_text("".join(f"{name}: {command}\n" for name, command in commands.items()))
    return path


def up(data: Path, commands: Path, port: int | None = None) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", UP, str(data), str(port or free_port()), str(commands)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def read_until(process: subprocess.Popen[str], word: str) -> str:
    assert process.stdout is not None
    seen = ""
    for line in process.stdout:
        seen += line
        if word in line:
            return seen
    pytest.fail(f"it ended without {word!r}: {seen}")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return tmp_path / "data"


Attach = Callable[..., AbstractContextManager[Stack]]


@pytest.fixture(scope="module")
def attach(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Attach]:
    """Give a stack that uses servers which are there already."""
    folder = tmp_path_factory.mktemp("servers")
    with (
        RunningPostgres(folder / "pg", version=18, durable=False) as database,
        RunningValkey(folder / "vk", durable=False) as broker,
    ):
        database_url, broker_url = SecretStr(database.start().url), SecretStr(broker.start().url)
        yield partial(
            running_stack, flower_port=free_port(), database_url=database_url, broker_url=broker_url
        )


def test_stack_leaves_its_settings_while_it_runs(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DATA_DIR", str(data))
    for name in ("DATABASE_URL", "BROKER_URL", "ALLOWED_ROOTS"):
        monkeypatch.delenv(name, raising=False)
    with running_stack(data, flower_port=free_port(), allowed_roots=[tmp_path]) as stack:
        file = data / "stack.env"
        assert file.stat().st_mode & 0o777 == 0o600
        settings = read_settings()
        assert settings.database_url.get_secret_value() == stack.settings_env["DATABASE_URL"]
        assert settings.allowed_roots == (tmp_path.resolve(),)
        assert "FLOWER_BASIC_AUTH" in file.read_text()
        psycopg2.connect(settings.database_url.get_secret_value()).close()
        assert redis.Redis.from_url(settings.broker_url.get_secret_value()).ping()
        with (
            pytest.raises(StackError, match="already running"),
            running_stack(data, flower_port=free_port()),
        ):
            pass
    assert not file.exists()
    assert processes_on(data) == []


def test_given_servers_are_used_and_none_is_started(data: Path, attach: Attach) -> None:
    with attach(data) as stack:
        assert redis.Redis.from_url(stack.settings_env["BROKER_URL"]).ping()
        assert not (data / "valkey").exists()
        assert not (data / "postgres18").exists()


@pytest.mark.parametrize("program", ["flower", "metrics"])
def test_a_taken_port_is_named_before_a_server_starts(data: Path, program: str) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        ports = {"flower_port": free_port(), f"{program}_port": port}
        with (
            pytest.raises(StackError, match=rf"port {port}.*{program.upper()}_PORT"),
            running_stack(data, **ports),
        ):
            pass
    assert not (data / "postgres18").exists()
    assert not (data / "valkey").exists()


def test_data_folder_that_cannot_be_made_is_explained(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with (
        pytest.raises(StackError, match="not writable"),
        running_stack(tmp_path / "file" / "data", flower_port=free_port()),
    ):
        pass


@pytest.mark.parametrize(
    "moment",
    ["log", "postgres18.new", "postgres18/postmaster.pid", "valkey.pid", "valkey/valkey.conf", "stack.env"],
)
def test_ctrl_c_at_any_moment_of_the_start_leaves_nothing(data: Path, tmp_path: Path, moment: str) -> None:
    process = up(data, procfile(tmp_path, ticking=TICKING))
    until((data / moment).exists)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=30)
    assert process.returncode in {-signal.SIGINT, Exit.INTERRUPTED}, output
    assert processes_on(data) == []
    assert not (data / "stack.env").exists()
    with running_stack(data, flower_port=free_port()):
        pass


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_foreground_is_prefixed_and_stops_in_order(
    data: Path, tmp_path: Path, number: signal.Signals
) -> None:
    process = up(data, procfile(tmp_path, ticking=TICKING, other=TICKING))
    assert "ticking | tick" in read_until(process, "ticking | tick")
    process.send_signal(number)
    process.send_signal(number)
    process.communicate(timeout=30)
    assert process.returncode == Exit.INTERRUPTED
    assert processes_on(data) == []


def test_process_that_does_not_obey_is_killed(data: Path, tmp_path: Path, attach: Attach) -> None:
    commands = procfile(tmp_path, stubborn=STUBBORN)
    with attach(data, procfile=commands) as stack:
        stack.start_background()
        until(lambda: "tick" in stack.log.read_text())
    assert processes_on(data) == []
    assert "ended (exit code -9)" in stack.log.read_text()


def run_to_death(stack: Stack) -> str:
    with pytest.raises(StackError) as caught:  # noqa: PT012 -- it may die before or after the start returns
        stack.start_background()
        until(stack.check)
    return str(caught.value)


def test_process_that_dies_is_reported_with_its_last_words(
    data: Path, tmp_path: Path, attach: Attach
) -> None:
    commands = procfile(tmp_path, dying=DYING, ticking=TICKING)
    with attach(data, procfile=commands) as stack:
        said = run_to_death(stack)
    assert "process dying of the Procfile ended (exit code 3)" in said
    assert "no such queue" in said
    assert processes_on(data) == []


def test_process_that_dies_ends_the_foreground(data: Path, tmp_path: Path, attach: Attach) -> None:
    commands = procfile(tmp_path, dying=DYING, ticking=TICKING)
    with (
        attach(data, procfile=commands) as stack,
        pytest.raises(StackError, match=r"process dying .*exit code 3"),
    ):
        stack.run_foreground()
    assert processes_on(data) == []


def test_runner_that_is_killed_ends_the_foreground(data: Path, tmp_path: Path) -> None:
    running = up(data, procfile(tmp_path, ticking=TICKING))
    read_until(running, "ticking | tick")
    os.kill(int((data / "log" / "processes.pid").read_text()), signal.SIGKILL)
    said, _ = running.communicate(timeout=60)
    assert "the runner of the Procfile's processes died (exit code -9)" in said
    assert running.returncode not in {0, Exit.INTERRUPTED}
    until(lambda: not processes_on(data))


def test_full_disk_under_the_log_stops_nothing(tmp_path: Path) -> None:
    commands, state = procfile(tmp_path, dying=DYING), tmp_path / "state"
    command = [sys.executable, "-m", "worker.stack", str(commands), str(state)]
    with Path("/dev/full").open("w") as full:
        subprocess.run(command, stdout=full, stderr=full, timeout=60, check=False)
    assert json.loads(state.read_text())["first_stopped"] == {"name": "dying", "returncode": 3}


@pytest.mark.parametrize("name", ["valkey", "postgres18"])
def test_server_that_dies_ends_the_foreground(data: Path, tmp_path: Path, name: str) -> None:
    running = up(data, procfile(tmp_path, ticking=TICKING))
    read_until(running, "tick")
    (number,) = re.findall(r"\d+", (data / f"{name}.pid").read_text())
    os.kill(int(number), signal.SIGKILL)
    said, _ = running.communicate(timeout=60)
    assert f"the server {name} died" in said
    assert running.returncode != 0
    assert processes_on(data) == []


def test_killed_stack_takes_its_processes_along_and_starts_again(data: Path, tmp_path: Path) -> None:
    commands = procfile(tmp_path, ticking=TICKING)
    process = up(data, commands)
    read_until(process, "ticking | tick")
    process.kill()
    process.wait()
    with running_stack(data, flower_port=free_port(), procfile=commands) as stack:
        stack.start_background()
        psycopg2.connect(stack.settings_env["DATABASE_URL"]).close()
    until(lambda: not processes_on(data))


def test_leftover_of_a_killed_stack_is_stopped_and_a_stranger_is_not(data: Path, attach: Attach) -> None:
    (data / "log").mkdir(parents=True)
    command = [sys.executable, "-c", "import signal; print(1, flush=True); signal.pause()"]
    ours = subprocess.Popen([*command, str(data / "log" / "processes")])
    stranger = subprocess.Popen(command)
    record = data / "log" / "processes.pid"
    for process, survives in ((ours, False), (stranger, True)):
        record.write_text(str(process.pid))
        with attach(data):
            assert (process.poll() is None) == survives
    stranger.kill()
    stranger.wait()


def test_commands_of_our_own_environment_come_first(data: Path, tmp_path: Path, attach: Attach) -> None:
    show = f"{sys.executable} -c 'import os, json; print(json.dumps(dict(os.environ)))'"
    commands = procfile(tmp_path, show=show, ticking=TICKING)
    with attach(data, procfile=commands) as stack:
        run_to_death(stack)
        said = next(line for line in stack.log.read_text().splitlines() if "{" in line)
    environment = json.loads(said.partition("| ")[2])
    assert environment["PATH"].split(os.pathsep)[0] == str(Path(sys.executable).parent)
    assert environment["DATA_DIR"] == str(data.resolve())


def test_the_procfile_runs_our_own_commands() -> None:
    commands = find_procfile().read_text().splitlines()
    assert [line.partition(":")[0] for line in commands] == [
        "ingest",
        "interactive",
        "search",
        "maintenance",
        "beat",
        "flower",
        "exporter",
    ]
    assert all(line.partition(": ")[2].startswith("ingest ") for line in commands)


def test_urls_of_the_user_are_told_from_those_of_a_stack(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("DATABASE_URL", "BROKER_URL"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / ".ingest").mkdir()
    (tmp_path / ".ingest" / "stack.env").write_text("DATABASE_URL='postgresql://stack'\n")
    assert configured_urls() == (None, None)
    (tmp_path / ".env").write_text("BROKER_URL=redis://mine\n")
    monkeypatch.setenv("DATABASE_URL", "postgresql://mine")
    assert configured_urls() == (SecretStr("postgresql://mine"), SecretStr("redis://mine"))
