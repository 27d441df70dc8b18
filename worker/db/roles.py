"""The roles of a database: made, mended, and given what `grants.py` says. Roles are the whole cluster's.

All of it is one transaction that only changes what is not so yet, except for grants, which are written
anew. Two runs in one database take turns; what two runs in two databases both make, the later one finds.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import psycopg2.extensions
from pydantic import SecretStr
from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError
from tenacity import Retrying, retry_if_exception, stop_after_attempt, wait_random

from worker.db import policies
from worker.db.engine import (
    describe,
    driver_url,
    is_connection_trouble,
    is_forbidden,
    is_retryable,
    single_connection_engine,
    transaction,
    unavailable,
)
from worker.db.grants import EVERY_TENANT, FUNCTIONS, SEQUENCES, TABLES, WITHHELD, Role
from worker.db.leaves import TRASH_LEAF, hand_over
from worker.db.logins import NO_PASSWORDS, PREFIX, Passwords, role_names
from worker.db.models import schema
from worker.db.schema import check_schema
from worker.errors import DatabaseUnavailableError, SchemaError
from worker.settings import Settings
from worker.types import EmbeddingType

_ROLES_LOCK = 7_046_029_254_386_353_134
_TRIES = 8
_TABLES = ["alembic_version", *schema(1, EmbeddingType.VECTOR).tables]
_SEQUENCES = ["chunk_numbers"]
# Reads what every session does: for `index_builds()`, and to know who may still look at an emptied leaf.
_STATISTICS = "pg_read_all_stats"
# Knows where the server keeps its files: what a build needs is then compared with what its disk has left.
_SETTINGS = "pg_read_all_settings"
# Have the server end the sessions whose link was lost without a word. The limits of a transaction go with it
# once a statement fails; the kernel looks for the other side after hours, and repeats an answer for minutes.
_OF_SESSIONS = {
    "idle_in_transaction_session_timeout": "60s",
    "tcp_keepalives_idle": "60",
    "tcp_keepalives_interval": "10",
    "tcp_keepalives_count": "3",
    "tcp_user_timeout": "90s",
}


def make_roles(
    settings: Settings,
    prefix: str = PREFIX,
    passwords: Passwords = NO_PASSWORDS,
    keep: Callable[[frozenset[Role]], None] | None = None,
) -> frozenset[Role]:
    """Make what is missing and mend what is wrong; gives the roles that are new.

    `keep` is told of these before they are committed. Raises SchemaError where the database is not
    migrated, refuses, or the search role would see too much; DatabaseUnavailableError where we may not.
    """
    names, url = role_names(prefix), settings.direct_url
    try:
        for attempt in Retrying(
            retry=retry_if_exception(_is_contended),
            wait=wait_random(0.1, 1),
            stop=stop_after_attempt(_TRIES),
            reraise=True,
        ):
            engine = single_connection_engine(url, "ingest roles")
            with attempt, transaction(engine) as connection:
                check_schema(connection, settings)
                made = _make_all(connection, names, passwords)
                if keep:
                    keep(made)
    except DBAPIError as error:
        if getattr(error.orig, "pgcode", None) == "42501":
            raise _not_allowed(url, error) from None
        if is_connection_trouble(error) or is_retryable(error):
            raise unavailable(url, error, settings.setting_of(url)) from None
        raise SchemaError(f"the database refused: {describe(error)}", "run `ingest doctor`") from None
    return made


def _is_contended(error: BaseException) -> bool:
    """Tell whether another session got in the way: it made the role, or changed the same row."""
    code = getattr(getattr(error, "orig", None), "pgcode", None)
    concurrent = code == "XX000" and "concurrently" in describe(error)
    return concurrent or code in {"23505", "42710"} or (code is not None and is_retryable(error))


def _not_allowed(url: SecretStr, error: DBAPIError) -> DatabaseUnavailableError:
    return DatabaseUnavailableError(
        f"{driver_url(url).username or 'our role'} may not do this: {describe(error)}",
        "for this command, set DIRECT_DATABASE_URL to a superuser's, or to one of a role with CREATEROLE that"
        f" owns database and tables and may grant {_STATISTICS}",
    )


def _make_all(connection: Connection, names: Mapping[Role, str], passwords: Passwords) -> frozenset[Role]:
    connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _ROLES_LOCK})
    made = frozenset(role for role, name in names.items() if _make(connection, name))
    for role, name in names.items():
        password = passwords.of(role, made=role in made)
        if password is not None:
            _set_password(connection, name, password)
    for role, name in names.items():
        if role != Role.OWNER:  # also who looks into something by hand
            _limit_sessions(connection, name)
    _join(connection, names)
    _open_schema(connection, names)
    _hand_over_tables(connection, names[Role.OWNER])
    policies.repair(connection)
    leaves = _leaves(connection)
    for role in TABLES:
        _grant(connection, role, names[role], leaves)
    for leaf, parent in leaves.items():
        if leaf != TRASH_LEAF:
            hand_over(connection, parent, leaf)
    for role, covered in EVERY_TENANT.items():
        _let_see_every_tenant(connection, names[role], covered, TABLES[role])
    _require_bound(connection, names[Role.SEARCH])
    return made


def _make(connection: Connection, name: str) -> bool:
    found = connection.execute(
        text("""
            SELECT rolcanlogin, concat_ws(' ', CASE WHEN rolsuper THEN 'SUPERUSER' END,
                   CASE WHEN rolbypassrls THEN 'BYPASSRLS' END, CASE WHEN rolcreaterole THEN 'CREATEROLE' END,
                   CASE WHEN rolcreatedb THEN 'CREATEDB' END, CASE WHEN rolreplication THEN 'REPLICATION' END
                   ) AS powers
            FROM pg_roles WHERE rolname = :name"""),
        {"name": name},
    ).one_or_none()
    if found is not None and found.powers:
        raise SchemaError(
            f"the role {name} exists and has {found.powers}: it is not one of ours",
            f"use another --prefix, or ALTER ROLE {name} {' '.join('NO' + p for p in found.powers.split())}",
        )
    if found is None:
        connection.execute(text(f"CREATE ROLE {name} LOGIN"))
    elif not found.rolcanlogin:
        connection.execute(text(f"ALTER ROLE {name} LOGIN"))
    return found is None


def _set_password(connection: Connection, name: str, password: str) -> None:
    """Send what the server keeps of a password: the password itself would stand in its log."""
    driver: Any = connection.connection.driver_connection
    kept = psycopg2.extensions.encrypt_password(password, name, driver, "scram-sha-256")
    connection.execute(text(f"ALTER ROLE {name} PASSWORD :kept"), {"kept": kept})


def _limit_sessions(connection: Connection, name: str) -> None:
    """Set what is not set for a role yet, where we may."""
    found = text("SELECT split_part(unnest(rolconfig), '=', 1) FROM pg_roles WHERE rolname = :name")
    missing = _OF_SESSIONS.keys() - set(connection.execute(found, {"name": name}).scalars())
    try:
        with connection.begin_nested():
            for setting in sorted(missing):
                connection.execute(text(f"ALTER ROLE {name} SET {setting} = '{_OF_SESSIONS[setting]}'"))
    except DBAPIError as error:
        if not is_forbidden(error):
            raise


def _join(connection: Connection, names: Mapping[Role, str]) -> None:
    """Let maintenance be the owner, and the owner read the statistics; us, too, to hand over what is ours.

    The server's settings, too, where we may let it: it can do without.
    """
    owner = names[Role.OWNER]
    me = connection.execute(
        text("SELECT quote_ident(current_user) FROM pg_roles WHERE rolname = current_user AND NOT rolsuper")
    ).scalar_one_or_none()
    groups = [(owner, names[Role.MAINTENANCE]), (_STATISTICS, owner), (owner, me)]
    if me is None or _administers(connection, _SETTINGS):
        groups.append((_SETTINGS, owner))
    for group, member in groups:
        if member is not None and not _inherits(connection, member, group):
            connection.execute(text(f"GRANT {group} TO {member} WITH INHERIT TRUE, SET TRUE"))


def _administers(connection: Connection, group: str) -> bool:
    found = text("SELECT pg_has_role(CAST(:group AS name), 'MEMBER WITH ADMIN OPTION')")
    return bool(connection.execute(found, {"group": group}).scalar_one())


def _inherits(connection: Connection, member: str, group: str) -> bool:
    both = "pg_has_role(CAST(:member AS regrole), CAST(:group AS regrole), '{}')"
    inherits = f"SELECT {both.format('USAGE')} AND {both.format('SET')}"
    return bool(connection.execute(text(inherits), {"member": member, "group": group}).scalar_one())


def _open_schema(connection: Connection, names: Mapping[Role, str]) -> None:
    """Let our roles in, and nobody else make tables and functions where ours are looked for."""
    schema_name, database, open_to_all = connection.execute(
        text("""
            SELECT quote_ident(current_schema()), quote_ident(current_database()),
                   has_schema_privilege('public', current_schema(), 'CREATE')""")
    ).one()
    wanted = [("schema", schema_name, name, "USAGE") for name in names.values()]
    wanted += [("schema", schema_name, names[Role.OWNER], "CREATE")]
    wanted += [("database", database, name, "CONNECT") for name in names.values()]
    for kind, what, name, privilege in wanted:
        has = text(f"SELECT has_{kind}_privilege('{name}', current_{kind}(), '{privilege}')")
        if not connection.execute(has).scalar_one():
            connection.execute(text(f"GRANT {privilege} ON {kind} {what} TO {name}"))
    if open_to_all:
        connection.execute(text(f"REVOKE CREATE ON SCHEMA {schema_name} FROM PUBLIC"))


def _hand_over_tables(connection: Connection, owner: str) -> None:
    """Make all that is ours the owner's. Waits for who uses a table that is not yet: 5 s at most."""
    found = connection.execute(
        text("""
            SELECT c.oid::regclass::text AS name,
                   CASE c.relkind WHEN 'S' THEN 'SEQUENCE' ELSE 'TABLE' END AS kind
            FROM pg_class c
            WHERE c.relnamespace = current_schema()::regnamespace AND c.relowner <> CAST(:owner AS regrole)
              AND (c.relname = ANY(:names) OR c.oid IN (
                  SELECT inhrelid FROM pg_inherits
                  WHERE inhparent IN ('chunks'::regclass, 'postings'::regclass)))
            ORDER BY c.relname"""),
        {"owner": owner, "names": [*_TABLES, *_SEQUENCES]},
    )
    for row in found.all():
        connection.execute(text(f"ALTER {row.kind} {row.name} OWNER TO {owner}"))
    for function in policies.FUNCTIONS:
        connection.execute(text(f"ALTER FUNCTION {function} OWNER TO {owner}"))


