"""What `ingest doctor` looks at outside the tables: settings, servers, schema, broker, disk."""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from pydantic import SecretStr
from redis import RedisError

from worker import broker
from worker.db import overview, schema
from worker.db.engine import reach
from worker.errors import BrokerUnavailableError, IngestError, SchemaError
from worker.settings import Settings, masked

_LITTLE_SHARE = 0.05
_LITTLE_BYTES = 1 << 30
# The first versions of each series without CVE-2025-49844 (Redis' advisory GHSA-4789-qfc9-5f9q, Valkey's
# releases of 3 October 2025) and CVE-2026-2006 (postgresql.org/support/security). Others got none.
_MENDED: dict[str, tuple[tuple[int, ...], ...]] = {
    "Redis": ((6, 2, 20), (7, 2, 11), (7, 4, 6), (8, 0, 4), (8, 2, 2)),
    "Valkey": ((7, 2, 11), (8, 0, 6), (8, 1, 4)),
    "PostgreSQL": ((14, 21), (15, 16), (16, 12), (17, 8), (18, 2)),
}
_UPGRADE = "to the newest of its series, or of a newer one, where its distributor has not mended it"


class State(StrEnum):
    """How a check came out."""

    OK = "ok"
    WARNING = "warning"
    FAILED = "failed"
    UNCHECKED = "not checked"


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the doctor's: what was looked at, what was seen, what mends it."""

    name: str
    state: State
    seen: str
    mend: str = ""


@dataclass(frozen=True, slots=True)
class Server:
    """What the database server says of itself."""

    version: str
    pgvector: tuple[int, ...] | None
    revision: str | None


def ask_server(settings: Settings) -> Server:
    """Ask the database server. Raises DatabaseUnavailableError and SchemaError."""
    return reach(
        settings.database_url,
        lambda connection: Server(
            overview.server_version(connection),
            schema.pgvector_version(connection),
            schema.current_revision(connection),
        ),
    )


def check_database(settings: Settings) -> tuple[Server | None, list[Finding]]:
    """Look at the server, the extension and the schema's revision."""
    try:
        server = ask_server(settings)
    except IngestError as error:
        names = ("database disk", "pgvector", "migrations")
        return None, [Finding("database", State.FAILED, error.message, error.hint), *map(unchecked, names)]
    where = f"PostgreSQL {server.version} at {masked(settings.database_url)}"
    found = [
        Finding("database", State.OK, where),
        *judge_database_version(server.version),
        check_room(settings),
    ]
    return server, [*found, check_pgvector(server), check_revision(server)]


def check_room(settings: Settings) -> Finding:
    """Look whether the server can write: how much room its disk has left, it does not say."""
    name = "database disk"
    try:
        reach(settings.database_url, overview.take_room)
    except SchemaError:  # the role may make no temporary table
        return unchecked(name)
    except IngestError as error:
        return Finding(name, State.FAILED, error.message, error.hint)
    return Finding(name, State.OK, "takes rows")


def check_other_databases(settings: Settings) -> list[Finding]:
    """Look at each database URL beside DATABASE_URL: maintenance and searches use theirs alone."""
    return [_check_other(name, url) for name, url in settings.other_database_urls.items()]


def _check_other(setting: str, url: SecretStr) -> Finding:
    name = setting.removesuffix("_DATABASE_URL").lower() + " database"
    try:
        migrated = reach(url, schema.shows_tables, setting)
    except IngestError as error:
        return Finding(name, State.FAILED, error.message, error.hint)
    if not migrated:
        seen = f"{masked(url)} shows no tables of ingest-worker"
        return Finding(name, State.FAILED, seen, f"name the database of DATABASE_URL in {setting}")
    return Finding(name, State.OK, masked(url))


def unchecked(name: str) -> Finding:
    """Say that a check had nothing to look at."""
    seen = "not checked: what it needs is not there"
    return Finding(name, State.UNCHECKED, seen, "mend what failed above, then run `ingest doctor` again")


