"""What must hold at every moment, asked in SQL; and what triggers that only this run has write down."""

import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Self

import psycopg2

from benchmarks.chaos.servers import HASTE, connected
from worker.settings import load_settings

# A stopped process keeps its transaction open for as long as it is stopped.
_OPEN_SECONDS = 20
_TICK, _SLOWLY = 1.0, 8
# An outcome is written in the transaction that ends the batch under its lease, or that holds the lease.
TRIGGERS = """
    CREATE TABLE chaos_violations (document_id uuid, batch_id uuid, state text, status text, at timestamptz);
    CREATE FUNCTION chaos_lease() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$
    BEGIN
        INSERT INTO chaos_violations
        SELECT OLD.document_id, b.batch_id, b.state, NEW.status, clock_timestamp() FROM batches b
        WHERE b.batch_id = OLD.batch_id AND NOT (
            b.state = 'running' AND b.lease_token IS NOT NULL
            OR b.state = 'finished' AND b.finished_at = transaction_timestamp());
        RETURN NEW;
    END $$;
    CREATE TRIGGER chaos_lease AFTER UPDATE ON documents FOR EACH ROW
    WHEN (OLD.status = 'processing' AND NEW.status IN ('completed', 'duplicate', 'skipped'))
    EXECUTE FUNCTION chaos_lease();"""
LIVE = """chunks c JOIN segments s USING (segment) WHERE s.state IN ('open', 'sealing', 'sealed')"""
SETS = f"""
    SELECT count(*) FROM documents d LEFT JOIN (
        SELECT document_id, count(*) AS seen, count(DISTINCT chunk_index) AS places FROM {LIVE} GROUP BY 1
    ) c USING (document_id)
    WHERE coalesce(c.seen, 0) <> CASE WHEN d.deleted_at IS NULL THEN coalesce(d.total_chunks, 0) ELSE 0 END
       OR c.places <> c.seen"""
ATTEMPTS = f"SELECT count(*) FROM documents WHERE attempts > {HASTE['MAX_ATTEMPTS']}"
LEASES = "SELECT count(*) FROM chaos_violations"
ABANDONED = "SELECT count(*) FROM batches WHERE state IN ('abandoned', 'cancelled') AND chunks + settled > 0"
OWNERS = """SELECT count(*) FROM (SELECT 1 FROM documents WHERE fingerprint IS NOT NULL AND deleted_at IS NULL
    GROUP BY tenant_id, project_id, content_hash HAVING count(*) > 1) twice"""
OPEN = """SELECT count(*) FROM pg_stat_activity WHERE state LIKE 'idle in transaction%%'
    AND state_change < now() - make_interval(secs => %s) AND application_name <> 'chaos'"""
INVALID = """SELECT count(*) FROM pg_index WHERE NOT indisvalid
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
                    slowly = time.monotonic()
            except psycopg2.Error:  # a lost session may be any of its kinds
                connection = None

    def _ask(self, connection: Any, questions: dict[str, str]) -> None:
        for name, question in questions.items():
            self._note(name, _count(connection, question))

    def _note(self, name: str, count: int) -> None:
        self.asked += 1
        self.violated[name] = max(self.violated[name], count)

    def at_the_end(self) -> None:
        """Ask all of them once more, with nothing under way."""
        connection = connected(load_settings().database_url)
        self._ask(connection, OFTEN | SELDOM)
        self._note("a transaction left open", _count(connection, OPEN, 1))
        connection.close()


def _count(connection: Any, question: str, *parameters: Any) -> int:
    with connection.cursor() as cursor:
        cursor.execute(question, parameters or None)
        return int(cursor.fetchone()[0])