def _grant(connection: Connection, role: Role, name: str, leaves: Iterable[str]) -> None:
    """Leave a role its grants on what is ours, and no other."""
    connection.execute(text(f"REVOKE ALL ON {', '.join([*_TABLES, *leaves])} FROM {name}"))
    connection.execute(text(f"REVOKE ALL ON SEQUENCE {', '.join(_SEQUENCES)} FROM {name}"))
    connection.execute(text(f"REVOKE ALL ON FUNCTION {', '.join(policies.FUNCTIONS)} FROM {name}"))
    for table, privileges in TABLES[role].items():
        withheld = WITHHELD.get(role, {}).get(table)
        columns = f" ({_columns(connection, table, withheld)})" if withheld else ""
        connection.execute(text(f"GRANT {privileges}{columns} ON {table} TO {name}"))
    for sequence, privileges in SEQUENCES.get(role, {}).items():
        connection.execute(text(f"GRANT {privileges} ON SEQUENCE {sequence} TO {name}"))
    for function in FUNCTIONS[role]:
        connection.execute(text(f"GRANT EXECUTE ON FUNCTION {function} TO {name}"))


def _leaves(connection: Connection) -> dict[str, str]:
    found = connection.execute(
        text("""
            SELECT inhrelid::regclass::text AS leaf, inhparent::regclass::text AS parent FROM pg_inherits
            WHERE inhparent IN ('chunks'::regclass, 'postings'::regclass) ORDER BY 1""")
    )
    return {row.leaf: row.parent for row in found}


