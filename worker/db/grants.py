"""Who may do what: the least each role needs. docs/operations/ says the same for people."""

from collections.abc import Mapping
from enum import StrEnum


class Role(StrEnum):
    """The roles of a database, without their prefix."""

    OWNER = "owner"
    INGEST = "ingest"
    SEARCH = "search"
    MAINTENANCE = "maintenance"
    MONITOR = "monitor"


# Who reads `documents` to find or to count them does not read what is in them.
WITHHELD: Mapping[Role, Mapping[str, str]] = {
    Role.SEARCH: {"documents": "content"},
    Role.MONITOR: {"documents": "content"},
}

_READ = dict.fromkeys(("tenants", "projects", "documents"), "SELECT")
_ALIVE = {"heartbeats": "SELECT, INSERT, UPDATE, DELETE"}
_RECORDED = "SELECT, INSERT, UPDATE (thumbs, quality_score, metadata, updated_at)"
_FITS = dict.fromkeys(("alembic_version", "embedding_space", "segments"), "SELECT")

# On tables, but never on leaves: these follow their parents in INSERT alone (worker/db/leaves.py).
# Owner and maintenance need none: the tables are the one's, and the other inherits from it.
TABLES: Mapping[Role, Mapping[str, str]] = {
    Role.INGEST: {
        **dict.fromkeys(("tenants", "projects", "documents", "batches"), "SELECT, INSERT, UPDATE"),
        "chunks": "SELECT, INSERT, UPDATE, DELETE",
        "postings": "SELECT, INSERT",
        **_FITS,
        # what a lock of a row's key asks for; the states are maintenance's
        "segments": "SELECT, UPDATE (updated_at)",
        **_ALIVE,
        "pauses": "SELECT, INSERT, DELETE",
        "maintenance_runs": "SELECT",
        "evaluation_runs": _RECORDED,
    },
    Role.SEARCH: {
        **_READ,
        **dict.fromkeys(("chunks", "postings"), "SELECT"),
        **_FITS,
        **_ALIVE,
        "evaluation_runs": _RECORDED,
    },
    Role.MONITOR: {
        **_READ,
        **_FITS,
        **dict.fromkeys(("batches", "pauses", "heartbeats", "maintenance_runs"), "SELECT"),
    },
}
SEQUENCES: Mapping[Role, Mapping[str, str]] = {Role.INGEST: {"chunk_numbers": "USAGE"}}
FUNCTIONS: Mapping[Role, tuple[str, ...]] = {
    Role.INGEST: ("tenant_named(text)", "index_builds()", "vacuums()"),
    Role.SEARCH: ("tenant_named(text)",),
    Role.MONITOR: ("index_builds()", "vacuums()"),
}

# Roles that work over all tenants without owning the tables, and what their policy covers.
EVERY_TENANT: Mapping[Role, str] = {Role.INGEST: "ALL", Role.MONITOR: "SELECT"}
