"""How long it takes after a fault until a fresh document is completed, and until what it hit is settled."""

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Self
from uuid import UUID

import psycopg2

from benchmarks.chaos.servers import connected
from worker import Document, submit
from worker.errors import IngestError
from worker.producer import find
from worker.settings import load_settings

PROBES = "probes"
_TICK = 0.05
_LEFT = """SELECT document_id, status FROM documents
    WHERE document_id = ANY(%s::uuid[]) AND status IN ('pending', 'processing') AND deleted_at IS NULL"""
# of documents that were edited meanwhile, it is another version that waits
_STILL = """SELECT d.document_id FROM documents d JOIN unnest(%s::uuid[], %s::int[]) AS hit(id, version)
    ON d.document_id = hit.id AND d.requested_version = hit.version
    WHERE d.status IN ('pending', 'processing') AND d.deleted_at IS NULL"""
_HIT = """SELECT d.document_id, d.requested_version FROM documents d JOIN batches b USING (batch_id)
    WHERE b.state = 'running' AND b.worker LIKE %s AND d.status = 'processing' AND d.deleted_at IS NULL"""

Hit = Sequence[tuple[UUID, int]]


@dataclass(slots=True)
class Recovery:
    """One fault: when it was over, its probe, the documents it hit, and the seconds until all were well."""

    kind: str
    since: float
    probe: UUID | None = None
    hit: Hit = ()
    seconds: float | None = None


@dataclass(slots=True)
class Recoveries:
    """All faults, watched from a thread."""

    all: list[Recovery] = field(default_factory=list)
    _over: threading.Event = field(default_factory=threading.Event)
    _threads: list[threading.Thread] = field(default_factory=list)

    def __enter__(self) -> Self:
        for work in (self._submit, self._watch):  # what is to be submitted may wait for what a fault holds
            self._threads.append(threading.Thread(target=work, name="recoveries", daemon=True))
            self._threads[-1].start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()

    def begin(self, kind: str, hit: Hit = ()) -> None:
        """Have a probe submitted now, and watched."""
        self.all.append(Recovery(kind, time.monotonic(), hit=hit))

    @property
    def open(self) -> list[Recovery]:
        """The faults that have not been recovered from."""
        return [one for one in self.all if one.seconds is None]

    def calm(self, seconds: float) -> bool:
        """Wait so long until there is none; tell whether it came to that."""
        limit = time.monotonic() + seconds
        while self.open and time.monotonic() < limit:
            time.sleep(_TICK)
        return not self.open

    def _submit(self) -> None:
        while not self._over.wait(_TICK):
            for number, one in enumerate(self.all):
                if one.probe is None and not self._over.is_set():
                    one.probe = probe(one.kind, number)

    def _watch(self) -> None:
        connection: Any = None
        while not self._over.wait(_TICK):
            try:
                connection = connection or connected(load_settings().database_url)
                self._look(connection)
            except psycopg2.Error:  # a lost session may be any of its kinds
                connection = None

    def _look(self, connection: Any) -> None:
        waiting = [one for one in self.open if one.probe]
        if not waiting:
            return
        with connection.cursor() as cursor:
            cursor.execute(_LEFT, ([str(one.probe) for one in waiting],))
            left = {UUID(row[0]) for row in cursor.fetchall()}
            hits = [(str(name), version) for one in waiting for name, version in one.hit]
            cursor.execute(_STILL, ([name for name, _ in hits], [version for _, version in hits]))
            left |= {UUID(row[0]) for row in cursor.fetchall()}
        for one in waiting:
            if not left & {one.probe, *(name for name, _ in one.hit)}:
                one.seconds = time.monotonic() - one.since


def hit_by(servers: Any, pid: int) -> Hit:
    """Give the documents that a worker has under way."""
    return [(UUID(name), version) for name, version in servers.ask(_HIT, f"%-{pid}@%")]


def probe(kind: str, number: int) -> UUID:
    """Submit a document that nobody has submitted before."""
    document = Document.text(f"Probe {number} after: {kind}.", source_path=f"probe-{number}.txt")
    while True:
        try:
            submit([document], tenant=PROBES)
            return UUID(str(find([document.source_path], tenant=PROBES)[0].document_id))
        except IngestError:
            time.sleep(_TICK)
