"""The layers of worker/, read from its imports: they point down only, and I/O stays in its place."""

import ast
import re
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[2]
FILES = sorted((ROOT / "worker").rglob("*.py"))

# From the top down. The first part of a module's name below `worker` tells its layer; "" is worker itself.
LAYERS = [
    (
        "entry",
        (
            "app tasks timetable lifecycle pool transport envelope producer naming submitting operating"
            " rating loading load_slice document cli stack"
        ),
    ),
    (
        "services",
        (
            "ingest bounds encoding writing outcomes dispatch searching lease patience provider buffer"
            " termstore sources resources broker backpressure maintenance monitoring counting"
        ),
    ),
    ("adapters", "db embedding embedded"),
    ("pure", "steps queries answers"),
    (
        "ground",
        (
            "types errors urls envfile settings scheduling retention endpoint allowlist jsononly filtering"
            " logs metrics metricfiles"
        ),
    ),
]
LAYER_OF = {part: depth for depth, (_, parts) in enumerate(LAYERS) for part in parts.split()} | {"": 0}

UPWARD = {
    ("worker.dispatch", "worker.app"): "publishing needs the Celery application; imported when it does",
}

# What steps may import beside worker, the standard library's pure part, and each other.
PURE = {
    "bisect", "codecs", "collections", "dataclasses", "enum", "functools", "hashlib", "html", "itertools",
    "json", "logging", "math", "operator", "re", "statistics", "string", "struct", "types", "typing",
    "unicodedata", "uuid", "zlib",
    "Stemmer", "charset_normalizer", "numpy", "pathlib",
}  # fmt: skip

# sqlalchemy outside db/: (names, why).
ERRORS = {"DBAPIError", "SQLAlchemyError"}
SQLALCHEMY = {
    "worker.cli": (ERRORS, "an error that reaches main() becomes one line"),
    "worker.backpressure": ({"Connection"}, "type of what it hands to db/"),
    "worker.cli.watching": (ERRORS | {"Connection"}, "a view that goes on while the database is away"),
    "worker.dispatch": (ERRORS | {"Connection"}, "what fails here, beat does"),
    "worker.encoding": ({"Connection"}, "type of what it hands to db/"),
    "worker.ingest": (ERRORS, "database trouble is the batch's, not a document's"),
    "worker.lease": (ERRORS | {"Engine"}, "a beat that fails is tried again"),
    "worker.lifecycle": (ERRORS, "a heartbeat that fails must not end the worker"),
    "worker.load_slice": (ERRORS | {"Connection"}, "one write, then each document alone"),
    "worker.naming": ({"Connection"}, "type of what it hands to db/"),
    "worker.operating": ({"Connection"}, "type of what it hands to db/"),
    "worker.producer": ({"Connection"}, "type of what it hands to db/"),
    "worker.rating": ({"Connection"}, "type of what it hands to db/"),
    "worker.resources": (ERRORS | {"Connection", "Engine"}, "owns the engines; retries what passes"),
    "worker.searching.snapshot": ({"Connection"}, "type of what it hands to db/"),
    "worker.searching.stages": (ERRORS | {"Connection"}, "a late stage is dropped"),
    "worker.searching.evaluation": ({"Connection"}, "type of what it hands to db/"),
    "worker.submitting": ({"Connection"}, "type of what it hands to db/"),
    "worker.tasks": (ERRORS, "maps errors to Celery's retry"),
    "worker.writing": (ERRORS | {"Connection"}, "one write, then each document alone"),
    "worker.maintenance.turn": ({"Connection"}, "type of a chore's argument"),
    "worker.maintenance.backfill": ({"Connection"}, "type of what it hands to db/"),
    "worker.maintenance.cases": (
        ERRORS | {"Connection"},
        "a refused repair stops no other",
    ),
    "worker.maintenance.compact": ({"Connection"}, "type of a chore's argument"),
    "worker.maintenance.comparing": ({"Connection"}, "type of what it hands to db/"),
    "worker.maintenance.recall": (ERRORS, "a repair that is refused is told beside what was measured"),
    "worker.maintenance.rescue": ({"Connection", "Row"}, "types of a chore's argument and of what it moved"),
    "worker.maintenance.seal": (ERRORS | {"Connection"}, "one leaf's failure keeps no other from its index"),
    "worker.maintenance.indexes": (ERRORS, "rows that a unique index forbids are named"),
    "worker.maintenance.leeway": (ERRORS | {"Connection"}, "a lock or room that is not to be had is named"),
    # Suspicious: these hold SQL, which docs/architecture.md gives to db/ alone.
    "worker.maintenance.purge": ({"Connection"}, "type of a chore's argument"),
    "worker.maintenance.run": (ERRORS | {"Connection", "text"}, "takes the chore's lock"),
    "worker.maintenance.spares": ({"Connection", "text"}, "forgets lost spares, numbers new ones"),
    "worker.monitoring.health": ({"Connection"}, "type of what it hands to db/"),
    "worker.patience": (ERRORS | {"Connection", "Engine"}, "tries again, or leaves a busy moment be"),
}
CELERY = {"app", "tasks", "timetable", "lifecycle", "pool", "transport", "producer", "dispatch", "cli"}
REDIS = {"broker", "dispatch", "producer", "tasks", "transport", "cli", "embedded", "monitoring"}

