"""Whether the chore `recall` says what questions find, and what its repairs are worth.

Passages of real text by the built-in model, in one sealed segment. The questions are passages that are stored
nowhere. Beside them the same graph is asked by stored vectors: as they are, with their own row left out, and
moved by shares of their length in a random direction. Then the rows nearest to the questions are deleted, the
leaf is vacuumed, and its graph built anew; and the chore meets a graph that somebody built badly.
"""

import random
import time
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Connection, text

from benchmarks import corpus
from benchmarks.ours import TENANT, UNBOUNDED, seal_everything
from benchmarks.report import Demand, Report, say
from benchmarks.stack import running_stack
from worker.db import builds, graphs, recall
from worker.db.engine import reading, single_connection_engine
from worker.db.submissions import ensure_scope
from worker.load_slice import SliceLoader
from worker.maintenance.comparing import Look
from worker.maintenance.probes import MOVED, Probe, moved
from worker.maintenance.run import run_chore
from worker.queries import read_query
from worker.resources import Resources
from worker.settings import Settings
from worker.steps.recall import Tally
from worker.types import GivenChunk, GivenDocument

NAME, ROWS, QUESTIONS, FEWEST, CHUNKS, SLICE = "recall", 12_000, 200, 5, 20, 100
MOST_BYTES, PASSAGE, SHORTEST = 15e6, 800, 100  # the last two in characters
EFS = (10, 40, 100)
GRAPHS = {"graph 16/64": (16, 64), "graph 4/8": (4, 8)}  # m and ef_construction
SHARES = (0.0, 0.3, 0.5, MOVED, 1.0)
HELD_OUT, COUNTED = "passages that are not stored", "stored vectors, own row counted"
GONE, BAD = 0.3, (2, 4)
NEAR, RECALL = 0.03, 0.95

Vectors = NDArray[np.float32]


class World(NamedTuple):
    """What is stored, and what is asked that is not."""

    resources: Resources
    connection: Connection
    stored: Vectors
    questions: Vectors


