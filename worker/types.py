"""Records and names that every part agrees on. No I/O, no dependency beyond the standard library."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, NamedTuple
from uuid import UUID


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


class Queue(StrEnum):
    """Broker queues. A typo cannot make a silent one."""

    INGEST = "ingest"
    INTERACTIVE = "interactive"
    SEARCH = "search"
    MAINTENANCE = "maintenance"


class TaskName(StrEnum):
    """Celery task names, as Flower shows them."""

    INGEST_BATCH = "ingest.batch"
    SEARCH_QUERY = "search.query"
    DISPATCH = "maintain.dispatch"
    RESCUE = "maintain.rescue"
    VACUUM = "maintain.vacuum"
    INDEXES = "maintain.indexes"
    SPARES = "maintain.spares"
    SEAL = "maintain.seal"
    COMPACT = "maintain.compact"
    PURGE = "maintain.purge"


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
class GivenChunk:
    """A chunk the producer made; `vector` has EMBEDDING_DIMENSION numbers, or is None to be embedded."""

    text: str
    vector: Sequence[float] | None = None
    heading_path: tuple[str, ...] = ()
    metadata: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Hit:
    """One search result. `score` is the cosine similarity, `distance` = 1 - score, exact at full precision.

    `number` of `total` and the character span [start, end) locate the chunk in its document.
    """

    score: float
    distance: float
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
