"""How roles log in: their names, passwords and URLs."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from pydantic import SecretStr
from sqlalchemy import URL

from worker.db.engine import driver_url
from worker.db.grants import Role
from worker.errors import IngestError
from worker.settings import Settings

PREFIX = "ingest_"
_PREFIX = re.compile(r"(?!pg_)[a-z_][a-z0-9_]{0,39}")


@dataclass(frozen=True, slots=True)
class Passwords:
    """`given` are set in any case, `fresh` only on a role that is made now. A role may have none."""

    given: Mapping[Role, str]
    fresh: Mapping[Role, str]

    def of(self, role: Role, *, made: bool) -> str | None:
        """Give the password to be set."""
        return self.given.get(role) or (self.fresh.get(role) if made else None)


NO_PASSWORDS = Passwords({}, {})


def role_names(prefix: str) -> dict[Role, str]:
    """Name the roles. Raises IngestError for a prefix that makes no name."""
    if not _PREFIX.fullmatch(prefix):
        raise IngestError(
            f"{prefix!r} cannot begin the names of roles",
            "use up to 40 letters a to z, digits and _, not pg_, for example --prefix ingest_",
        )
    return {role: prefix + role.value for role in Role}


def role_urls(settings: Settings, prefix: str, passwords: Mapping[Role, str]) -> dict[str, URL]:
    """Give what the settings should say.

    A role whose password is not among these keeps that of the setting it is in already, or has none.
    """
    names, direct = role_names(prefix), settings.direct_url
    search = settings.search_database_url or settings.database_url
    ways = {
        "DATABASE_URL": (settings.database_url, Role.INGEST),
        "SEARCH_DATABASE_URL": (search, Role.SEARCH),
        "MAINTENANCE_DATABASE_URL": (settings.maintenance_url, Role.MAINTENANCE),
        "DIRECT_DATABASE_URL": (direct, Role.OWNER),
        "MONITOR_DATABASE_URL": (settings.monitor_url, Role.MONITOR),
    }
    return {setting: _url(way, names[role], passwords.get(role)) for setting, (way, role) in ways.items()}


def _url(way: SecretStr, name: str, password: str | None) -> URL:
    """Write a URL as another role, by the way another goes."""
    url = driver_url(way).difference_update_query(["user", "password"])
    kept = url.password if url.username == name else None
    return URL.create("postgresql", name, password or kept, url.host, url.port, url.database, url.query)
