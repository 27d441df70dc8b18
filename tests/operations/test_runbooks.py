"""The runbooks, played: an incident is made, the page's commands are run, and say what it says."""

import json
import os
import random
import re
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import closing, contextmanager
from functools import partial
from typing import Any

import psycopg2
import pytest

from tests.operations.conftest import OpenPage
from tests.operations.pages import ROOT, SECTIONS
from tests.operations.stack import Stack, until
from worker.db.schema import REVISIONS
from worker.errors import Exit

ALL = ("ingest", "search", "maintenance", "beat")
RUNBOOKS = sorted(
    page.stem for page in (ROOT / "docs/operations").glob("*.md") if "\n## What you see\n" in page.read_text()
)


@pytest.mark.parametrize("name", RUNBOOKS)
def test_a_runbook_has_the_form_of_all_and_is_in_the_index(name: str) -> None:
    text = (ROOT / f"docs/operations/{name}.md").read_text()
    assert tuple(re.findall(r"^## (.+)$", text, re.MULTILINE)) == SECTIONS
    index = (ROOT / "docs/operations/README.md").read_text().partition("## Runbooks")[2].partition("\n## ")[0]
    assert f"]({name}.md)" in index


@contextmanager
def session(stack: Stack, statement: str) -> Iterator[Any]:
    """Hold what a statement locks; gives the session."""
    with closing(psycopg2.connect(stack.environment["DATABASE_URL"])) as connection:
        connection.cursor().execute(statement)
        yield connection


def waiting_for(stack: Stack, what: str) -> int:
    waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query ~ %s"
    return int(stack.ask(waiting, what)[0][0])


def test_stuck_documents(stack: Stack, page: OpenPage) -> None:
    stuck = page("stuck-documents")
    stack.whole(*ALL)
    with session(stack, "SELECT 1 FROM segments WHERE state = 'open' FOR UPDATE"):
        stack.write(stuck.tenant, 20)
        until(lambda: stack.counts(stuck.tenant) == {"processing": 10, "pending": 10})
        for kind in ("beat", "maintenance", "ingest"):  # a rescue under way must not come before the page's
            stack.kill(kind)
    stack.start("maintenance")
    until(partial(stack.lives, "maintenance"))
    until(lambda: not stack.lives("ingest") and not stack.lives("beat"))
    stuck.run("What you see")
    stuck.run("What to do now")
    stack.whole(*ALL)
    until(lambda: stack.counts(stuck.tenant) == {"completed": 20})
    stuck.run("How you know it is over")


POISON = """
    CREATE FUNCTION poison() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        IF NEW.text ~ 'poison' THEN PERFORM pg_advisory_xact_lock(42); END IF; RETURN NEW; END $$;
    CREATE TRIGGER poison BEFORE INSERT ON chunks FOR EACH ROW EXECUTE FUNCTION poison()"""


def strikes(stack: Stack, tenant: str, others: dict[str, int]) -> bool:
    """Tell whether the document is being written that gets its worker killed, beside no neighbour."""
    return waiting_for(stack, "COPY") == 1 and stack.counts(tenant) == others


def test_a_document_that_kills_its_worker(stack: Stack, page: OpenPage) -> None:
    poison = page("poison-document")
    stack.whole(*ALL)
    stack.ask(POISON)
    with session(stack, "SELECT pg_advisory_lock(42)"):
        stack.files("shop", 4)
        (stack.folder / "shop" / "bad.txt").write_text("poison\n")
        stack.shell(f"ingest add shop --tenant {poison.tenant}")
        for others in ({"processing": 5}, {"processing": 1, "completed": 4}):
            until(partial(strikes, stack, poison.tenant, others))
            for child in stack.pool("ingest"):
                child.kill()
        until(lambda: stack.counts(poison.tenant).get("failed"))
    assert "Worker exited prematurely: signal 9 (SIGKILL)" in stack.log("ingest")
    stack.ask("DROP TRIGGER poison ON chunks; DROP FUNCTION poison")
    poison.run("What you see")
    poison.run("What to do now")
    poison.run("What to do now", 1)
    until(lambda: stack.counts(poison.tenant) == {"completed": 5})
    poison.run("How you know it is over")


def test_redis_lost(stack: Stack, page: OpenPage) -> None:
    lost = page("redis-lost")
    stack.whole(*ALL)
    stack.files("notes", 3)
    os.kill(stack.valkey.pid, signal.SIGKILL)
    until(lambda: not stack.valkey.alive)
    lost.run("What you see")
    assert stack.counts(lost.tenant) == {"pending": 3}
    shutil.rmtree(stack.valkey.folder)
    stack.valkey.start()
    until(lambda: stack.counts(lost.tenant) == {"completed": 3})
    lost.run("How you know it is over")
    assert all(process.poll() is None for process in stack.processes.values())


