"""What must hold at every moment, asked in SQL; and what triggers that only this run has write down."""

import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Self

import psycopg2

from benchmarks.chaos.servers import HASTE, connected
from worker.settings import load_settings

# Who is stopped, or whose link is lost, leaves its transaction to the limit of its session: 60 s.
_OPEN_SECONDS, _IDLE_SECONDS = 65, 5
# What an interrupted build leaves is dropped by a later turn of a chore: the rarest comes every 45 seconds.
_INVALID_SECONDS = 180
_TICK, _SLOWLY = 1.0, 8
# A worker holds the batch of what it writes: this very transaction has locked it while it runs (`fence`), or
# has ended it (`finish`, and the cancellation of a batch). Nobody else has a lock beside FOR UPDATE, so xmax
# is no multixact; no writer uses a savepoint, so it is the transaction's own. Without a lease only these take
# a document from a batch: who cancels it, rescue once the batch is over, and who restores a deleted one.
#
# Attempts are noted as they are charged: an outcome sets them back. Each has a row of its own: claims that
# update the same one would wait for each other.
TRIGGERS = """
    CREATE TABLE chaos_violations (document_id uuid, batch_id uuid, status text, at timestamptz);
    CREATE FUNCTION chaos_lease() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$
    BEGIN
        INSERT INTO chaos_violations
        SELECT OLD.document_id, OLD.batch_id, NEW.status, clock_timestamp() WHERE NOT EXISTS (
            SELECT FROM batches b WHERE b.batch_id = OLD.batch_id AND (
                b.state = 'running' AND b.xmax = pg_current_xact_id()::xid
                OR b.state IN ('finished', 'cancelled') AND b.xmin = pg_current_xact_id()::xid
                OR b.finished_at IS NOT NULL AND NEW.error_code = 'worker_lost'));
        RETURN NEW;
    END $$;
    CREATE TRIGGER chaos_lease AFTER UPDATE ON documents FOR EACH ROW
    WHEN (OLD.status = 'processing' AND NEW.status NOT IN ('processing', 'cancelled')
          AND NOT (NEW.status = 'pending' AND OLD.deleted_at IS NOT NULL))
    EXECUTE FUNCTION chaos_lease();
    CREATE TABLE chaos_attempts (document_id uuid, attempts int);
    CREATE FUNCTION chaos_attempts() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$
    BEGIN
        INSERT INTO chaos_attempts VALUES (NEW.document_id, NEW.attempts);
        RETURN NEW;
    END $$;
    CREATE TRIGGER chaos_attempts AFTER UPDATE ON documents FOR EACH ROW
    WHEN (NEW.attempts > OLD.attempts) EXECUTE FUNCTION chaos_attempts();"""
LIVE = """chunks c JOIN segments s USING (segment) WHERE s.state IN ('open', 'sealing', 'sealed')"""
SETS = f"""
    SELECT count(*) FROM documents d LEFT JOIN (
        SELECT document_id, count(*) AS seen, count(DISTINCT chunk_index) AS places FROM {LIVE} GROUP BY 1
    ) c USING (document_id)
    WHERE coalesce(c.seen, 0) <> CASE WHEN d.deleted_at IS NULL THEN coalesce(d.total_chunks, 0) ELSE 0 END
       OR c.places <> c.seen"""
ATTEMPTS = f"SELECT count(*) FROM chaos_attempts WHERE attempts > {HASTE['MAX_ATTEMPTS']}"
MOST_ATTEMPTS = "SELECT max(attempts) FROM chaos_attempts"
LEASES = "SELECT count(*) FROM chaos_violations"
ABANDONED = "SELECT count(*) FROM batches WHERE state IN ('abandoned', 'cancelled') AND chunks + settled > 0"
OWNERS = """SELECT count(*) FROM (SELECT 1 FROM documents WHERE fingerprint IS NOT NULL AND deleted_at IS NULL
    GROUP BY tenant_id, project_id, content_hash HAVING count(*) > 1) twice"""
OPEN = """SELECT count(*) FROM pg_stat_activity
    WHERE datname = current_database() AND state LIKE 'idle in transaction%%'
      AND state_change < now() - make_interval(secs => %s) AND application_name <> 'chaos'"""
INVALID = """SELECT indexrelid FROM pg_index WHERE NOT indisvalid
    AND indexrelid NOT IN (SELECT index_relid FROM pg_stat_progress_create_index)"""

OFTEN = {"attempts over the bound": ATTEMPTS, "written without a lease": LEASES}
SELDOM = {
    "not one chunk set a document": SETS,
    "written by an abandoned batch": ABANDONED,
    "a content owned twice": OWNERS,
}


@dataclass
class Invariants:
    """Asks again and again, from a thread. `violated`: the most that was found of each at once."""

    violated: Counter[str] = field(default_factory=Counter)
    asked: int = 0
    invalid_seconds: float = _INVALID_SECONDS
    _invalid_since: dict[int, float] = field(default_factory=dict)
    _over: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self._watch, name="invariants", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        connection: Any = None
        slowly = time.monotonic()
        while not self._over.wait(_TICK):
            try:
                connection = connection or connected(load_settings().database_url)
                self._ask(connection, OFTEN)
                self._note("a transaction left open", _count(connection, OPEN, _OPEN_SECONDS))
                if time.monotonic() - slowly > _SLOWLY:
                    self._ask(connection, SELDOM)
                    self.look_at_indexes(connection)
                    slowly = time.monotonic()
            except psycopg2.Error:  # a lost session may be any of its kinds
                connection = None

    def _ask(self, connection: Any, questions: dict[str, str]) -> None:
        for name, question in questions.items():
            self._note(name, _count(connection, question))

    def _note(self, name: str, count: int) -> None:
        self.asked += 1
        self.violated[name] = max(self.violated[name], count)

    def look_at_indexes(self, connection: Any) -> None:
        """Note the indexes that nobody builds and that have been invalid for longer than chores take."""
        now = time.monotonic()
        with connection.cursor() as cursor:
            cursor.execute(INVALID)
            self._invalid_since = {row[0]: self._invalid_since.get(row[0], now) for row in cursor.fetchall()}
        left = [since for since in self._invalid_since.values() if now - since >= self.invalid_seconds]
        self._note("an index left invalid", len(left))

    def in_peace(self) -> None:
        """Ask for transactions left open, of workers that run and have nothing to do: soon there is none."""
        connection = connected(load_settings().database_url)
        limit = time.monotonic() + _OPEN_SECONDS
        while (left := _count(connection, OPEN, _IDLE_SECONDS)) and time.monotonic() < limit:
            time.sleep(_TICK)
        self._note("a transaction left open", left)
        connection.close()

    def at_the_end(self) -> None:
        """Ask what tables tell once more, with nothing under way."""
        connection = connected(load_settings().database_url)
        self._ask(connection, OFTEN | SELDOM)
        connection.close()


def _count(connection: Any, question: str, *parameters: Any) -> int:
    with connection.cursor() as cursor:
        cursor.execute(question, parameters or None)
        return int(cursor.fetchone()[0])
