"""The live view as lines: what is shown of what is known, and what of it fits into a terminal."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from rich.text import Text

from worker.cli.checks import Finding, State
from worker.cli.output import age, printable
from worker.cli.rates import Rate, eta_seconds
from worker.cli.vitals import blocked_build
from worker.cli.watching import Documents, Seen
from worker.db import operations
from worker.db.activity import Activity
from worker.settings import Settings
from worker.types import Status

_COLUMN = 10
_STYLES = {State.WARNING: "yellow", State.FAILED: "red", State.UNCHECKED: "dim", State.OK: "green"}
_OLD_SECONDS = 15
_THEN = " → "
_CHORES_A_LINE = 3


@dataclass(frozen=True, slots=True)
class Section:
    """A heading and its lines. Where room is short `least` of them stay, and it says what is left out."""

    title: str
    lines: Sequence[Text]
    least: int = 1

    def shown(self, most: int) -> list[Text]:
        """Give at most so many lines, the heading in front of the first."""
        lines = list(self.lines[:most])
        if len(self.lines) > most:
            lines[-1] = Text(f"… and {len(self.lines) - most + 1} more", "dim")
        heading = Text(self.title.ljust(_COLUMN), "bold")
        return [
            (heading if number == 0 else Text(" " * _COLUMN)).append_text(line)
            for number, line in enumerate(lines)
        ]


def screen(seen: Seen, settings: Settings, now: float, width: int, height: int | None) -> list[Text]:
    """Give the view as lines of at most `width` cells, at most `height` of them. `now`: monotonic seconds."""
    sections = [section for section in _sections(seen, settings, now, width) if section.lines]
    lines = [line for part in _fitted(sections, height) for line in part]
    for line in lines:
        line.truncate(width, overflow="ellipsis")
    return lines if height is None else lines[:height]


def _fitted(sections: Sequence[Section], height: int | None) -> Iterator[list[Text]]:
    """Give each section its least, then what is left, to the first ones first."""
    rooms = [len(section.lines) for section in sections]
    if height is not None:
        rooms = [min(section.least, len(section.lines)) for section in sections]
        left = height - sum(rooms)
        for number, section in enumerate(sections):
            more = min(max(left, 0), len(section.lines) - rooms[number])
            rooms[number] += more
            left -= more
    for section, room in zip(sections, rooms, strict=True):
        yield section.shown(room)


def _sections(seen: Seen, settings: Settings, now: float, width: int) -> list[Section]:
    away = [*_troubles(map(_said, seen.trouble), width)]
    if seen.activity is None or seen.documents is None:
        return [Section("waiting", away or [Text("for the first answer …")])]
    if any(finding.name == "database" for finding in seen.trouble):
        away.append(Text(f"what is shown is as of {age(now - seen.asked)} ago", "dim"))
    documents = seen.documents
    trouble = [*map(_said, seen.findings), *_stuck(seen, settings), *_reasons(documents)]
    return [
        Section("away", away, 3),
        Section("documents", _documents(documents, now), 2),
        Section("rates", _rates(seen, documents), 2),
        Section("queues", [_queues(seen)]),
        Section("trouble", [*_troubles(trouble, width)], 4),
        Section("workers", [*_workers(seen, settings)], 3),
        Section("segments", _segments(documents)),
        Section("chores", _chores(seen.activity)),
    ]


def _said(finding: Finding) -> tuple[str, str, str]:
    return f"{finding.name}: {finding.seen}", finding.mend, _STYLES[finding.state]


def _troubles(found: Iterable[tuple[str, str, str]], width: int) -> Iterator[Text]:
    """Write what is wrong and, behind it or below, what mends it: that is what must not be cut off."""
    for seen, mend, style in found:
        line = Text(printable(seen), style)
        if not mend:
            yield line
        elif line.cell_len + len(mend) + len(_THEN) <= width - _COLUMN:
            yield line.append(f"{_THEN}{printable(mend)}", "default")
        else:
            yield line
            yield Text(f" {_THEN}{printable(mend)}")


def _documents(documents: Documents, now: float) -> list[Text]:
    """Write a heading and a number for each status, and since when they are true where that is a while."""
    counts = [(status.value, f"{number:,}") for status, number in documents.counts.items()]
    widths = [max(len(name), len(number)) for name, number in counts]
    heading = Text(
        "  ".join(name.rjust(width) for (name, _), width in zip(counts, widths, strict=True)), "dim"
    )
    numbers = Text("  ".join(number.rjust(width) for (_, number), width in zip(counts, widths, strict=True)))
    lines = [heading, numbers]
    waiting = documents.health.oldest_waiting_seconds
    if waiting is not None:
        lines.append(Text(f"the oldest waits for {age(waiting)}"))
    if (since := now - documents.asked) > _OLD_SECONDS:
        lines.append(Text(f"counted {age(since)} ago: there are many, so they are counted rarely", "dim"))
    return lines


def _rates(seen: Seen, documents: Documents) -> list[Text]:
    left = sum(documents.counts[status] for status in (Status.PENDING, Status.PROCESSING))
    eta = eta_seconds(left, seen.smooth)
    rest = f"{left:,} to do" if left else "nothing waits"
    rest += f", {age(eta)} left" if eta else ""
    return [Text(f"now     {_rate(seen.now)}"), Text(f"minute  {_rate(seen.smooth)}  {rest}")]


def _rate(rate: Rate | None) -> str:
    if rate is None:
        return "-"
    return (
        f"{rate.documents:,.1f} documents/s  {rate.chunks:,.0f} chunks/s  {rate.size_bytes / 1e6:,.2f} MB/s"
    )


def _queues(seen: Seen) -> Text:
    """Write each queue's length and its oldest message."""
    if not seen.queues:
        return Text("not known while the broker is away", "dim")
    parts = [
        f"{queue.value} {held.messages:,}"
        + (f" ({age(held.oldest_seconds)})" if held.oldest_seconds is not None else "")
        for queue, held in seen.queues.items()
    ]
    return Text("  ".join(parts))