def connections(stack: Stack) -> int:
    ours = "SELECT count(*) FROM pg_stat_activity WHERE application_name ~ '^ingest'"
    return int(stack.ask(ours)[0][0])


@contextmanager
def newer_schema(stack: Stack) -> Iterator[None]:
    """Have the database say that a newer program has migrated it."""
    stack.ask("UPDATE alembic_version SET version_num = 'newer'")
    try:
        yield
    finally:
        stack.ask("UPDATE alembic_version SET version_num = %s", REVISIONS[-1])


def test_deploying_without_a_pause(stack: Stack, page: OpenPage) -> None:
    deploying = page("deploying")
    stack.whole(*ALL)
    with newer_schema(stack):
        deploying.run("What you see")
        stack.write(deploying.tenant, 20)
        until(lambda: stack.counts(deploying.tenant) == {"completed": 20})
        refused = subprocess.run(
            ["ingest", "worker", "ingest"], env=stack.environment, capture_output=True, check=False
        )
    assert refused.returncode == Exit.SCHEMA

    deploying.run("What to do now")
    for kind in ("ingest", "search"):
        stack.start(f"{kind}-new")
        until(partial(stack.lives, kind, 2))
        before = sum(stack.counts(deploying.tenant).values())
        stack.write(deploying.tenant, 60, first=before)
        stack.stop(kind)
        assert "harbour" in stack.shell(f"ingest search ship --tenant {deploying.tenant}")
    until(lambda: stack.counts(deploying.tenant) == {"completed": 140})
    lost = (
        "SELECT count(*) FROM batches JOIN tenants USING (tenant_id) WHERE name = %s AND state = 'abandoned'"
    )
    assert stack.ask(lost, deploying.tenant) == [(0,)]
    deploying.run("How you know it is over")


def test_growing_to_more_machines(stack: Stack, page: OpenPage) -> None:
    growing = page("growing")
    stack.whole("search", "maintenance", "beat")
    stack.start("ingest-far", ALLOWED_ROOTS="/nowhere", DATA_DIR=str(stack.folder / "far"))
    stack.write(growing.tenant, 10)
    until(lambda: stack.counts(growing.tenant) == {"failed": 10})
    stack.start("ingest")
    until(partial(stack.lives, "ingest", 2))
    growing.run("What you see")
    growing.run("What you see", 1)
    stack.stop("ingest-far")
    stack.start("ingest-far", DATA_DIR=str(stack.folder / "far"))
    growing.run("What to do now")
    until(lambda: stack.counts(growing.tenant) == {"completed": 10})
    until(partial(stack.lives, "ingest", 2))
    growing.run("How you know it is over")
    # two ingest workers of two processes, a search worker, a maintenance worker, beat; three for each pool
    assert connections(stack) <= 2 * (1 + 2 * 3) + (1 + 3) + (1 + 4 * (3 + 2)) + 1


def load(stack: Stack, tenant: str, words: str) -> None:
    """Load 1,500 chunks whose vectors point anywhere."""
    dice = random.Random(tenant)
    lines = [
        {
            "source_path": f"{n}",
            "chunks": [{"text": f"{words} {n}.", "vector": [dice.gauss(0, 1) for _ in range(256)]}],
        }
        for n in range(1500)
    ]
    (stack.folder / f"{tenant}.jsonl").write_text("\n".join(map(json.dumps, lines)))
    assert "1,500" in stack.shell(f"ingest load {tenant}.jsonl --tenant {tenant}")


def test_slow_searches(stack: Stack, page: OpenPage) -> None:
    slow = page("slow-search")
    stack.whole("search", "maintenance")
    load(stack, slow.tenant, "Ship in harbour")
    stack.shell("ingest maintain seal; ingest maintain vacuum")
    slow.run("What you see")
    (leaf,) = stack.ask(
        "SELECT leaf FROM segments WHERE state = 'sealed' ORDER BY pg_relation_size(leaf) DESC"
    )[0]
    stack.ask(f"DROP INDEX {leaf}_embedding_idx")
    slow.run("What to do now")
    stack.ask("DELETE FROM pg_statistic WHERE starelid = %s::regclass", leaf)
    slow.run("What to do now", 1)
    slow.run("What to do now", 2)
    slow.run("How you know it is over")


LATER = "SELECT to_char(now() AT TIME ZONE 'UTC' + make_interval(hours => %s), 'HH24:MI')"
BY_SCHEDULE = """python -c "
from worker.maintenance.run import run_chore
from worker.resources import resources
print(run_chore(resources(), 'recall', scheduled=True)['alerts'])" """


