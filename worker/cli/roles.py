"""`ingest roles`: a role for each kind of work, with the least it needs."""

import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from worker.cli.output import AsJson, columns, emit, say
from worker.errors import SettingsError

if TYPE_CHECKING:  # the database's adapters cost a second to import, and --help must not
    from worker.db.grants import Role
    from worker.db.logins import Passwords
    from worker.settings import Settings

FILE = "roles.env"
_PASSWORD_BYTES = 24
_WORK = {
    "owner": "owns the tables; migrations",
    "ingest": "producers, ingest workers, beat",
    "search": "searches, one tenant at a time",
    "maintenance": "the chores; inherits from the owner",
    "monitor": "the exporter and `ingest health`, no texts",
}


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("roles")(roles)


def roles(
    prefix: Annotated[str, typer.Option(help="What the names of the roles begin with.")] = "ingest_",
    *,
    no_passwords: Annotated[bool, typer.Option("--no-passwords", help="Make up none for new roles.")] = False,
    as_json: AsJson = False,
) -> None:
    """Make the database's roles, or mend them, and say what to put into the settings.

    Passwords are those of OWNER_ROLE_PASSWORD, INGEST_ROLE_PASSWORD, SEARCH_ROLE_PASSWORD,
    MAINTENANCE_ROLE_PASSWORD and MONITOR_ROLE_PASSWORD in the environment; a new role without one gets a
    random one, kept in DATA_DIR/roles.env. Connects by DIRECT_DATABASE_URL, as a superuser or its like.
    """
    from worker.db.logins import role_names
    from worker.db.roles import make_roles
    from worker.settings import load_settings

    names, settings = role_names(prefix), load_settings()
    passwords = _passwords(make_up=not no_passwords)
    file = PasswordFile(settings.data_dir / FILE, settings, prefix, passwords)
    made = make_roles(settings, prefix, passwords, file.keep)
    urls = _shown_urls(settings, prefix, passwords)
    if as_json:
        states = {name: "made" if role in made else "there" for role, name in names.items()}
        emit({"roles": states, "settings": urls, "passwords_in": str(file.path) if file.written else None})
        return
    columns(
        [(name, "made" if role in made else "there", _WORK[role]) for role, name in names.items()], indent=0
    )
    say("put into the environment or .env, of each machine what it needs:")
    for name, url in urls.items():
        say(f"  {name}={url}")
    if file.written:
        say(f"new passwords are in {file.path}, which only you can read; take them from there and delete it")


def _passwords(*, make_up: bool) -> "Passwords":
    from worker.db.grants import Role
    from worker.db.logins import Passwords
    from worker.settings import configured

    given = {role: configured(f"{role.value.upper()}_ROLE_PASSWORD") for role in Role}
    return Passwords(
        {role: password for role, password in given.items() if password},
        {role: secrets.token_urlsafe(_PASSWORD_BYTES) for role in Role if make_up},
    )


def _shown_urls(settings: "Settings", prefix: str, passwords: "Passwords") -> dict[str, str]:
    """Write the URLs for people: *** stands for a password, of which only its role's user knows."""
    from worker.db.engine import driver_url
    from worker.db.grants import Role
    from worker.db.logins import role_urls

    asked = driver_url(settings.direct_url).password is not None
    hidden = {role: "hidden" for role in Role if asked or role in passwords.given}
    return {name: str(url) for name, url in role_urls(settings, prefix, hidden).items()}


class PasswordFile:
    """Where passwords we made up are kept, from before they are in force.

    A connection that breaks while they are committed leaves the file: nobody knows whether they are.
    """

    def __init__(self, path: Path, settings: "Settings", prefix: str, passwords: "Passwords") -> None:
        self.path = path
        self.written = False
        self._settings = settings
        self._prefix = prefix
        self._passwords = passwords

    def keep(self, made: "frozenset[Role]") -> None:
        """Write the URLs of the roles that are new. Raises SettingsError where a file is in the way."""
        from worker.db.logins import role_urls

        fresh = {
            r: p for r, p in self._passwords.fresh.items() if r in made and r not in self._passwords.given
        }
        if not fresh:
            return
        if self.path.exists() and not self.written:
            raise SettingsError(
                f"{self.path} is there and may hold the only copy of other passwords",
                "nothing was changed; move it away, then run this again",
            )
        urls = role_urls(self._settings, self._prefix, {**fresh, **self._passwords.given})
        self._write(
            {name: url.render_as_string(hide_password=False) for name, url in urls.items() if url.password}
        )

    def _write(self, values: Mapping[str, str]) -> None:
        from worker.envfile import write_private

        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            write_private(self.path, values)
        except OSError as error:
            raise SettingsError(
                f"passwords cannot be kept in {self.path}: {error.strerror}",
                "nothing was changed; set DATA_DIR to a folder of yours",
            ) from None
        self.written = True
