"""Every finding of `ingest doctor` that is not well names what mends it: a command or setting that exists."""

import ast
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from typer.main import get_command

from worker.cli.checks import Finding, State, unchecked
from worker.cli.commands import application
from worker.db.pauses import Pause
from worker.settings import Settings

ROOT = Path(__file__).parents[2]
COMMANDS: dict[str, Any] = vars(get_command(application()))["commands"]
SETTINGS = {name.upper() for name in Settings.model_fields}
# What else is run: statements of PostgreSQL, and the broker's own command.
STATEMENTS = {"ALTER", "REINDEX", "SELECT", "VACUUM", "DROP", "CREATE", "ROLLBACK"}
OTHER = STATEMENTS | {"redis-cli"}
# Where a check passes on what another part says mends it: what that makes, and where the mend stands in it.
PASSED_ON = {
    "worker/db/engine.py": ({"DatabaseUnavailableError", "SchemaError"}, 1),
    "worker/broker.py": ({"BrokerUnavailableError"}, 1),
    "worker/steps/falls.py": ({"Fall"}, 2),
}
# Parts of a mend that only running it tells, and what they stand for; tests below hold them to it.
STANDS_FOR = {"setting": "DATABASE_URL", "end": "ingest resume", "mends": "CREATE INDEX"}
ANY = "X"


class Made(NamedTuple):
    """A place where a finding, or an error with a hint, is made."""

    where: str
    mend: ast.expr | None
    scope: ast.AST
    module: ast.Module


@cache
def tree(path: str) -> ast.Module:
    return ast.parse((ROOT / path).read_text())


def calls(path: str, names: set[str]) -> Iterator[tuple[ast.Call, ast.AST]]:
    """Calls of these names, each with the innermost function it stands in."""
    functions = [node for node in ast.walk(tree(path)) if isinstance(node, ast.FunctionDef)]
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Call):
            name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if name in names:
                holding = [f for f in functions if f.lineno <= node.lineno <= (f.end_lineno or 0)]
                yield node, max(holding, key=lambda f: f.lineno, default=tree(path))


def argument(call: ast.Call, position: int, name: str) -> ast.expr | None:
    by_name = {keyword.arg: keyword.value for keyword in call.keywords}
    return call.args[position] if len(call.args) > position else by_name.get(name)


def findings() -> Iterator[Made]:
    for file in sorted((ROOT / "worker" / "cli").rglob("*.py")):
        path = str(file.relative_to(ROOT))
        for call, scope in calls(path, {"Finding"}):
            state = argument(call, 1, "state")
            if not (isinstance(state, ast.Attribute) and state.attr == "OK"):
                yield Made(f"{path}:{call.lineno}", argument(call, 3, "mend"), scope, tree(path))


def hints() -> Iterator[Made]:
    for path, (names, position) in PASSED_ON.items():
        for call, scope in calls(path, names):
            yield Made(f"{path}:{call.lineno}", argument(call, position, "mend"), scope, tree(path))


def texts(value: ast.expr | None, made: Made) -> list[str]:  # noqa: PLR0911 -- a kind of expression each
    """What an expression may come to; what only running it tells is ANY."""
    match value:
        case ast.Constant(value=str(text)):
            return [text]
        case ast.JoinedStr(values=parts):
            return ["".join(map(written, parts))]
        case ast.IfExp(body=one, orelse=other):
            return texts(one, made) + texts(other, made)
        case ast.BoolOp(values=several):
            return [text for one in several for text in texts(one, made) if text]
        case ast.Attribute(attr="hint" | "mend"):
            return []  # made elsewhere: `hints` looks there
        case ast.Call(func=ast.Attribute(value=ast.Dict(values=several), attr="get"), args=[_, other]):
            return [text for one in (*several, other) for text in texts(one, made)]
        case ast.Name(id=name):
            found = [text for one, where in assigned(name, made) for text in texts(one, where)]
            assert found, f"{made.where}: nothing says what {name} is"
            return found
        case ast.Call(func=ast.Name(id=name)):
            returned = [
                (node.value, made._replace(scope=function))
                for function in ast.walk(made.module)
                if isinstance(function, ast.FunctionDef) and function.name == name
                for node in ast.walk(function)
                if isinstance(node, ast.Return)
            ]
            return [text for one, where in returned for text in texts(one, where)]
    raise AssertionError(f"{made.where}: this does not say what mends it")


