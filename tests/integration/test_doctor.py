"""Settings that are wrong and servers that are away, as a user meets them: one line, a code, no secret."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy import Connection, text

from tests import conftest
from worker.db.engine import driver_url
from worker.errors import Exit
from worker.resources import Resources
from worker.settings import Settings

NO_DATABASE = "postgresql://u:hush@127.0.0.1:1/x"
NO_BROKER = "redis://:hush@127.0.0.1:1/0"

Run = Callable[..., subprocess.CompletedProcess[str]]
Drain = Callable[[], dict[str, int]]


@pytest.fixture
def ingest(ingest: conftest.Run) -> Run:
    """The command, whose output is text and never names a secret."""

    def run(*arguments: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
        done = ingest(*arguments, **environment)
        out, err = done.stdout.decode(), done.stderr.decode()
        assert "hush" not in out + err
        return subprocess.CompletedProcess(done.args, done.returncode, out, err)

    return run


@pytest.fixture
def file(tmp_path: Path) -> Path:
    written = tmp_path / "apples.md"
    written.write_text("Apples are red.")
    return written


def findings(done: subprocess.CompletedProcess[str]) -> dict[str, dict[str, str]]:
    return {finding["name"]: finding for finding in json.loads(done.stdout)["findings"]}


def with_options(settings: Settings, **options: str) -> str:
    url = driver_url(settings.database_url).update_query_dict(options)
    return url.set(drivername="postgresql").render_as_string(hide_password=False)


# -- URLs nobody can use ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "rest"),
    [
        (["search", "x"], "0?foo=hush"),
        (["add", "apples.md"], "0?ssl_cert_reqs=none"),
        (["maintain", "dispatch"], "0?socket_timeout=hush"),
        (["worker", "ingest"], "abc"),
    ],
)
def test_broker_url_that_cannot_be_used_is_refused_in_one_line(
    ingest: Run, file: Path, settings: Settings, arguments: list[str], rest: str
) -> None:
    url = settings.broker_url.get_secret_value().removesuffix("/0")
    done = ingest(*arguments, BROKER_URL=f"{url}/{rest}")
    assert (done.returncode, done.stdout) == (Exit.SETTINGS, "")
    assert len(done.stderr.splitlines()) == 1
    assert "BROKER_URL: " in done.stderr


def test_doctor_finds_a_broker_url_that_cannot_be_used(ingest: Run, settings: Settings) -> None:
    url = settings.broker_url.get_secret_value().removesuffix("/0")
    done = ingest("doctor", "--json", BROKER_URL=f"{url}/abc")
    assert done.returncode == Exit.FINDINGS
    assert "number of a database" in findings(done)["settings"]["seen"]


@pytest.mark.parametrize("name", ["DATABASE_URL", "MAINTENANCE_DATABASE_URL"])
def test_option_postgresql_does_not_know_is_named(ingest: Run, settings: Settings, name: str) -> None:
    done = ingest("status", **{name: with_options(settings, schema="hush")})
    assert (done.returncode, done.stdout) == (Exit.SETTINGS, "")
    assert len(done.stderr.splitlines()) == 1
    assert f"{name}: has an option PostgreSQL does not know: schema → " in done.stderr


@pytest.mark.parametrize(
    ("name", "value"),
    [("ALLOWED_ROOTS", "~nouser/x"), ("DATA_DIR", "~nouser"), ("FLOWER_BASIC_AUTH", "hush")],
)
def test_other_values_nobody_can_use_are_refused_in_one_line(ingest: Run, name: str, value: str) -> None:
    done = ingest("status", **{name: value})
    assert (done.returncode, len(done.stderr.splitlines())) == (Exit.SETTINGS, 1)
    assert f"{name}: " in done.stderr


def test_quote_that_is_not_closed_is_one_line(ingest: Run, tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("# mine\nCHUNK_SIZE='hush\n")
    for arguments in (["status"], ["up"]):
        done = ingest(*arguments)
        assert done.returncode == Exit.SETTINGS
        assert done.stderr.splitlines() == [
            "error: .env cannot be read from line 2 on → write NAME=value there, and close every quote"
        ]


# -- servers that are away -------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["direct", "maintenance", "search"])
def test_doctor_looks_at_every_database_url(
    ingest: Run, settings: Settings, new_database: Callable[[str | None], str], kind: str
) -> None:
    name = f"{kind.upper()}_DATABASE_URL"
    away = findings(ingest("doctor", "--json", **{name: NO_DATABASE}))
    assert away["database"]["state"] == "ok"
    assert away[f"{kind} database"]["state"] == "failed"
    assert "127.0.0.1:1/x is not usable" in away[f"{kind} database"]["seen"]
    assert name in away[f"{kind} database"]["mend"]
    empty = findings(ingest("doctor", "--json", **{name: new_database(None)}))
    assert "no tables of ingest-worker" in empty[f"{kind} database"]["seen"]
    same = findings(ingest("doctor", "--json", **{name: settings.database_url.get_secret_value()}))
    assert same[f"{kind} database"]["state"] == "ok"


def test_doctor_goes_on_where_the_role_may_not_read(
    ingest: Run, settings: Settings, administrate: Callable[[str], None]
) -> None:
    administrate("CREATE ROLE passerby LOGIN")
    url = driver_url(settings.database_url).set(username="passerby", drivername="postgresql")
    try:
        done = ingest("doctor", "--json", DATABASE_URL=url.render_as_string(hide_password=False))
    finally:
        administrate("DROP ROLE passerby")
    assert done.returncode == Exit.FINDINGS
    assert "may not read the schema: permission denied" in findings(done)["database"]["seen"]
    assert findings(done)["broker"]["state"] == "ok"


def test_doctor_waits_for_nobody_who_holds_a_table(ingest: Run, resources: Resources) -> None:
    with resources.engine.begin() as other:
        other.execute(text("LOCK TABLE chunks, documents IN ACCESS EXCLUSIVE MODE"))
        done = ingest("doctor", "--json")
    assert done.returncode == Exit.FINDINGS
    held = [found for found in findings(done).values() if "another session holds" in found["mend"]]
    assert held, done.stdout
    assert findings(done)["broker"]["state"] == "ok"


@pytest.mark.parametrize("name", ["DIRECT_DATABASE_URL", "MAINTENANCE_DATABASE_URL"])
def test_chore_names_the_server_that_is_away_and_its_setting(ingest: Run, name: str) -> None:
    done = ingest("maintain", "vacuum", **{name: NO_DATABASE})
    assert (done.returncode, done.stdout) == (Exit.DATABASE, "")
    assert len(done.stderr.splitlines()) == 1
    assert "127.0.0.1:1/x is not usable" in done.stderr
    assert f"that {name} names its host" in done.stderr


def test_dispatch_by_hand_without_a_broker_is_refused(
    ingest: Run, file: Path, connection: Connection
) -> None:
    done = ingest("maintain", "dispatch", BROKER_URL=NO_BROKER)
    assert (done.returncode, done.stdout) == (Exit.BROKER, "")
    assert len(done.stderr.splitlines()) == 1
    assert "the broker at redis://127.0.0.1:1/0 is not usable: " in done.stderr
    assert connection.execute(text("SELECT count(*) FROM maintenance_runs")).scalar_one() == 0
    assert ingest("maintain", "indexes", BROKER_URL=NO_BROKER).returncode == Exit.OK


def test_what_is_not_published_says_why(ingest: Run, file: Path, drain: Drain) -> None:
    added = ingest("add", file, BROKER_URL=NO_BROKER)
    assert added.returncode == Exit.OK
    assert "batch.unpublished batch=" in added.stderr
    assert 'reason="Error 111 connecting to 127.0.0.1:1. Connection refused."' in added.stderr
    assert drain() == {"completed": 1}


# -- documents that need nothing, and other names for them -----------------------------------------


def test_document_that_needs_nothing_is_not_said_to_be_missing(
    ingest: Run, file: Path, drain: Drain, settings: Settings
) -> None:
    ingest("add", file)
    assert drain() == {"completed": 1}
    for verb, done in (("retry", "tried again"), ("cancel", "cancelled"), ("restore", "restored")):
        nothing = ingest(verb, file)
        assert (nothing.returncode, nothing.stdout) == (Exit.FINDINGS, "")
        assert nothing.stderr.startswith(f"error: nothing {done}: {file} is completed → only what ")
    ingest("delete", file)
    again = ingest("delete", file)
    assert again.returncode == Exit.FINDINGS
    assert f"nothing deleted: {file} is deleted → `ingest restore`" in again.stderr
    missing = ingest("retry", "nowhere.md")
    assert "no document fits nowhere.md" in missing.stderr


def test_localhost_in_a_file_uri_is_this_machine(ingest: Run, file: Path, drain: Drain) -> None:
    added = ingest("add", f"file://localhost{file}", "--json")
    assert json.loads(added.stdout)["new"] == 1
    assert drain() == {"completed": 1}
    [found] = json.loads(ingest("status", f"file://LOCALHOST{file}", "--json").stdout)
    assert found["source_path"] == str(file)


def test_link_out_of_the_roots_is_named_with_where_it_leads(
    ingest: Run, drain: Drain, tmp_path: Path
) -> None:
    (tmp_path / "folder").mkdir()
    target = os.path.realpath(sys.executable)
    (tmp_path / "folder" / "link.txt").symlink_to(target)
    ingest("add", "folder")
    assert drain() == {"failed": 1}
    [found] = json.loads(ingest("status", "folder/link.txt", "--json").stdout)
    assert found["error_code"] == "outside_roots"
    assert f"link.txt, which leads to {target}, is outside ALLOWED_ROOTS" in found["error_message"]
    refused = ingest("add", "folder/link.txt")
    assert refused.returncode == Exit.SOURCE
    assert f"add {Path(target).parent} to ALLOWED_ROOTS" in refused.stderr