# Modules that may be longer, and why.
LONG = {"worker/db/models.py": "declarations: one function a table, nothing to follow"}
LONGEST = 320


class Import(NamedTuple):
    """One imported name. `late`: inside a function, so not at import time."""

    module: str
    name: str
    late: bool


def module_of(file: Path) -> str:
    parts = file.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@cache
def tree_of(file: Path) -> ast.Module:
    return ast.parse(file.read_text())


MODULES = {module_of(file): file for file in FILES}


@cache
def imports(module: str) -> Sequence[Import]:
    return list(_imports(module))


def _imports(module: str) -> Iterator[Import]:
    tree = tree_of(MODULES[module])
    late = {
        id(inner)
        for function in ast.walk(tree)
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef)
        for inner in ast.walk(function)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(alias.name, "", id(node) in late)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}: relative import"
            for alias in node.names:
                assert node.module
                inner = f"{node.module}.{alias.name}"
                yield Import(inner if inner in MODULES else node.module, alias.name, id(node) in late)


def inside(module: str) -> Iterator[Import]:
    return (found for found in imports(module) if found.module in MODULES)


def part_of(module: str) -> str:
    return module.partition(".")[2].partition(".")[0]


def users_of(library: str) -> dict[str, set[str]]:
    """Which modules import a library, and which names of it."""
    return {
        module: names
        for module in MODULES
        if (
            names := {
                found.name or found.module
                for found in imports(module)
                if found.module.partition(".")[0] == library
            }
        )
    }


def test_every_module_has_a_layer() -> None:
    assert {part_of(module) for module in MODULES} == set(LAYER_OF)


def test_the_page_has_every_module_in_its_layer() -> None:
    page = (ROOT / "docs/architecture.md").read_text()
    for depth, name in enumerate(("entry", "services", "adapters", "steps", "ground")):
        row = re.search(rf"^\| {name} \| (.+?) \|", page, re.MULTILINE)
        assert row is not None
        parts = set(re.findall(r"`worker/(\w+)", row[1]))
        assert parts == {part for part, layer in LAYER_OF.items() if layer == depth and part}, name


def test_imports_point_down_only() -> None:
    upward = {
        (module, found.module)
        for module in MODULES
        for found in inside(module)
        if LAYER_OF[part_of(found.module)] < LAYER_OF[part_of(module)]
    }
    assert upward == set(UPWARD)


def test_only_late_imports_may_point_up() -> None:
    assert all(found.late for module, up in UPWARD for found in inside(module) if found.module == up)


def test_adapters_do_not_know_each_other() -> None:
    adapters = LAYERS[2][1].split()
    crossing = {
        (module, found.module)
        for module in MODULES
        for found in inside(module)
        if part_of(module) in adapters and part_of(found.module) in adapters
        if part_of(module) != part_of(found.module)
    }
    assert not crossing


