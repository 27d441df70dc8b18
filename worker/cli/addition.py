"""One run of `ingest add`: record, compare with the folder, wait, report."""

import time
from dataclasses import asdict
from typing import Any

from worker import producer, sources
from worker.broker import require_broker
from worker.cli.inputs import Inputs
from worker.cli.output import count, emit, note, printable, say
from worker.cli.progress import counted
from worker.cli.waiting import NO_WORKER, Settled, live_slots, say_settled, settle
from worker.cli.walk import gone
from worker.errors import BrokerUnavailableError, Exit, SourceError
from worker.producer import Receipt
from worker.settings import load_settings
from worker.submitting import WhenFull
from worker.types import Lane

_SHOWN = 10
_SAID_EVERY = 30.0


class Addition:
    """One run of `add`, step by step."""

    def __init__(self, gathered: Inputs, tenant: str, project: str | None) -> None:
        self._gathered = gathered
        self._scope: dict[str, Any] = {"tenant": tenant, "project": project}
        self._begun = time.monotonic()
        self._said = -_SAID_EVERY
        self._receipt: Receipt
        self._gone: list[tuple[Any, str]] = []
        self._pruned = 0
        self._settled: Settled | None = None
        self._broker_trouble: BrokerUnavailableError | None = None

    @property
    def exit_code(self) -> Exit:
        """Findings when a document was refused or has failed."""
        failed = self._settled.counts["failed"] if self._settled else 0
        return Exit.FINDINGS if failed or self._receipt.refused else Exit.OK

    def submit(self, *, interactive: bool, checksum: bool, when_full: WhenFull, trace: str | None) -> None:
        """Record the documents, whether or not the broker is there."""
        self._broker_trouble = _broker_trouble()
        documents = self._gathered.documents.values()
        lane = Lane.INTERACTIVE if interactive else Lane.BULK
        with counted("recording", len(documents)) as recorded:
            self._receipt = producer.submit(
                documents,
                **self._scope,
                lane=lane,
                checksum=checksum,
                when_full=when_full,
                trace=trace,
                progress=recorded,
                held_up=self._held_up,
            )

    def _held_up(self, why: str) -> None:
        if time.monotonic() - self._said >= _SAID_EVERY:
            self._said = time.monotonic()
            note(f"waiting: {printable(why)}")
            if not live_slots("ingest"):
                note(NO_WORKER)
            for pause in producer.paused():
                note(printable(str(pause)))

    def compare(self, *, prune: bool) -> None:
        """Find documents of the folders whose file is gone; with `prune`, delete them."""
        for folder in self._gathered.folders:
            for document_id, source_path in producer.below(folder, **self._scope):
                path = sources.local_path(source_path)
                if source_path not in self._gathered.documents and path is not None and gone(str(path)):
                    self._gone.append((document_id, source_path))
        if not self._gathered.documents and not self._gone:
            folders = ", ".join(map(printable, self._gathered.folders))
            raise SourceError(f"no files in {folders}", "hidden files are taken with --hidden")
        if prune and self._gone:
            self._pruned = producer.delete([document_id for document_id, _ in self._gone], **self._scope)

    def wait(self, timeout: float | None) -> None:
        """Wait until what was submitted is settled."""
        if self._broker_trouble and self._receipt.document_ids:
            note(self._recorded())
            raise self._broker_trouble
        if self._receipt.document_ids:
            self._settled = settle(self._receipt.document_ids, since=self._begun, timeout_seconds=timeout)

    def report(self, *, as_json: bool) -> None:
        """Say what happened."""
        if as_json:
            emit(self._as_json())
        else:
            self._say()
        if self._broker_trouble and self._receipt.document_ids:
            note(f"warning: {self._recorded()}: {self._broker_trouble}")

    def _recorded(self) -> str:
        total = count(len(self._receipt.document_ids), "document")
        return f"{total} recorded, waiting for the broker"

    def _as_json(self) -> dict[str, Any]:
        receipt, gathered = self._receipt, self._gathered
        return {
            "new": len(receipt.new),
            "changed": len(receipt.changed),
            "unchanged": receipt.unchanged,
            "refused": [{"source_path": path, "reason": reason} for path, reason in receipt.refused],
            "document_ids": list(receipt.document_ids),
            "paused": [asdict(pause) for pause in receipt.paused],
            "trace": receipt.trace,
            "gone": [path for _, path in self._gone],
            "pruned": self._pruned,
            "unreadable": [{"folder": path, "reason": reason} for path, reason in gathered.unreadable],
            "special_files": gathered.special,
            "linked_folders": gathered.linked_folders,
            "seconds": round(time.monotonic() - self._begun, 3),
            "settled": self._settled.as_json() if self._settled else None,
        }

    def _say(self) -> None:
        receipt = self._receipt
        say(
            f"{len(receipt.new):,} new, {len(receipt.changed):,} changed, "
            f"{receipt.unchanged:,} unchanged, {len(receipt.refused):,} refused"
        )
        for pause in receipt.paused:
            say(f"  waiting: {printable(str(pause))}")
        if receipt.new or receipt.changed:
            say(f"trace {receipt.trace}")
        _say_passed_over(self._gathered, receipt)
        if self._pruned:
            say(
                f"{count(self._pruned, 'document')} deleted, gone like their files; "
                "`ingest restore` brings them back"
            )
        elif self._gone:
            say(f"{count(len(self._gone), 'file')} gone; --prune deletes the documents")
        if self._settled:
            say_settled(self._settled)


def _broker_trouble() -> BrokerUnavailableError | None:
    try:
        require_broker(load_settings())
    except BrokerUnavailableError as error:
        return error
    return None


def _say_passed_over(gathered: Inputs, receipt: Receipt) -> None:
    """Say what was not taken, and why."""
    for path, reason in receipt.refused[:_SHOWN]:
        say(f"  refused: {printable(path)}: {reason}")
    for path, reason in gathered.unreadable[:_SHOWN]:
        say(f"  folder not read: {printable(path)}: {reason}")
    if gathered.special:
        say(f"  {count(gathered.special, 'special file')} passed over (pipes, sockets, devices)")
    if gathered.linked_folders:
        say(f"  {count(gathered.linked_folders, 'linked folder')} not followed")
