"""What the demo shows on a running stack."""

import shlex
import time
from collections.abc import Sequence

from tenacity import Retrying, retry_if_result, stop_after_delay, wait_fixed

from worker import producer
from worker.cli.answer import show
from worker.cli.output import columns, command, count, grouped, say
from worker.cli.progress import counted
from worker.cli.waiting import live_slots, settle, sum_of
from worker.errors import NoAnswerError
from worker.producer import Document, Receipt
from worker.stack import Stack

_READY_SECONDS = 60


def show_corpus(stack: Stack, documents: Sequence[Document], project: str, queries: Sequence[str]) -> None:
    """Ingest the documents on a running stack and ask the queries."""
    begun = time.monotonic()
    receipt = _submit(documents, project)
    seconds = time.monotonic() - begun
    if receipt.document_ids:
        _await_worker(stack, "ingest")
        _show_settled(stack, receipt, seconds)
    else:
        say(f"all {count(receipt.unchanged, 'document')} unchanged ({seconds:.1f} s)")
    _show_status(project)
    _await_worker(stack, "search")
    for query in queries:
        _show_search(query, project)


def _await_worker(stack: Stack, kind: str) -> None:
    def alive() -> bool:
        stack.check()
        return live_slots(kind) > 0

    def give_up(_state: object) -> None:
        raise NoAnswerError(f"no {kind} worker came up within {_READY_SECONDS} s", f"read {stack.log}")

    Retrying(
        retry=retry_if_result(lambda found: not found),
        wait=wait_fixed(0.1),
        stop=stop_after_delay(_READY_SECONDS),
        retry_error_callback=give_up,
    )(alive)


def _submit(documents: Sequence[Document], project: str) -> Receipt:
    with counted("recording", len(documents)) as recorded:
        receipt = producer.submit(documents, project=project, progress=recorded)
    say(f"{len(receipt.new):,} new, {len(receipt.changed):,} changed, {receipt.unchanged:,} unchanged")
    return receipt


def _show_settled(stack: Stack, receipt: Receipt, recording_seconds: float) -> None:
    """Say how fast it went, not counting the start of the processes."""
    begun = time.monotonic() - recording_seconds
    say(sum_of(settle(receipt.document_ids, since=begun, check=stack.check)))


def _show_status(project: str) -> None:
    overview = producer.status(tenant=producer.DEFAULT_TENANT, project=project)
    say("documents by status")
    columns([(str(status), number) for status, number in overview.counts.items() if number])
    grouped(overview.reasons)


def _show_search(query: str, project: str) -> None:
    say()
    say(f"search: {query}")
    show(producer.search(query, project=project, k=3))


def say_next(project: str, query: str) -> None:
    """Say what to do after the demo."""
    say()
    say("try next")
    me = command()
    steps = {
        f"{me} up": "keep the stack running; then, from another shell:",
        f"{me} add PATH --wait": "ingest your own files",
        f'{me} search "{query}" --project {shlex.quote(project)}': "",
        f"{me} doctor": "what is well and what is not",
    }
    columns(list(steps.items()))