def run(scale: float) -> Report:
    rows = max(10 * CHUNKS, round(ROWS * scale) // CHUNKS * CHUNKS)
    questions = max(FEWEST, round(QUESTIONS * min(1, 10 * scale)))
    built = {"SEGMENT_ROWS": str(rows), "MAX_UNSEALED_ROWS": str(UNBOUNDED)}
    with running_stack(**built) as stack:
        report = Report(NAME, stack.versions(), stack.shown_settings())
        resources = Resources(stack.settings)
        passages = list(islice(_passages(), rows + questions))
        rows = (len(passages) - questions) // CHUNKS * CHUNKS
        vectors = np.array(resources.embedder.embed(passages), np.float32)
        engine = single_connection_engine(stack.settings.maintenance_url, "benchmark")
        with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            world = World(resources, connection, vectors[:rows], vectors[rows:][:questions])
            _load(world, passages)
            _ways(world, report)
            _deleted(world, report)
            _repaired(world, report)
        resources.close()
    report.figures |= {"passages": rows, "questions": questions}
    return report


def _passages() -> Iterator[str]:
    """Give passages in random order, each once."""
    found: dict[str, None] = {}
    for path in corpus.files(MOST_BYTES):
        said = path.read_text(errors="replace").replace("\0", "")
        found |= dict.fromkeys(said[start : start + PASSAGE] for start in range(0, len(said), PASSAGE))
    passages = [passage for passage in found if len(passage.strip()) >= SHORTEST]
    random.Random(1).shuffle(passages)
    yield from passages


def _load(world: World, passages: Sequence[str]) -> None:
    """Store them in one segment, each with its place before its text."""
    say("loading")
    scope = world.resources.transact(lambda connection: ensure_scope(connection, TENANT, None))
    loader = SliceLoader(world.resources, scope)
    chunks = [GivenChunk(f"{n} {passages[n]}", vector) for n, vector in enumerate(world.stored)]
    parts = [chunks[start : start + CHUNKS] for start in range(0, len(chunks), CHUNKS)]
    documents = [GivenDocument(str(number), part) for number, part in enumerate(parts)]
    for start in range(0, len(documents), SLICE):
        loader.load(documents[start : start + SLICE])
    seal_everything(world.resources)


def _ways(world: World, report: Report) -> None:
    """Ask each graph in every way; what the chore finds must be near to what questions find."""
    ways = {
        HELD_OUT: _questions(world),
        COUNTED: [probe._replace(own=None) for probe in _stored(world, 0.0)],
        **{f"stored vectors moved by {share:g}, own row left out": _stored(world, share) for share in SHARES},
    }
    found: dict[str, dict[str, float]] = {way: {} for way in ways}
    for name, (m, ef_construction) in GRAPHS.items():
        _build(world, m, ef_construction)
        for way, probes in ways.items():
            say(f"{name}: {way}")
            for ef, tally in _asked(world, probes).items():
                found[way][f"{name}, ef {ef}"] = tally.figures().recall or 0.0
    columns = list(found[HELD_OUT])
    rows = [(way, *(figures[column] for column in columns)) for way, figures in found.items()]
    report.table("recall@10 by what is asked for", ("asked for", *columns), rows)
    mine = found[f"stored vectors moved by {MOVED:g}, own row left out"]
    column = f"{next(iter(GRAPHS))}, ef {EFS[-1]}"
    off = abs(mine[column] - found[HELD_OUT][column])
    report.demands.append(
        Demand("how far the chore is from questions, as built by default", NEAR, off, at_most=True)
    )


def _questions(world: World) -> list[Probe]:
    return [Probe(read_query(vector=vector, tenant=TENANT)) for vector in world.questions]


def _stored(world: World, share: float) -> list[Probe]:
    [graph] = recall.graphs(world.connection)
    dice = np.random.default_rng(3)
    found = recall.stored(world.connection, graph.leaf, len(world.questions))
    return [moved(one, dice, share) for one in found]


def _build(world: World, m: int, ef_construction: int) -> None:
    [graph] = recall.graphs(world.connection)
    settings = _with(world, hnsw_m=m, hnsw_ef_construction=ef_construction)
    builds.complete(world.connection, graph.leaf, settings)


def _with(world: World, **changed: int) -> Settings:
    return world.resources.settings.model_copy(update=changed)


def _asked(world: World, probes: Sequence[Probe]) -> dict[int, Tally]:
    """Ask the graph alone, by each ef, as the chore does."""
    [graph] = recall.graphs(world.connection)
    tallies = {ef: Tally() for ef in EFS}
    for probe in probes:
        with reading(world.connection):
            nearest = Look(world.connection, probe, world.resources.settings).exact(graph.segment)
            for ef, tally in tallies.items():
                given, used = Look(world.connection, probe, _with(world, hnsw_ef_search=ef)).alone(graph)
                tally.add(given, nearest, used_index=used)
    return tallies


def _deleted(world: World, report: Report) -> None:
    """Delete the rows nearest to the questions, and see what VACUUM and a new graph do."""
    _build(world, *next(iter(GRAPHS.values())))
    [graph] = recall.graphs(world.connection)
    rows = [_row(world, "as built")]
    unit = world.stored / np.linalg.norm(world.stored, axis=1, keepdims=True)
    gone = np.argsort(-(world.questions @ unit.T).max(axis=0))[: round(GONE * len(unit))]
    world.connection.execute(
        text("DELETE FROM chunks WHERE split_part(text, ' ', 1)::int = ANY(:gone)"), {"gone": gone.tolist()}
    )
    rows.append(_row(world, f"the nearest {GONE:.0%} deleted"))
    begun = time.perf_counter()
    builds.vacuum(world.connection, graph.leaf)
    rows.append(_row(world, "vacuumed", time.perf_counter() - begun))
    begun = time.perf_counter()
    graphs.rebuild(world.connection, graph.leaf, world.resources.settings)
    rows.append(_row(world, "built anew", time.perf_counter() - begun))
    columns = ("state", *(f"recall, ef {ef}" for ef in EFS), "short answers", "took s", "index MB")
    report.table("after the nearest were deleted", columns, rows)
    short = sum(int(row[1 + len(EFS)]) for row in rows)
    report.demands.append(Demand("short answers", 0, short, at_most=True))


def _row(world: World, state: str, seconds: float = 0.0) -> tuple[str | float, ...]:
    say(state)
    found = _asked(world, _questions(world))
    [graph] = recall.graphs(world.connection)
    size = world.connection.execute(
        text("SELECT pg_relation_size(to_regclass(:name))"), {"name": builds.index_name(graph.leaf)}
    ).scalar_one()
    recalls = [tally.figures().recall or 0.0 for tally in found.values()]
    short = sum(tally.underfilled for tally in found.values())
    return (state, *recalls, short, round(seconds, 1), round(size / 1e6, 1))


def _repaired(world: World, report: Report) -> None:
    """Have the chore meet a graph that somebody built badly."""
    say("repair")
    _build(world, *BAD)
    begun = time.perf_counter()
    did = run_chore(world.resources, "recall")
    taken = round(time.perf_counter() - begun, 1)
    begun = time.perf_counter()
    again = run_chore(world.resources, "recall")
    columns = ("chore", "before", "after vacuum", "after", "rows compared", "took s")
    [segment] = again["segments"]
    repair = did.get("repair", {})
    rows = [
        ("meets a bad graph", *(repair.get(name) for name in ("before", "after_vacuum", "after")),
         did["rows_compared"], taken),
        ("runs once more", segment["recall"], "", segment["recall"], again["rows_compared"],
         round(time.perf_counter() - begun, 1)),
    ]  # fmt: skip
    report.table("the chore's own repair", columns, rows)
    report.demands.append(Demand("recall@10 after the repair", RECALL, segment["recall"] or 0.0))
