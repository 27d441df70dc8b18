"""What `ingest doctor` looks at of roles: that producers and workers see all tenants, and searches one."""

from pydantic import SecretStr

from worker.cli.checks import Finding, State
from worker.db import policies
from worker.db.engine import reach
from worker.errors import IngestError
from worker.settings import Settings


def check_roles(settings: Settings, *, migrated: bool) -> list[Finding]:
    """Look at the roles of DATABASE_URL and SEARCH_DATABASE_URL, where there are tables."""
    if not migrated:
        return []
    found = [_check_sight(settings)]
    if settings.search_database_url is not None:
        found.append(_check_bounds(settings.search_database_url))
    return [finding for finding in found if finding is not None]


def _check_sight(settings: Settings) -> Finding | None:
    """Nothing is said of a role that sees all tenants: it is the usual one."""
    if not reach(settings.database_url, policies.is_blind):
        return None
    seen = "row-level security hides every tenant from it"
    return Finding("database role", State.FAILED, seen, "run `ingest roles`, and set DATABASE_URL as it says")


def _check_bounds(url: SecretStr) -> Finding | None:
    try:
        found = reach(url, policies.loopholes, "SEARCH_DATABASE_URL")
    except IngestError:
        return None  # what is wrong with it is said already
    if not found:
        return Finding("search role", State.OK, "bound to the tenant it searches for")
    seen = f"not bound to one tenant: it {'; it '.join(found)}"
    return Finding(
        "search role", State.WARNING, seen, "run `ingest roles`, set SEARCH_DATABASE_URL as it says"
    )