def test_falling_recall(stack: Stack, page: OpenPage) -> None:
    falling = page("falling-recall")
    stack.whole("maintenance")
    load(stack, falling.tenant, "Crew")
    stack.shell("ingest maintain seal")
    newest = "SELECT leaf FROM segments WHERE state = 'sealed' ORDER BY updated_at DESC LIMIT 1"
    (leaf,) = stack.ask(newest)[0]
    stack.ask(f"DROP INDEX {leaf}_embedding_idx")
    stack.ask(
        f"CREATE INDEX {leaf}_embedding_idx ON {leaf} USING hnsw (embedding vector_cosine_ops)"
        " WITH (m = 2, ef_construction = 4)"
    )
    window = "-".join(stack.ask(LATER, hours)[0][0] for hours in (1, 2))
    assert f"{leaf}: recall@10 0." in stack.shell(BY_SCHEDULE, MAINTENANCE_WINDOW=window)
    falling.run("What you see")
    falling.run("Why")
    for block in range(3):
        falling.run("What to do now", block)
    falling.run("How you know it is over")


_LEFT_BYTES = 768 << 10  # else the server may not even let us in
FULL = """
    CREATE FUNCTION full() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        RAISE EXCEPTION 'could not extend file: No space left on device' USING ERRCODE = 'disk_full'; END $$;
    CREATE TRIGGER full BEFORE INSERT ON chunks FOR EACH ROW EXECUTE FUNCTION full()"""


@contextmanager
def full_disk(stack: Stack) -> Iterator[None]:
    """Fill the database's disk; where it has none of its own, have the server refuse chunks as then."""
    if stack.disk is None:
        stack.ask(FULL)
        yield
        stack.ask("DROP TRIGGER full ON chunks; DROP FUNCTION full")
        return
    ballast = stack.disk / "ballast"
    with ballast.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, shutil.disk_usage(stack.disk).free - _LEFT_BYTES)
    try:
        yield
    finally:
        ballast.unlink()


def test_a_full_disk(stack: Stack, page: OpenPage) -> None:
    full = page("full-disk")
    stack.whole("search", "maintenance", "beat")
    stack.write(full.tenant, 10, "sails " + " ".join(map(str, range(18_000))))
    with full_disk(stack):
        stack.start("ingest")
        until(lambda: "No space left on device" in stack.log("ingest"))
        if stack.disk:
            full.run("What you see")
        full.run("What to do now")
        assert stack.counts(full.tenant).get("completed") is None
    full.run("What to do now", 1)
    until(lambda: stack.counts(full.tenant) == {"completed": 10})
    full.run("How you know it is over")
    ((chunks, places),) = stack.ask(
        """
        SELECT count(*), count(DISTINCT (document_id, chunk_index))
        FROM chunks JOIN tenants USING (tenant_id) WHERE name = %s""",
        full.tenant,
    )
    assert chunks == places > 100


def make_standby(stack: Stack) -> None:
    """Copy the primary, and have the copy follow it."""
    folder = stack.standby.folder
    owner = stack.postgres.folder.stat()
    where = stack.postgres.url.replace("/ingest?", "/postgres?")
    mapped = f"-T {stack.disk}/tables={stack.folder}/standby-tables" if stack.disk else ""
    said = stack.shell(f"pg_basebackup -d '{where}' -D {folder} -R -X stream -c fast {mapped} && echo copied")
    assert "copied" in said, said
    (folder / ".s.PGSQL.5432.lock").unlink(missing_ok=True)
    for top in (folder, stack.folder / "standby-tables"):
        for path in (top, *top.rglob("*")) if top.exists() and os.geteuid() == 0 else ():
            os.chown(path, owner.st_uid, owner.st_gid, follow_symlinks=False)
    stack.standby.start()
    until(lambda: stack.ask("SELECT 1 FROM pg_stat_replication WHERE state = 'streaming'"))


def test_postgresql_restarts_and_then_a_standby_takes_over(stack: Stack, page: OpenPage) -> None:
    failover = page("postgresql-failover")
    stack.whole(*ALL)
    stack.files("notes", 3)
    stack.write(failover.tenant, 10)
    os.kill(stack.postgres.pid, signal.SIGKILL)
    until(lambda: not stack.postgres.alive)
    failover.run("What you see")
    stack.postgres.start()
    until(lambda: stack.counts(failover.tenant) == {"completed": 10})

    make_standby(stack)
    stack.write(failover.tenant, 40, first=10)
    caught_up = "SELECT 1 FROM pg_stat_replication WHERE replay_lsn >= pg_current_wal_lsn()"
    until(lambda: stack.ask(caught_up))
    os.kill(stack.postgres.pid, signal.SIGKILL)
    until(lambda: not stack.postgres.alive)
    failover.run("What to do now")
    failover.run("What to do now", 1)
    until(lambda: stack.counts(failover.tenant) == {"completed": 53})
    failover.run("How you know it is over")
    assert all(process.poll() is None for process in stack.processes.values())
