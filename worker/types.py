"""Records and names that every part agrees on. No I/O, no dependency beyond the standard library."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, NamedTuple
from uuid import UUID

# Whose word endings the keyword index knows (Snowball 3.1); "none" leaves words as they are.
LANGUAGES = frozenset({
    "arabic", "armenian", "basque", "catalan", "czech", "danish", "dutch", "english", "esperanto", "estonian",
    "finnish", "french", "german", "greek", "hindi", "hungarian", "indonesian", "irish", "italian",
    "lithuanian", "nepali", "none", "norwegian", "persian", "polish", "portuguese", "romanian", "russian",
    "serbian", "sesotho", "spanish", "swedish", "tamil", "turkish", "yiddish",
})  # fmt: skip
# What a receipt names one by one is bounded: the documents themselves carry their reasons.
MOST_REASONS = 100


class Status(StrEnum):
    """`documents.status`. docs/architecture.md draws the transitions."""

    PENDING = "pending"
    PROCESSING = "processing"
    COMPLETED = "completed"
    DUPLICATE = "duplicate"
    SKIPPED = "skipped"
    FAILED = "failed"
    CANCELLED = "cancelled"


SETTLED = frozenset({Status.COMPLETED, Status.DUPLICATE, Status.SKIPPED, Status.FAILED, Status.CANCELLED})


class Lane(StrEnum):
    """How urgent a document is: a person waits for `interactive`, nobody for `bulk`."""

    INTERACTIVE = "interactive"
    BULK = "bulk"


class LogFormat(StrEnum):
    """How records are written."""

    CONSOLE = "console"
    JSON = "json"


class Queue(StrEnum):
    """Broker queues. A typo cannot make a silent one."""

    INGEST = "ingest"
    INTERACTIVE = "interactive"
    SEARCH = "search"
    MAINTENANCE = "maintenance"


QUEUE_OF = {Lane.INTERACTIVE: Queue.INTERACTIVE, Lane.BULK: Queue.INGEST}


class TaskName(StrEnum):
    """Celery task names, as Flower shows them."""

    INGEST_BATCH = "ingest.batch"
    SEARCH_QUERY = "search.query"
    DISPATCH = "maintain.dispatch"
    RESCUE = "maintain.rescue"
    VACUUM = "maintain.vacuum"
    INDEXES = "maintain.indexes"
    REINDEX = "maintain.reindex"
    SPARES = "maintain.spares"
    SEAL = "maintain.seal"
    COMPACT = "maintain.compact"
    RECALL = "maintain.recall"
    PURGE = "maintain.purge"
    BACKFILL = "maintain.backfill"
    RECONCILE = "maintain.reconcile"

    @property
    def chore(self) -> str | None:
        """The chore it runs; None for a task that is none."""
        kind, _, name = self.value.partition(".")
        return name if kind == "maintain" else None


class SegmentState(StrEnum):
    """`segments.state`. docs/architecture.md draws the transitions."""

    SPARE = "spare"
    OPEN = "open"
    SEALING = "sealing"
    SEALED = "sealed"
    MERGING = "merging"
    EMPTIED = "emptied"
    TRASH = "trash"


class FileType(StrEnum):
    """How a document's text is split. `chunks`: the producer split and perhaps embedded it."""

    MARKDOWN = "markdown"
    CODE = "code"
    TEXT = "text"
    CHUNKS = "chunks"


class EmbeddingType(StrEnum):
    """The pgvector column type of `chunks.embedding`."""

    VECTOR = "vector"
    HALFVEC = "halfvec"


class Metric(StrEnum):
    """How far apart two vectors are."""

    COSINE = "cosine"
    L2 = "l2"
    INNER_PRODUCT = "inner_product"


class Span(NamedTuple):
    """One piece of a text: characters [start, end) and the headings it stands under, outermost first.

    `text` is what is embedded and shown. It is `source[start - overlap : end]`, except for runs of
    whitespace longer than a chunk, which are covered by the span and left out of the text.
    """

    text: str
    start: int
    end: int
    heading_path: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Decoded:
    """Text that PostgreSQL can store, and what was done to get it.

    `cleaned` counts what was replaced or removed, by kind: "nul", "surrogate", "invalid".
    """

    text: str
    encoding: str
    cleaned: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Limits:
    """What one document may have at most: characters of text, chunks, characters of a chunk it was given."""

    characters: int
    chunks: int
    chunk_characters: int