def test_no_cycle_at_import_time() -> None:
    graph = {
        module: {found.module for found in inside(module) if not found.late and found.module != module}
        for module in MODULES
    }
    while leaves := {module for module, needs in graph.items() if not needs & graph.keys()}:
        graph = {module: needs for module, needs in graph.items() if module not in leaves}
    assert not graph, "each of these is in a circle, or imports one that is"


def test_steps_do_no_io() -> None:
    for module, file in MODULES.items():
        if part_of(module) == "steps":
            foreign = {found.module for found in imports(module) if found.module not in MODULES}
            assert {name.partition(".")[0] for name in foreign} <= PURE, module
            calls = {node.id for node in ast.walk(tree_of(file)) if isinstance(node, ast.Name)}
            assert not calls & {"open", "print", "input", "exec", "eval"}, module


def test_paths_are_only_names_in_steps() -> None:
    for module in MODULES:
        if part_of(module) == "steps":
            names = {found.name for found in imports(module) if found.module == "pathlib"}
            assert names <= {"PurePath", "PurePosixPath"}, module


def test_sqlalchemy_stays_in_db() -> None:
    users = {module: names for module, names in users_of("sqlalchemy").items() if part_of(module) != "db"}
    assert set(users) == set(SQLALCHEMY)
    allowed = {module: names for module, (names, _) in SQLALCHEMY.items()}
    assert {
        module: names - allowed[module] for module, names in users.items() if names - allowed[module]
    } == {}


@pytest.mark.parametrize(
    ("library", "parts"),
    [
        ("celery", CELERY),
        ("kombu", CELERY),
        ("redis", REDIS),
        ("psycopg2", {"db", "embedded", "urls"}),
        ("alembic", {"db"}),
        ("fsspec", {"sources"}),
        ("cronsim", {"scheduling"}),
        ("pydantic_settings", {"settings", "scheduling", "retention", "endpoint", "allowlist"}),
        ("prometheus_client", {"metrics", "metricfiles", "monitoring"}),
        ("dotenv", {"envfile"}),
        ("wordllama", {"embedding"}),
        ("Stemmer", {"steps"}),
        ("typer", {"cli"}),
        ("rich", {"cli"}),
        ("structlog", {"logs"}),
        ("subprocess", {"cli", "embedded", "stack"}),
    ],
)
def test_library_stays_in_its_place(library: str, parts: set[str]) -> None:
    assert {part_of(module) for module in users_of(library)} <= parts


def test_only_settings_read_the_environment() -> None:
    readers = {
        module
        for module, file in MODULES.items()
        for node in ast.walk(tree_of(file))
        if (isinstance(node, ast.Attribute) and node.attr in {"environ", "environb", "getenv", "putenv"})
        or (isinstance(node, ast.alias) and node.name in {"environ", "environb", "getenv", "putenv"})
    }
    assert readers == {"worker.settings"}


def test_no_module_is_named_after_nothing() -> None:
    vague = {"utils", "util", "helpers", "helper", "common", "manager", "managers", "misc", "base", "celery"}
    assert not [file for file in FILES if file.stem in vague or file.parent.name in vague]


def test_alembic_folder_does_not_shadow_the_library() -> None:
    assert (ROOT / "alembic" / "env.py").exists()
    assert not (ROOT / "alembic" / "__init__.py").exists()


@pytest.mark.parametrize("file", [str(file.relative_to(ROOT)) for file in FILES])
def test_file_can_be_read_at_a_sitting(file: str) -> None:
    lines = (ROOT / file).read_text().count("\n")
    assert (lines > LONGEST) == (file in LONG), f"{lines} lines"


@pytest.mark.parametrize("file", [str(file.relative_to(ROOT)) for file in FILES])
def test_file_says_what_belongs_in_it(file: str) -> None:
    assert ast.get_docstring(tree_of(ROOT / file)) or not (ROOT / file).read_text().strip()
