"""docker-compose.yml: valid by its schema, the Procfile's processes, nothing open, nothing secret."""

import re
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from honcho.environ import parse_procfile
from sqlalchemy import Connection, text

from tests.conftest import Run
from worker.broker import SAFE_EVICTION
from worker.db import operations
from worker.db.grants import Role
from worker.db.schema import ADVISED_PGVECTOR

ROOT = Path(__file__).parents[2]
FILE = ROOT / "docker-compose.yml"
SERVICES: dict[str, dict[str, Any]] = yaml.safe_load(FILE.read_text())["services"]
PROCESSES: dict[str, str] = dict(parse_procfile((ROOT / "Procfile").read_text()).processes)
ONCE = {"migrate", "roles"}
LONG_RUNNING = sorted(SERVICES.keys() - ONCE)


PASSWORDS = {"POSTGRES_PASSWORD", *(f"{role.name}_ROLE_PASSWORD" for role in Role)}


def command(service: str) -> str:
    given = SERVICES[service]["command"]
    return given if isinstance(given, str) else " ".join(given)


def test_the_file_follows_the_compose_specification() -> None:
    checker = Path(sys.executable).with_name("check-jsonschema")
    checked = subprocess.run(
        [checker, "--builtin-schema", "vendor.compose-spec", FILE],
        capture_output=True,
        text=True,
        check=False,
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_it_runs_the_processes_of_the_procfile() -> None:
    assert {name: command(name) for name in PROCESSES} == PROCESSES
    assert SERVICES.keys() == PROCESSES.keys() | {"postgres", "redis"} | ONCE
    assert command("migrate") == "ingest migrate"
    assert command("roles") == "ingest roles --no-passwords"


def test_what_runs_our_program_logs_json() -> None:
    ours = [service for service in SERVICES.values() if service["image"] == "ingest-worker"]
    assert {service["environment"]["LOG_FORMAT"] for service in ours} == {"${LOG_FORMAT:-json}"}
    assert len(ours) == len(PROCESSES) + len(ONCE)


@pytest.mark.parametrize("name", LONG_RUNNING)
def test_what_runs_on_is_watched_and_restarted(name: str) -> None:
    service = SERVICES[name]
    assert service["restart"] == "unless-stopped"
    assert service["healthcheck"]["test"][0] in {"CMD", "CMD-SHELL"}
    assert {"interval", "timeout", "retries", "start_period"} <= service["healthcheck"].keys()


def healthy(ingest: Run) -> bool:
    """What the health check of the workers and of beat says, run as in the container."""
    program, *arguments = SERVICES["beat"]["healthcheck"]["test"][1:]
    assert program == "ingest"
    return ingest(*arguments).returncode == 0


def test_a_container_is_healthy_while_its_own_heart_beats(ingest: Run, connection: Connection) -> None:
    operations.beat_heart(connection, "ingest-7@another-container", "ingest", 2, 7)
    assert not healthy(ingest)
    connection.execute(
        text("INSERT INTO heartbeats (name, kind, slots, pid, seen_at) VALUES (:name, 'ingest', 2, 7, :at)"),
        {"name": f"ingest-7@{socket.gethostname()}", "at": "2120-01-01"},  # fresh however slow this machine
    )
    assert healthy(ingest)
    connection.execute(text("UPDATE heartbeats SET seen_at = now() - interval '3 minutes'"))
    assert not healthy(ingest)


def test_workers_and_beat_have_that_health_check_and_the_others_are_asked_by_name() -> None:
    checks = {name: SERVICES[name]["healthcheck"]["test"] for name in PROCESSES}
    by_name = {name: ["CMD", "ingest", "health", "live", name] for name in ("flower", "exporter")}
    assert checks == {name: ["CMD", "ingest", "health", "live"] for name in PROCESSES} | by_name


def test_processes_share_the_folder_of_their_metrics_which_the_image_has() -> None:
    folder = "/var/lib/ingest/metrics"
    for name in PROCESSES:
        assert f"metrics:{folder}" in SERVICES[name]["volumes"], name
    assert f"install --directory --owner=ingest {folder}" in (ROOT / "Dockerfile").read_text()


@pytest.mark.parametrize("name", sorted(PROCESSES))
def test_a_process_starts_when_its_role_is_there_and_has_time_to_stop(name: str) -> None:
    service = SERVICES[name]
    assert service["depends_on"] == {
        "roles": {"condition": "service_completed_successfully"},
        "redis": {"condition": "service_healthy"},
    }
    assert service["stop_grace_period"] == "60s"
    assert service["init"] is True


def test_the_migration_runs_once_on_a_database_that_answers() -> None:
    assert SERVICES["migrate"]["restart"] == "no"
    assert SERVICES["migrate"]["depends_on"] == {"postgres": {"condition": "service_healthy"}}
    assert SERVICES["postgres"]["healthcheck"]["test"][1] == "pg_isready"


def test_the_roles_are_made_once_in_a_migrated_database() -> None:
    assert SERVICES["roles"]["restart"] == "no"
    assert SERVICES["roles"]["depends_on"] == {"migrate": {"condition": "service_completed_successfully"}}


def _role(process: str) -> str:
    return {"search": "SEARCH", "maintenance": "MAINTENANCE", "exporter": "MONITOR"}.get(process, "INGEST")


@pytest.mark.parametrize("name", sorted(PROCESSES.keys() | ONCE))
def test_a_process_connects_as_its_own_role_and_is_given_no_other_password(name: str) -> None:
    environment = SERVICES[name]["environment"]
    who = {name: f"ingest_{_role(name).lower()}" for name in PROCESSES} | dict.fromkeys(ONCE, "ingest")
    assert environment["DATABASE_URL"].startswith(f"postgresql://{who[name]}:${{")
    if name in PROCESSES:
        passwords = {key: value for key, value in environment.items() if key.endswith("_PASSWORD")}
        assert passwords == dict.fromkeys(PASSWORDS, "")
        given = "".join(map(str, environment.values()))
        assert set(re.findall(r"\w+_PASSWORD", given)) == {"REDIS_PASSWORD", f"{_role(name)}_ROLE_PASSWORD"}
        # one of .env, meant for commands of the machine, would lead the health checks astray
        assert environment["MONITOR_DATABASE_URL"] in {"", environment["DATABASE_URL"]}
    if name == "search":
        assert environment["SEARCH_DATABASE_URL"] == environment["DATABASE_URL"]
    if name == "exporter":
        assert environment["MONITOR_DATABASE_URL"] == environment["DATABASE_URL"]
    if name == "maintenance":
        assert environment["MAINTENANCE_DATABASE_URL"] == environment["DATABASE_URL"]


def test_every_published_port_is_this_machine_s_own() -> None:
    published = {name: service["ports"] for name, service in SERVICES.items() if "ports" in service}
    assert published.keys() == {"postgres", "flower", "exporter"}
    assert published["postgres"] == ["127.0.0.1:5432:5432"]
    assert all(port.startswith("127.0.0.1:") for ports in published.values() for port in ports)
    assert "network_mode" not in FILE.read_text()


def test_every_secret_comes_from_the_environment_and_is_required() -> None:
    text = FILE.read_text()
    required = set(re.findall(r"\$\{(\w+):\?[^}]+\}", text))
    by_role = {f"{role}_ROLE_PASSWORD" for role in ("INGEST", "SEARCH", "MAINTENANCE", "MONITOR")}
    assert required == {"POSTGRES_PASSWORD", "REDIS_PASSWORD", "FLOWER_BASIC_AUTH"} | by_role
    # a name that is required in one place has no default in another
    assert all(re.search(rf"\${{?{name}(?!\w|:\?)", text) is None for name in required)
    environments = [service.get("environment", {}) for service in SERVICES.values()]
    values = [
        value
        for environment in environments
        for name, value in environment.items()
        if re.search("PASSWORD|AUTH|SECRET|TOKEN|KEY", name)
    ]
    assert values
    assert all(re.fullmatch(r"(\$\{\w+(:\?[^}]+|:-)\})?", value) for value in values)
    literal = [url for url in re.findall(r"\w+://[^\s@]*:([^\s@]*)@", text) if not url.startswith("${")]
    assert literal == []


def test_postgres_has_a_pgvector_that_is_advised_and_keeps_its_data() -> None:
    found = re.fullmatch(r"pgvector/pgvector:(\d+)\.(\d+)\.(\d+)-pg18\S*", SERVICES["postgres"]["image"])
    assert found is not None
    assert tuple(map(int, found.groups())) >= ADVISED_PGVECTOR
    named = yaml.safe_load(FILE.read_text())["volumes"]
    volume, _, folder = SERVICES["postgres"]["volumes"][0].partition(":")
    assert volume in named
    assert folder == "/var/lib/postgresql"


def test_redis_keeps_every_message() -> None:
    words = command("redis")
    assert f"--maxmemory-policy {SAFE_EVICTION}" in words
    assert "--appendonly yes" in words
    assert "--requirepass ${REDIS_PASSWORD:?" in words
    assert SERVICES["redis"]["volumes"] == ["redis:/data"]


def test_flower_asks_for_a_password_and_documents_are_read_only() -> None:
    assert SERVICES["flower"]["environment"]["FLOWER_BASIC_AUTH"].startswith("${FLOWER_BASIC_AUTH:?")
    assert SERVICES["ingest"]["volumes"][0] == "${DOCUMENTS:-./documents}:/documents:ro"
    assert SERVICES["ingest"]["environment"]["ALLOWED_ROOTS"] == "/documents"


def test_the_image_is_built_in_stages_and_runs_as_nobody_special() -> None:
    lines = (ROOT / "Dockerfile").read_text().splitlines()
    stages = [number for number, line in enumerate(lines) if line.startswith("FROM ")]
    assert len(stages) == 2
    last = [line for line in lines[stages[-1] :] if line and not line.startswith("#")]
    assert "USER ingest" in last
    assert not any(line.startswith(("COPY", "ENTRYPOINT")) or "apt-get" in line for line in last)


def test_the_image_gets_all_that_the_wheel_is_built_from_and_no_more() -> None:
    let_in = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    assert let_in == {"LICENSE", "Procfile", "README.md", "alembic", "pyproject.toml", "worker"}
    assert all((ROOT / name).exists() for name in let_in)
