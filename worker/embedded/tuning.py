"""How PostgreSQL is configured for one machine: pure, from its memory and its cores."""

from collections.abc import Mapping
from dataclasses import dataclass

_MB = 1 << 20
_GB = 1 << 30
_SMALL_SHM = 512 * _MB
# Beside the process that leads a build. A core is left to searches: with every core building they take half
# as long again, and little is gained (docs/decisions/0010).
_BUILD_WORKERS = 2


@dataclass(frozen=True, slots=True)
class Machine:
    """What sizes depend on, in bytes and cores. `shared` is what /dev/shm has left."""

    memory: int
    shared: int
    cores: int


def configuration(machine: Machine, *, durable: bool, socket_folder: str) -> dict[str, str]:
    """Give PostgreSQL's settings; `durable=False` is for data nobody will miss."""
    return {
        "listen_addresses": "''",
        "port": "5432",
        "unix_socket_directories": quoted(socket_folder),
        "unix_socket_permissions": "0700",
        "max_connections": "100",
        "max_wal_size": "4GB",
        "checkpoint_timeout": "15min",
        "wal_compression": "on",
        "random_page_cost": "1.1",
        "log_line_prefix": "'%m [%p] %a '",
        "log_lock_waits": "on",
        "log_min_duration_statement": "5s",
        "logging_collector": "off",
        **(_sized(machine) if durable else _DISPOSABLE),
    }


# It survives a kill of its processes, not one of the machine. `synchronous_commit` stays on: off would lose
# the last commits of a killed server, and gains nothing once nobody waits for the disk.
_DISPOSABLE = {
    "fsync": "off",
    "full_page_writes": "off",
    "shared_buffers": "128MB",
    "maintenance_work_mem": "64MB",
}


def _sized(machine: Machine) -> dict[str, str]:
    build = min(machine.memory // 8, 2 * _GB)
    sizes = {
        "shared_buffers": min(machine.memory // 8, 4 * _GB),
        "effective_cache_size": machine.memory // 2,
        "work_mem": min(machine.memory // 512, 64 * _MB),
        "autovacuum_work_mem": min(machine.memory // 32, 256 * _MB),
        "maintenance_work_mem": build if machine.shared < _SMALL_SHM else min(build, machine.shared // 2),
    }
    rendered = {name: f"{max(size // _MB, 16)}MB" for name, size in sizes.items()}
    # A parallel HNSW build takes maintenance_work_mem out of /dev/shm, which containers keep at 64 MB.
    parallel = 0 if machine.shared < _SMALL_SHM else min(_BUILD_WORKERS, machine.cores - 2)
    return rendered | {"max_parallel_maintenance_workers": str(max(parallel, 0))}


def quoted(text: str) -> str:
    """Quote a value of postgresql.conf."""
    doubled = text.replace("'", "''")
    return f"'{doubled}'"


def rendered(settings: Mapping[str, str]) -> str:
    """Write settings as a configuration file."""
    lines = (f"{name} = {value}" for name, value in settings.items())
    return "\n".join(
        ("# Rewritten at every start; put your own settings into postgresql.conf, below.", *lines, "")
    )
