"""How an answer is shown to people: each chunk with its score, where it stands, what it says."""

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.text import Text

from worker.cli.output import columns, note, printable, say
from worker.types import Answer, Hit

_INDENT = " " * 7


def show(answer: Answer) -> None:
    """Write the hits to standard output, and what else there is to know beside them."""
    console = Console(highlight=False)
    for hit in answer.hits:
        _show_hit(console, hit)
    if not answer.hits:
        say("nothing found" + "".join(f"; {said}" for said in answer.notes))
    else:
        for said in answer.notes:
            note(f"note: {printable(said)}")
    if answer.dropped:
        note(f"not in this answer, because it was late or failed: {', '.join(answer.dropped)}")
    if answer.run_id:
        say(f"recorded as {answer.run_id}")
    if answer.explanation is not None:
        _show_explanation(answer.explanation, answer.latency_ms)


def _show_hit(console: Console, hit: Hit) -> None:
    head = Text.assemble(
        (f"{hit.score:.3f}", "bold"),
        "  ",
        (printable(hit.source_path), "cyan"),
        f"  chunk {hit.number} of {hit.total}",
        (_parts(hit), "dim"),
    )
    console.print(head, soft_wrap=True)
    if hit.heading_path:
        console.print(Text(_INDENT + " > ".join(map(printable, hit.heading_path)), "dim"), soft_wrap=True)
    for text in hit.before:
        console.print(Text(_INDENT + _line(text), "dim"), soft_wrap=True)
    console.print(_snippet(hit), soft_wrap=True)
    for text in hit.after:
        console.print(Text(_INDENT + _line(text), "dim"), soft_wrap=True)


def _parts(hit: Hit) -> str:
    if len(hit.scores) < 2:  # noqa: PLR2004 -- one part alone is the score
        return ""
    return "  " + " ".join(f"{name} {score:.3f}" for name, score in hit.scores.items())


def _snippet(hit: Hit) -> Text:
    """Give the snippet with its highlights; what changes a terminal is written out first."""
    body = Text(_INDENT)
    at = 0
    for start, end in hit.highlights:
        body.append(printable(hit.snippet[at:start]))
        body.append(printable(hit.snippet[start:end]), "bold yellow")
        at = end
    body.append(printable(hit.snippet[at:]))
    return body


def _line(text: str) -> str:
    return printable(" ".join(text.split()))


def _show_explanation(explanation: Mapping[str, Any], latency_ms: Mapping[str, float]) -> None:
    say()
    say("time by stage, in ms")
    columns([(name, round(spent, 1)) for name, spent in latency_ms.items()])
    for name, found in explanation.items():
        say(name)
        _show_value(found, "  ")


_LINE = 100  # characters


def _show_value(found: Any, indent: str) -> None:
    """Write an object a line a name; what is in lists is told apart by dashes."""
    if isinstance(found, Mapping):
        for name, value in found.items():
            if _is_nested(value):
                say(f"{indent}{printable(str(name))}")
                _show_value(value, indent + "  ")
            else:
                said = ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
                say(f"{indent}{printable(str(name))}: {printable(said)}")
    else:
        for item in found:
            say(f"{indent}- {printable(_in_line(item))}")


def _is_nested(value: Any) -> bool:
    inner = value if isinstance(value, list | tuple) else ()
    long = sum(len(str(item)) for item in inner) > _LINE
    return isinstance(value, Mapping) or long or any(isinstance(item, Mapping) for item in inner)


def _in_line(item: Any) -> str:
    if not isinstance(item, Mapping):
        return str(item)
    listed = {
        name: " ".join(map(str, value)) if isinstance(value, list | tuple) else value
        for name, value in item.items()
    }
    return ", ".join(f"{name} {value}" for name, value in listed.items())
