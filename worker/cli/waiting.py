"""Wait until submitted documents are settled, and sum up what became of them."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from worker import producer
from worker.cli.output import count, grouped, megabytes_a_second, note, printable, say
from worker.cli.progress import Report, progress
from worker.db import operations, overview, pauses
from worker.db.engine import transaction
from worker.resources import resources

_PATIENCE = 5.0
_MOST_REASONS = 20
NO_WORKER = "no ingest worker is running: start one with `ingest worker ingest` or `ingest up`"
STATUSES = ("completed", "duplicate", "skipped", "failed", "cancelled")


@dataclass(frozen=True, slots=True)
class Settled:
    """What became of documents: `counts` by status, chunks, embeddings, and why some did not complete."""

    counts: dict[str, int]
    chunks: int
    embedded: int
    reused: int
    size_bytes: int
    seconds: float
    reasons: Sequence[Any]

    def as_json(self) -> dict[str, Any]:
        """Give it for --json."""
        return {
            "documents": self.counts,
            "chunks": self.chunks,
            "embeddings_computed": self.embedded,
            "embeddings_reused": self.reused,
            "bytes": self.size_bytes,
            "seconds": round(self.seconds, 3),
            "mb_per_second": megabytes_a_second(self.size_bytes, self.seconds),
            "reasons": [reason._asdict() for reason in self.reasons],
        }


def settle(
    document_ids: Sequence[UUID],
    *,
    since: float,
    timeout_seconds: float | None = None,
    check: Callable[[], None] = lambda: None,
) -> Settled:
    """Wait for documents submitted at the monotonic time `since`. Raises NoAnswerError.

    `check` is called while waiting, to raise what makes waiting pointless.
    """
    watch = _Watch(check, document_ids)
    with progress("processing", len(document_ids)) as report:
        outcome = producer.wait(
            document_ids,
            timeout_seconds=timeout_seconds,
            progress=lambda left: watch.look(report, len(document_ids) - left),
        )
    return _settled(document_ids, outcome, time.monotonic() - since)


def _settled(document_ids: Sequence[UUID], outcome: Any, seconds: float) -> Settled:
    with transaction(resources().engine) as connection:
        reasons = overview.reasons_of(connection, document_ids, _MOST_REASONS)
    return Settled(
        counts={status: getattr(outcome, status) for status in STATUSES},
        chunks=int(outcome.chunks),
        embedded=int(outcome.embedded),
        reused=int(outcome.reused),
        size_bytes=int(outcome.size_bytes),
        seconds=seconds,
        reasons=reasons,
    )


class _Watch:
    """Says once that nobody is there to do the work, and once of each pause that it waits for its end."""

    def __init__(self, check: Callable[[], None], document_ids: Sequence[UUID]) -> None:
        self._check = check
        self._document_ids = document_ids
        self._begun = self._next = time.monotonic()
        self._said: set[str] = set()

    def look(self, report: Report, done: int) -> None:
        self._check()
        report(done)
        now = time.monotonic()
        if now >= self._next:
            self._next = now + _PATIENCE
            if now > self._begun + _PATIENCE and live_slots("ingest") == 0:
                self._note(NO_WORKER)
            for pause in _pauses(self._document_ids):
                self._note(f"waiting: {printable(str(pause))}")

    def _note(self, line: str) -> None:
        if line not in self._said:
            self._said.add(line)
            note(line)


def _pauses(document_ids: Sequence[UUID]) -> list[pauses.Pause]:
    """Give what holds these up; nearly always nothing is paused at all."""
    with transaction(resources().engine) as connection:
        return pauses.over(connection, document_ids) if pauses.standing(connection) else []


def live_slots(kind: str) -> int:
    """Count the slots of the workers of a kind that are alive."""
    mine = resources()
    with transaction(mine.engine) as connection:
        return operations.live_slots(connection, kind, mine.settings.heartbeat_seconds)


def say_settled(settled: Settled) -> None:
    """Say what became of documents that were waited for."""
    say(", ".join(f"{number:,} {status}" for status, number in settled.counts.items() if number))
    grouped(settled.reasons)
    say(sum_of(settled))


def sum_of(settled: Settled) -> str:
    """Say in a line how much was done and how fast."""
    rate = megabytes_a_second(settled.size_bytes, settled.seconds)
    return (
        f"{count(settled.chunks, 'chunk')}; embeddings: {settled.embedded:,} computed, "
        f"{settled.reused:,} reused; {settled.seconds:.1f} s, {rate} MB/s"
    )