def check_pgvector(server: Server) -> Finding:
    """Refuse the versions with known corruption or a CVE."""
    if server.pgvector is None:
        return Finding("pgvector", State.FAILED, "not installed in this database", "run `ingest migrate`")
    version = ".".join(map(str, server.pgvector))
    mend = "upgrade it on the server, then run `ALTER EXTENSION vector UPDATE`"
    if server.pgvector < schema.OLDEST_PGVECTOR:
        return Finding("pgvector", State.FAILED, f"{version} is too old (CVE-2026-3172)", mend)
    if server.pgvector < schema.ADVISED_PGVECTOR:
        return Finding("pgvector", State.WARNING, f"{version} can corrupt an index under VACUUM", mend)
    return Finding("pgvector", State.OK, version)


def check_revision(server: Server) -> Finding:
    """Compare the schema with what this program needs."""
    newest = schema.REVISIONS[-1]
    if server.revision == newest:
        return Finding("migrations", State.OK, f"at {newest}")
    seen = f"at {server.revision}, this program needs {newest}" if server.revision else "not migrated"
    return Finding("migrations", State.FAILED, seen, "run `ingest migrate`")


def check_broker(settings: Settings) -> list[Finding]:
    """Look whether the broker is there, and whether it keeps what it is given."""
    try:
        broker.require_broker(settings)
        said = _said(settings)
    except (BrokerUnavailableError, RedisError) as error:
        hint = error.hint if isinstance(error, BrokerUnavailableError) else "look at the server of BROKER_URL"
        return [Finding("broker", State.FAILED, getattr(error, "message", str(error)), hint)]
    found = [Finding("broker", State.OK, f"{masked(settings.broker_url)}, {broker.SAFE_EVICTION}")]
    found += judge_broker_version(said)
    if not said.get("aof_enabled", 1):
        seen = "appendonly is off: a restart empties the queues, and dispatch fills them again"
        found.append(
            Finding(
                "broker persistence",
                State.WARNING,
                seen,
                "run `redis-cli CONFIG SET appendonly yes`, and set it in its file",
            )
        )
    return found


def _said(settings: Settings) -> Mapping[str, Any]:
    client = broker.connect(settings)
    try:
        return {**client.info("server"), **client.info("persistence")}
    finally:
        client.close()


def judge_broker_version(said: Mapping[str, Any]) -> list[Finding]:
    """Warn of a server with a known hole; `said`: its INFO. Nothing where its version cannot be read."""
    # Valkey says an old version of Redis, too
    kind = "Valkey" if "valkey_version" in said else "Redis"
    version = str(said.get(f"{kind.lower()}_version", ""))
    if _is_mended(version, _MENDED[kind]):
        return []
    seen = f"{kind} {version}: by its version, whoever may run scripts may run any code (CVE-2025-49844)"
    return [Finding("broker version", State.WARNING, seen, f"upgrade the server of BROKER_URL {_UPGRADE}")]


def judge_database_version(version: str) -> list[Finding]:
    """Warn of a server with a known hole. Nothing where its version cannot be read."""
    if _is_mended(version, _MENDED["PostgreSQL"]):
        return []
    seen = f"PostgreSQL {version}: by its version, whoever may send queries may run any code (CVE-2026-2006)"
    return [
        Finding("database version", State.WARNING, seen, f"upgrade the server of DATABASE_URL {_UPGRADE}")
    ]


def _is_mended(version: str, first: Sequence[tuple[int, ...]]) -> bool:
    """Tell whether a version is one of `first`, in order, or later in its series, or of a later series."""
    length = len(first[0])
    try:
        numbers = tuple(map(int, version.split(".")[:length]))
    except ValueError:
        return True
    same = (one for one in first if one[:-1] == numbers[: length - 1])
    return numbers > first[-1] or any(numbers >= one for one in same)


def check_disk(settings: Settings) -> Finding:
    """Look at the space left where the data folder is, or will be."""
    folder = settings.data_dir.resolve()
    while not folder.exists():
        folder = folder.parent
    return judge_disk(folder, *shutil.disk_usage(folder)[::2])


def judge_disk(folder: Path, total: int, free: int) -> Finding:
    """Judge the space left on a disk."""
    seen = f"{free / 1e9:.1f} GB free at {folder}"
    if free < _LITTLE_BYTES or free < _LITTLE_SHARE * total:
        return Finding("disk", State.WARNING, seen, "free some space, or set DATA_DIR to another disk")
    return Finding("disk", State.OK, seen)