@dataclass(frozen=True, slots=True)
class GivenChunk:
    """A chunk the producer made; `vector` has EMBEDDING_DIMENSION numbers, or is None to be embedded.

    An array of NumPy is a vector, too, and the fastest.
    """

    text: str
    vector: Sequence[float] | None = None
    heading_path: tuple[str, ...] = ()
    metadata: Mapping[str, Any] = field(default_factory=dict)

    @property
    def size_bytes(self) -> int:
        """What it takes, about: its texts in UTF-8, its vector in single precision, its metadata as text."""
        vector = 0 if self.vector is None else 4 * len(self.vector)
        texts = sum(len(text.encode("utf-8", "surrogatepass")) for text in (self.text, *self.heading_path))
        return texts + vector + _text_bytes(self.metadata)


@dataclass(frozen=True, slots=True)
class GivenDocument:
    """A document whose chunks all come with vectors, to be loaded. Its chunks replace those it had.

    `language` is as in Document.
    """

    source_path: str
    chunks: Sequence[GivenChunk]
    metadata: Mapping[str, Any] = field(default_factory=dict)
    language: str | None = None

    @property
    def size_bytes(self) -> int:
        """What it takes, about: its chunks, and its metadata as text."""
        return _text_bytes(self.metadata) + sum(chunk.size_bytes for chunk in self.chunks)


def _text_bytes(metadata: Mapping[str, Any]) -> int:
    return len(str(metadata)) if metadata else 0


@dataclass(frozen=True, slots=True)
class Loaded:
    """What a load came to, in documents. `chunks`: those of the completed ones.

    `reasons` names (source_path, why) of the skipped, failed and refused ones, the first hundred. A failed
    document is recorded with its reason, a refused one is not: it has no name that can be recorded, comes
    twice, or was changed by another since the load began. `trace` is that of the documents' rows.
    """

    completed: int = 0
    duplicate: int = 0
    unchanged: int = 0
    skipped: int = 0
    failed: int = 0
    refused: int = 0
    chunks: int = 0
    reasons: tuple[tuple[str, str], ...] = ()
    trace: str = field(default="", compare=False)

    def __add__(self, other: "Loaded") -> "Loaded":
        """Sum up what two slices came to."""
        return Loaded(
            self.completed + other.completed,
            self.duplicate + other.duplicate,
            self.unchanged + other.unchanged,
            self.skipped + other.skipped,
            self.failed + other.failed,
            self.refused + other.refused,
            self.chunks + other.chunks,
            (self.reasons + other.reasons)[:MOST_REASONS],
            self.trace or other.trace,
        )


@dataclass(frozen=True, slots=True)
class Hit:
    """One search result: a chunk, and where it stands.

    `score` ranks: of a similarity search the similarity, of a keyword search BM25, of a hybrid one both
    fused; `scores` has each part's own. `distance` is exact, in the metric of the answer, None where it was
    not found by its vector. The chunk is `number` of `total` and covers the characters [start, end) of its
    document.
    `highlights` are spans of the `snippet`. `before` and `after`: the texts of its neighbours, in order.
    """

    score: float
    scores: Mapping[str, float]
    distance: float | None
    chunk_id: UUID
    document_id: UUID
    filename: str
    source_path: str
    number: int
    total: int
    start: int
    end: int
    heading_path: tuple[str, ...]
    text: str
    snippet: str
    highlights: tuple[tuple[int, int], ...]
    metadata: Mapping[str, Any]
    chunk_metadata: Mapping[str, Any]
    before: tuple[str, ...] = ()
    after: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Answer:
    """What a search came to: hits, best first.

    `dropped` names the stages that were late or failed and are not in it; `notes` says what else there is to
    know: that it was answered exactly, which words were left out, why nothing was found. `latency_ms` is by
    stage. `run_id`: the record of it, where one was asked for. `explanation`: plan and candidates, likewise.
    """

    hits: tuple[Hit, ...] = ()
    mode: str = "hybrid"
    metric: str = "cosine"
    dropped: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    latency_ms: Mapping[str, float] = field(default_factory=dict)
    run_id: UUID | None = None
    explanation: Mapping[str, Any] | None = None