def _columns(connection: Connection, table: str, withheld: str) -> str:
    found = connection.execute(
        text("""
            SELECT string_agg(quote_ident(attname), ', ' ORDER BY attnum) FROM pg_attribute
            WHERE attrelid = CAST(:table AS regclass) AND attnum > 0 AND NOT attisdropped
              AND attname <> :withheld"""),
        {"table": table, "withheld": withheld},
    )
    return str(found.scalar_one())


def _let_see_every_tenant(
    connection: Connection, name: str, command: str, granted: Mapping[str, str]
) -> None:
    """Give a role a policy of its own, named after it, on what it may use; where it is not so already."""
    for table in policies.TENANT_TABLES:
        fits = connection.execute(
            text("""
                SELECT polroles = ARRAY[CAST(CAST(:name AS regrole) AS oid)] AND polpermissive
                       AND polcmd = :command AND pg_get_expr(polqual, polrelid) = 'true'
                       AND coalesce(pg_get_expr(polwithcheck, polrelid), 'true') = 'true'
                FROM pg_policy WHERE polrelid = CAST(:table AS regclass) AND polname = :name"""),
            {"table": table, "name": name, "command": {"ALL": "*", "SELECT": "r"}[command]},
        ).scalar_one_or_none()
        if fits is False or (fits and table not in granted):
            connection.execute(text(f"DROP POLICY {name} ON {table}"))
        if table in granted and not fits:
            connection.execute(text(f"CREATE POLICY {name} ON {table} FOR {command} TO {name} USING (true)"))


def _require_bound(connection: Connection, search: str) -> None:
    """Leave nothing as it is now made where searches could see more than their tenant all the same."""
    found = policies.loopholes(connection, search)
    if found:
        raise SchemaError(
            f"the role {search} would not be bound to a tenant: it {', and '.join(found)}",
            "nothing was changed; take that away, or use another --prefix",
        )
