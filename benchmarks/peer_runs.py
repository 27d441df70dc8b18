"""Running the peers' adapters in their own environment, over our server; they hand back what they timed."""

import json
import os
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.adapters.job import Job
from benchmarks.ours import TENANT, Batches, empty_database
from benchmarks.ready import DOCUMENTS, document_texts
from benchmarks.report import BenchmarkError
from benchmarks.rounds import Watch
from benchmarks.stack import Stack

ROOT = Path(__file__).parents[1]
ENVIRONMENT = Path(os.environ.get("PEERS_VENV") or ROOT / ".venv-peers")
# Adapter modules and the names people know them by.
STORES: Mapping[str, str] = {
    "llamaindex": "LlamaIndex PGVectorStore",
    "langchain": "langchain-postgres PGVectorStore",
    "haystack": "Haystack PgvectorDocumentStore",
}
PACKAGES = (
    "llama-index-core",
    "llama-index-vector-stores-postgres",
    "langchain-postgres",
    "pgvector-haystack",
)
BATCH_ROWS = 2_048  # what LlamaIndex hands over at a time by default; the others do not mind


@dataclass(frozen=True, slots=True)
class Load:
    """What a store did: (rows, seconds) of each batch. `index_seconds`: of an index that was built last."""

    batches: Sequence[tuple[int, float]]
    index_seconds: float
    others: float

    @property
    def rows(self) -> int:
        """Give how many rows went in."""
        return sum(rows for rows, _ in self.batches)

    @property
    def rate(self) -> float:
        """Give rows a second, an index built last included."""
        return self.rows / (sum(seconds for _, seconds in self.batches) + self.index_seconds)


def installed() -> bool:
    """Tell whether the peers can be run here."""
    return (ENVIRONMENT / ".installed").exists()


def require_installed() -> None:
    """Refuse to go on without the peers. Raises BenchmarkError."""
    if not installed():
        raise BenchmarkError("the peers are not installed: run `make bench NAME=peers`, which installs them")


@cache
def versions() -> dict[str, str]:
    """Give the versions of the peers."""
    question = "import sys; from importlib.metadata import version; print(*map(version, sys.argv[1:]))"
    return dict(zip(PACKAGES, python("-c", question, *PACKAGES).split(), strict=True))


def shown_versions() -> str:
    """Name the peers' packages with their versions."""
    return ", ".join(f"{name} {version}" for name, version in versions().items())


class Rows:
    """Ready rows as files: the vectors our writer takes, with the same texts, document by document."""

    def __init__(self, folder: Path, name: str, batches: Batches, most: int) -> None:
        self.vectors, self.texts = folder / f"{name}.npy", folder / f"{name}.json"
        np.save(self.vectors, np.concatenate(batches)[:most])
        self.texts.write_text(json.dumps(_rows(name, len(batches))[:most]))


def _rows(name: str, batches: int) -> list[tuple[str, dict[str, Any]]]:
    return [
        (text, {"document_id": f"{name}-{batch}-{number}", "tenant": TENANT, "chunk_index": chunk})
        for batch in range(1, batches + 1)
        for number in range(DOCUMENTS)
        for chunk, text in enumerate(document_texts(name, batch, number))
    ]


def load(
    stack: Stack, peer: str, rows: Rows, *, seconds: float, halfvec: bool = False, index_last: bool = False
) -> Load:
    """Have a peer load rows into a new database of its own, with our HNSW settings."""
    settings = stack.settings
    with empty_database(stack, "peer") as url, Watch() as watch:
        job = Job(
            url, str(rows.vectors), str(rows.texts), BATCH_ROWS, seconds,
            settings.hnsw_m, settings.hnsw_ef_construction, halfvec=halfvec, index_last=index_last,
        )  # fmt: skip
        found = run(peer, asdict(job))
    batches = [(int(rows), float(seconds)) for rows, seconds in found["batches"]]
    return Load(batches, found["index_seconds"], watch.others)


def run(adapter: str, job: Mapping[str, Any]) -> dict[str, Any]:
    """Run an adapter; gives what it found."""
    found: dict[str, Any] = json.loads(python("-m", "benchmarks.adapters", adapter, handed=json.dumps(job)))
    return found


def python(*arguments: str, handed: str = "") -> str:
    """Run the peers' Python; gives the last line it prints. Raises RuntimeError with its last words."""
    ended = subprocess.run(
        [ENVIRONMENT / "bin" / "python", *arguments],
        input=handed, cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if ended.returncode:
        raise RuntimeError(f"{' '.join(arguments[:3])} failed:\n{ended.stderr[-3000:]}")
    return ended.stdout.strip().rpartition("\n")[2]