def _stuck(seen: Seen, settings: Settings) -> Iterator[tuple[str, str, str]]:
    """Say which batches do not move, and what moves them."""
    assert seen.activity is not None
    dead = [batch for batch in seen.activity.running if batch.expired_seconds > 0]
    if dead:
        held = sum(batch.documents for batch in dead)
        said = f"{held:,} documents are in batches whose worker is silent, as {dead[0].worker}"
        yield said, "wait for the chore rescue, or run `ingest maintain rescue`", "yellow"
    for queued in seen.activity.queued:
        if queued.oldest_seconds > 2 * settings.republish_seconds:
            said = f"{queued.batches:,} batches of {queued.lane} work wait for {age(queued.oldest_seconds)}"
            yield (
                said,
                "`ingest doctor` names who is missing; `ingest maintain dispatch` sends them again",
                "yellow",
            )


def _reasons(documents: Documents) -> Iterator[tuple[str, str, str]]:
    """Say why documents did not complete: what failed needs somebody, what waits is tried again."""
    found: Sequence[Any] = documents.reasons
    for reason in found:
        said = f"{reason.documents:,} {reason.status}: {reason.error_code}: {reason.message}"
        if reason.status == Status.FAILED:
            yield said, f"`ingest retry --code {reason.error_code}` once it is mended", "red"
        elif reason.status == Status.PENDING:
            yield said, "tried again by itself", "yellow"


def _workers(seen: Seen, settings: Settings) -> Iterator[Text]:
    """Write a line a process, and below it what it has in hand."""
    assert seen.activity is not None
    batches = seen.activity.running
    for process in seen.activity.processes:
        silent = process.seen_seconds > settings.heartbeat_seconds * operations.STALE_AFTER
        slots = f", {process.slots} at once" if process.slots > 1 else ""
        heard = (
            f"silent for {age(process.seen_seconds)}" if silent else f"heard {age(process.seen_seconds)} ago"
        )
        yield Text(f"{printable(process.name)}  {heard}{slots}", "red" if silent else "")
        for batch in batches:
            if batch.worker == process.name:
                yield Text(f"  {_in_hand(batch)}")
        if process.kind == "maintenance":
            for chore in seen.activity.chores:
                yield Text(f"  {chore.chore} for {age(chore.seconds)}")


def _in_hand(batch: Any) -> str:
    since = "" if batch.seconds is None else f" for {age(batch.seconds)}"
    return (
        f"{batch.progress:,} of {batch.documents:,} documents{since}, {batch.lane}, "
        f"{printable(batch.tenant)}, batch {batch.batch_id}"
    )


def _segments(documents: Documents) -> list[Text]:
    found = documents.health.segments
    counts = ", ".join(f"{number} {state}" for state, number in found.counts.items())
    lines = [Text(f"{counts}; {found.unsealed_rows:,} rows without a vector index")]
    for build in found.builds:
        if build.blocker:
            lines.append(Text(printable(blocked_build(build)), "yellow"))
        else:
            done = "" if build.done is None else f", {build.done:.0%}"
            lines.append(Text(f"index of {build.leaf}: {build.phase}{done}"))
    return lines


def _chores(activity: Activity) -> list[Text]:
    """Write when each chore ran last, the latest first, several a line."""
    parts = [
        f"{run.chore} {age(run.seconds_ago)} ago" + (" FAILED" if run.outcome == "failed" else "")
        for run in activity.ran
    ]
    rows = [parts[first : first + _CHORES_A_LINE] for first in range(0, len(parts), _CHORES_A_LINE)]
    return [Text("  ".join(row), "red" if any("FAILED" in part for part in row) else "") for row in rows]
