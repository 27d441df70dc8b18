"""What the documents say exists: commands and options, verbs, settings, files, links, Python names."""

import ast
import inspect
import json
import re
import shlex
import subprocess
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.main import get_command

from worker import search
from worker.cli.commands import application
from worker.errors import Exit
from worker.queries import Query, read_query
from worker.settings import Settings

ROOT = Path(__file__).parents[2]
PAGES = sorted(page.relative_to(ROOT).as_posix() for page in [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
TEXTS = {page: (ROOT / page).read_text() for page in PAGES}
BLOCK = re.compile(r"^ *```(\w*)\n(.*?)^ *```", re.MULTILINE | re.DOTALL)

COMMANDS: dict[str, Any] = vars(get_command(application()))["commands"]
MAKEFILE = (ROOT / "Makefile").read_text()
VERBS = set(re.findall(r"^([a-z-]+):.*##", MAKEFILE, re.MULTILINE))
VARIABLES = {"ARGS"} | set(
    re.findall(r"\b([A-Z]+)(?: \?)?=(?=[\w -])", MAKEFILE.partition(".DEFAULT_GOAL")[0])
)
SERVICES = set(yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"])
NAMES = (
    {name.upper() for name in Settings.model_fields}
    | set(re.findall(r"^# ([A-Z_]+)=", (ROOT / ".env.example").read_text(), re.MULTILINE))
    | {code.name for code in Exit}
    | set(re.findall(r"environ\.get\(\"([A-Z_]+)\"\)", (ROOT / ".ci/audit").read_text()))
)
ORDINARY = {
    "cat", "cd", "cp", "curl", "date", "df", "echo", "export", "git", "grep", "ls", "mkdir", "printf", "psql",
}  # fmt: skip


def blocks(page: str, *languages: str) -> Iterator[str]:
    for language, body in BLOCK.findall(TEXTS[page]):
        if language in languages:
            yield body


def prose(page: str) -> str:
    return BLOCK.sub("", TEXTS[page])


def inline(page: str) -> list[str]:
    """What stands in backticks, broken lines joined."""
    return [" ".join(code.split()) for code in re.findall(r"`([^`]+)`", prose(page))]


def simple_commands(page: str) -> Iterator[list[str]]:
    """The shell commands of a page, one by one, as lists of words."""
    lines = [line for body in blocks(page, "sh") for line in joined(body) if not line.startswith("#")]
    for body in blocks(page, "console"):
        lines += [line.removeprefix("$ ") for line in joined(body) if line.startswith("$ ")]
    for line in lines:
        words: list[str] = []
        for word in [*shlex.shlex(line, posix=True, punctuation_chars=True), ";"]:
            if set(word) <= set(";&|()"):
                yield from [words] if words else []
                words = []
            else:
                words.append(word)


def joined(body: str) -> list[str]:
    return [line.strip() for line in body.replace("\\\n", " ").splitlines() if line.strip()]


def test_the_pages_have_commands_to_look_at() -> None:
    assert {"docs/architecture.md", "docs/producers.md", "CONTRIBUTING.md", "README.md"} <= set(PAGES)
    found = [words for page in PAGES for words in simple_commands(page)]
    assert {"ingest", "make", "docker"} <= {words[0] for words in found}
    assert {"run", "up", "test", "bench"} <= VERBS
    assert {"CORPUS", "NAME", "PG", "PYTHON"} <= VARIABLES


@pytest.mark.parametrize("page", PAGES)
def test_every_command_in_a_block_can_be_run(page: str) -> None:
    for words in simple_commands(page):
        check(words)


def check(words: list[str]) -> None:
    while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
        assert words[0].partition("=")[0] in NAMES | VARIABLES, words[0]
        words = words[1:]
    program, *arguments = words or ["export"]
    program = program.removeprefix(".venv/bin/")
    if program == "ingest":
        check_ingest(arguments)
    elif program == "make":
        check_make(arguments)
    elif program == "docker":
        check_compose(arguments)
    elif program == "cp":
        assert (ROOT / arguments[0]).exists(), words
    else:
        assert program in ORDINARY, f"{program} is not known here"


def check_ingest(arguments: list[str]) -> None:
    """Have the command line parsed as `ingest` itself would; nothing is run."""
    if arguments in ([], ["--help"]):
        return
    name, *rest = arguments
    assert name in COMMANDS, f"there is no `ingest {name}`"
    if "--help" in rest:
        return
    given = COMMANDS[name].make_context(name, rest).params
    if name == "search":
        check_query(given)


def check_query(given: dict[str, Any]) -> None:
    """Have what `ingest search` is given read as a query."""
    objects = {name: json.loads(given[name] or "null") for name in ("filters", "weights")}
    paths = {"source_path": given["path"]} if given["path"] else {}
    named = {
        name: given[name] or None for name in ("like", "mode", "metric", "fusion", "language", "neighbours")
    }
    asked = {**named, "weights": objects["weights"], "filter": (objects["filters"] or {}) | paths}
    assert read_query(asked, text=given["query"] or None, k=given["results"])


def check_make(arguments: list[str]) -> None:
    for word in arguments:
        variable, sign, _ = word.partition("=")
        assert variable in (VARIABLES if sign else VERBS | {"help"}), f"make has no {word}"


def check_compose(arguments: list[str]) -> None:
    assert arguments[0] == "compose", arguments
    words = [word for word in arguments[2:] if not word.startswith("-")]
    if arguments[1] in {"exec", "run"}:
        assert words[0] in SERVICES, arguments
        check(arguments[arguments.index(words[0]) + 1 :])
    else:
        assert arguments[1] in {"up", "down", "logs", "ps", "pull", "build", "restart", "stop"}, arguments
        assert set(words) <= SERVICES, arguments


@pytest.mark.parametrize("page", PAGES)
def test_every_command_named_in_a_sentence_exists(page: str) -> None:
    for code in inline(page):
        words = code.split()
        if words[0] == "make" and len(words) > 1:
            check_make([word for word in words[1:] if "…" not in word])
        if words[0] == "ingest" and len(words) > 1 and "…" not in words[1]:
            assert words[1] in COMMANDS, code
            known = {
                name for option in COMMANDS[words[1]].params for name in option.opts + option.secondary_opts
            }
            assert {word for word in words if word.startswith("-") and word != "-"} <= known | {"--help"}, (
                code
            )


@pytest.mark.parametrize("page", PAGES)
def test_every_file_named_in_a_sentence_exists(page: str) -> None:
    tops = {path.name for path in ROOT.iterdir() if not path.name.startswith(".")} | {".ci"}
    for code in inline(page):
        looks_like_one = re.fullmatch(r"[\w./-]+", code) and "/" in code and code.partition("/")[0] in tops
        if looks_like_one and not code.startswith("benchmarks/out/"):
            assert (ROOT / code).exists(), f"{page} names {code}"


@pytest.mark.parametrize("page", PAGES)
def test_every_setting_named_exists(page: str) -> None:
    named = {code.partition("=")[0] for code in inline(page) if re.match(r"[A-Z]+_[A-Z_]+(=|$)", code)}
    assert named - NAMES == set()


def anchors(text: str) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", BLOCK.sub("", text), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES)
def test_every_link_leads_somewhere(page: str) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        found = (ROOT / page).parent / path if path else ROOT / page
        assert found.exists(), f"{page} links to {target}"
        if anchor:
            assert anchor in anchors(found.read_text()), f"{page} links to {target}"


@pytest.mark.parametrize("page", PAGES)
def test_every_python_example_fits_the_api(page: str) -> None:
    for body in blocks(page, "python"):
        names: dict[str, Any] = {}
        for node in ast.walk(ast.parse(body)):
            if isinstance(node, ast.ImportFrom) and str(node.module).startswith("worker"):
                module = import_module(str(node.module))
                names |= {alias.name: getattr(module, alias.name) for alias in node.names}
        for node in ast.walk(ast.parse(body)):
            if isinstance(node, ast.Call):
                check_call(node, names)


def check_call(call: ast.Call, names: dict[str, Any]) -> None:
    match call.func:
        case ast.Name(id=name) if name in names:
            called = names[name]
        case ast.Attribute(value=ast.Name(id=name), attr=attribute) if name in names:
            called = getattr(names[name], attribute)
        case _:
            return
    keywords = {keyword.arg: None for keyword in call.keywords if keyword.arg}
    inspect.signature(called).bind(*call.args, **keywords)
    if called is search:
        assert keywords.keys() <= Query.model_fields.keys(), ast.unparse(call)


def test_what_ci_runs_is_what_the_readme_says() -> None:
    script = (ROOT / ".ci/run").read_text()
    assert subprocess.run(["bash", "-n"], input=script, text=True, check=False).returncode == 0
    verbs = "make --jobs=2 --output-sync lint types audit alerts"
    assert {verbs, "make test COVERAGE="} <= set(script.splitlines())
