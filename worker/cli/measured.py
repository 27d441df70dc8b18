"""What `ingest evaluate` shows: a table, and what to know of it."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from worker.cli.output import note, printable, say

if TYPE_CHECKING:  # imports cost, and --help must not
    from worker.searching.evaluation import Evaluation, Way

_EXAMPLES = 3
_LONGEST = 100
_WIDTH = 80


def show(plan: "Evaluation") -> None:
    """Write the measures of each way to ask, and the differences of two settings."""
    documents = plan.documents
    judged = len(documents.known) + len(documents.unknown) + len(documents.ambiguous)
    found = f"{len(documents.known):,} of {judged:,}"
    say(f"queries measured: {len(plan.asked):,}; judged documents searchable: {found}")
    if plan.differences:
        say(f"A: the defaults; B: {printable(plan.ways[1].said)}")
    _say_table(plan)
    for difference in plan.differences:
        better, worse, equal = (f"{difference[name]:,}" for name in ("better", "worse", "equal"))
        counts = f"B is better in {better}, worse in {worse}, equal in {equal}"
        say(f"{difference['mode']}: of the queries, {counts}")
    for line in _remarks(plan):
        note(line)


def _say_table(plan: "Evaluation") -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(box=box.SIMPLE, pad_edge=False)
    table.add_column("mode", no_wrap=True)
    for head in (f"nDCG@{plan.k}", f"recall@{plan.k}", f"MRR@{plan.k}", "errors", "p50 ms", "p95 ms"):
        table.add_column(head, justify="right", no_wrap=True)
    for row in _rows(plan):
        table.add_row(*row)
    console = Console(highlight=False, markup=False)
    console.width = max(console.width, _WIDTH)
    console.print(table)


def _rows(plan: "Evaluation") -> Iterator[Sequence[str]]:
    """Give the rows; of two settings A and B, and then what B gains."""
    size = 2 if plan.differences else 1
    for number, way in enumerate(plan.ways):
        latencies = ("-" if spent is None else f"{spent:.1f}" for spent in way.latencies)
        measures = (f"{mean:.4f}" for mean in way.means.values())
        letter = f" {'AB'[number % size]}" if plan.differences else ""
        yield (f"{way.mode}{letter}", *measures, f"{way.errors:,}", *latencies)
        if plan.differences and number % size:
            difference = plan.differences[number // size]
            yield (f"{way.mode} B - A", *(f"{difference[name]:+.4f}" for name in way.means), "", "", "")


def _remarks(plan: "Evaluation") -> Iterator[str]:
    """Say what a reader of the figures has to know."""
    unknown, ambiguous = plan.documents.unknown, plan.documents.ambiguous
    if unknown:
        yield f"judged documents not there or not searchable, counted as not found: {_some(unknown)}"
    if ambiguous:
        said = "judged documents whose name fits several, counted as not found"
        yield f"{said}: {_some(ambiguous)}; name the project"
    if plan.without_text:
        yield f"judged queries without text, left out: {plan.without_text:,}"
    if plan.without_relevant:
        yield f"judged queries without a relevant document, left out: {plan.without_relevant:,}"
    for way in plan.ways:
        yield from _troubles(way)


def _some(names: Sequence[str]) -> str:
    shown = ", ".join(printable(name)[:_LONGEST] for name in names[:_EXAMPLES])
    return f"{len(names):,} ({shown}{', …' if len(names) > _EXAMPLES else ''})"


def _troubles(way: "Way") -> Iterator[str]:
    name = " ".join(filter(None, (way.mode, printable(way.said))))
    if way.errors:
        yield f"{name}: queries that failed, counted as nothing found: {way.errors:,} ({way.reason})"
    if way.incomplete:
        yield f"{name}: answers without a stage that was late, so the figures are too low: {way.incomplete:,}"