def written(part: ast.expr) -> str:
    """A part of an f-string."""
    if isinstance(part, ast.Constant):
        return str(part.value)
    names = [getattr(node, "id", "") or getattr(node, "attr", "") for node in ast.walk(part)]
    return next((STANDS_FOR[name] for name in names if name in STANDS_FOR), ANY)


def assigned(name: str, made: Made) -> Iterator[tuple[ast.expr, Made]]:
    """The values a name is given: in its function or module, by a loop over literals, or by its callers."""
    for node in [*ast.walk(made.scope), *made.module.body]:
        if isinstance(node, ast.Assign) and any(getattr(one, "id", "") == name for one in node.targets):
            yield node.value, made
        elif isinstance(node, ast.For) and isinstance(node.target, ast.Tuple):
            for position, target in enumerate(node.target.elts):
                if getattr(target, "id", "") == name and isinstance(node.iter, ast.Tuple):
                    yield from (
                        (row.elts[position], made) for row in node.iter.elts if isinstance(row, ast.Tuple)
                    )
    if isinstance(made.scope, ast.FunctionDef):
        names = [one.arg for one in made.scope.args.args]
        for call, caller in calls(made.where.partition(":")[0], {made.scope.name}):
            value = argument(call, names.index(name), name) if name in names else None
            if value is not None:
                yield value, made._replace(scope=caller)


def fault(text: str) -> str | None:
    """What is wrong with a mend, None where it names something that exists."""
    quoted = re.findall(r"`([^`]+)`", text)
    for words in (quote.split() for quote in quoted):
        if words[0] != "ingest":
            if words[0] not in OTHER:
                return f"there is no command {words[0]}"
            continue
        if len(words) < 2 or words[1] not in COMMANDS:
            return f"there is no command {' '.join(words)}"
        known = {option for parameter in COMMANDS[words[1]].params for option in parameter.opts}
        if unknown := [word for word in words[2:] if word.startswith("--") and word not in known]:
            return f"{words[1]} has no option {unknown[0]}"
    named = (SETTINGS | STATEMENTS) & set(re.findall(r"\b[A-Z][A-Z_]+\b", text))
    return None if quoted or named else "it names neither a command nor a setting"


@pytest.mark.parametrize("made", list(findings()), ids=lambda made: made.where)
def test_finding_names_what_mends_it(made: Made) -> None:
    assert made.mend is not None, f"{made.where}: nothing says what mends it"
    assert [(text, fault(text)) for text in texts(made.mend, made) if fault(text)] == []


@pytest.mark.parametrize("made", list(hints()), ids=lambda made: made.where)
def test_error_that_the_doctor_passes_on_names_what_mends_it(made: Made) -> None:
    assert [(text, fault(text)) for text in texts(made.mend, made) if fault(text)] == []


def test_there_is_something_to_look_at() -> None:
    assert len(list(findings())) >= 20
    assert len(list(hints())) >= 4
    assert unchecked("x").state is State.UNCHECKED
    assert "`ingest doctor`" in unchecked("x").mend
    assert Finding("x", State.OK, "well").mend == ""


def test_a_pause_ends_by_a_command() -> None:
    pause = Pause("acme", "p", None, None, "me", datetime(2026, 1, 1, tzinfo=UTC), 5.0)
    assert pause.end.startswith(STANDS_FOR["end"])
    assert fault(f"`{pause.end}`") is None


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("run `ingest beat`", False),
        ("run `ingest retry --code X`", False),
        ("raise DATABASE_POOL_SIZE", False),
        ("run `ingest nosuch`", True),
        ("run `ingest retry --nosuch`", True),
        ("run `systemctl restart`", True),
        ("look into its log", True),
        ("set NO_SUCH_SETTING", True),
    ],
)
def test_what_does_not_exist_is_noticed(text: str, wrong: bool) -> None:
    assert (fault(text) is not None) is wrong
