"""Documents of a Parquet file: a row a chunk, the chunks of a document one after the other.

Columns: source_path, text, vector (a list of numbers); where present: heading_path (a list of strings),
metadata and document_metadata (an object as JSON text, a struct or a map).
"""

import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any, BinaryIO

import numpy as np

from worker.cli.records import Bad, unreadable
from worker.errors import IngestError, SourceError
from worker.settings import Settings
from worker.types import GivenChunk, GivenDocument

NEEDED = ("source_path", "text", "vector")
OPTIONAL = ("heading_path", "metadata", "document_metadata")
_ROWS_A_PART = 512
_BUFFER_BYTES = 1 << 20


class Parquet:
    """A Parquet file as a stream of documents; only a few hundred rows and one document are in memory."""

    def __init__(self, file: BinaryIO, name: str, settings: Settings, bad: Bad) -> None:
        self._name, self._settings, self._bad = name, settings, bad
        self._file = _open(file, name)
        self._columns = [*NEEDED, *(column for column in OPTIONAL if column in self._file.schema_arrow.names)]
        self._read = 0
        _check_columns(self._file.schema_arrow, name)

    @property
    def share(self) -> float:
        """How much was read."""
        return float(self._read / self._file.metadata.num_rows) if self._file.metadata.num_rows else 1.0

    def __iter__(self) -> Iterator[GivenDocument]:
        document: _Growing | None = None
        for row, vector in self._rows():
            self._read += 1
            path = row["source_path"]
            if path is None:
                self._bad(f"{self._name}, row {self._read:,}", "source_path is null")
                continue
            if document is None or document.path != path:
                if document:
                    yield document.given()
                document = _Growing(path, row, self._settings)
            document.take(row, vector)
        if document:
            yield document.given()

    def _rows(self) -> Iterator[tuple[Mapping[str, Any], Any]]:
        """Give rows, without their vector, and their vectors as arrays."""
        for part in self._parts():
            vectors = part.column("vector")
            try:
                rows = part.drop_columns(["vector"]).to_pylist()
            except (ValueError, TypeError, OverflowError, ImportError) as error:  # not UTF-8, no Python time
                behind = f"{self._name}, behind row {self._read:,},"
                raise unreadable(behind, error) from None
            yield from zip(rows, (_array(scalar) for scalar in vectors), strict=True)

    def _parts(self) -> Iterator[Any]:
        from pyarrow import ArrowException

        try:
            yield from self._file.iter_batches(batch_size=_ROWS_A_PART, columns=self._columns)
        except (ArrowException, OSError) as error:
            raise unreadable(self._name, error) from None


class _Growing:
    """A document whose rows are being read. What exceeds the limits is counted and dropped."""

    def __init__(self, path: str, row: Mapping[str, Any], settings: Settings) -> None:
        self.path = path
        self._metadata = _object(row.get("document_metadata"))
        self._most_chunks, self._most_bytes = settings.max_document_chunks, settings.max_document_bytes
        self._chunks: list[GivenChunk] = []
        self._bytes = 0

    def take(self, row: Mapping[str, Any], vector: Any) -> None:
        if len(self._chunks) > self._most_chunks or self._bytes > self._most_bytes:
            return  # refused already, by what is here
        headings = tuple(title for title in row.get("heading_path") or () if title is not None)
        chunk = GivenChunk(row["text"] or "", vector, headings, _object(row.get("metadata")))
        self._bytes += chunk.size_bytes
        self._chunks.append(chunk)

    def given(self) -> GivenDocument:
        return GivenDocument(self.path, self._chunks, self._metadata)


def _array(scalar: Any) -> Any:
    """Give a vector in single precision; None for a null, NaN for a null in it."""
    if not scalar.is_valid:
        return None
    with np.errstate(over="ignore"):
        return scalar.values.to_numpy(zero_copy_only=False).astype(np.float32)


def _object(value: Any) -> Any:
    """Give an object written as JSON, a struct or a map; what is none of them fails its document later."""
    if value is None:
        return {}
    if isinstance(value, list):
        # a map: its pairs
        pairs = all(isinstance(item, tuple) and isinstance(item[0], str) for item in value)
        return dict(value) if pairs else value
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        return value


def _open(file: BinaryIO, name: str) -> Any:
    try:
        from pyarrow import ArrowException
        from pyarrow.parquet import ParquetFile
    except ImportError:
        raise IngestError(
            f"{name} is Parquet, which pyarrow reads", "install it: pip install 'ingest-worker[parquet]'"
        ) from None
    try:
        # else pyarrow reads whole row groups ahead, of a million rows
        return ParquetFile(file, buffer_size=_BUFFER_BYTES, pre_buffer=False)
    except (ArrowException, OSError) as error:
        reason = str(error).partition("\n")[0]
        raise SourceError(f"{name} is no whole Parquet file: {reason}", "write it again") from None


def _check_columns(schema: Any, name: str) -> None:
    missing = [column for column in NEEDED if column not in schema.names]
    if missing:
        raise SourceError(
            f"{name} has no column {', '.join(missing)}", f"it has {', '.join(schema.names)}; rename them"
        )
    twice = [column for column in (*NEEDED, *OPTIONAL) if schema.names.count(column) > 1]
    if twice:
        raise SourceError(f"{name} has the column {twice[0]} twice", "write it with one")
    for column, (what, fits) in _fits().items():
        if column in schema.names and not fits(schema.field(column).type):
            raise SourceError(
                f"the column {column} of {name} is {schema.field(column).type}", f"it must be {what}"
            )


def _fits() -> Mapping[str, tuple[str, Callable[[Any], bool]]]:
    """Give what each column must be, in words and as a test of its Arrow type."""
    from pyarrow import types

    def texts(kind: Any) -> bool:
        if types.is_dictionary(kind):
            return texts(kind.value_type)
        return bool(types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind))

    def items(kind: Any) -> Any:
        listed = types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind)
        return kind.value_type if listed else None

    def number(kind: Any) -> bool:
        return kind is not None and bool(types.is_floating(kind) or types.is_integer(kind))

    return {
        "source_path": ("text", texts),
        "text": ("text", texts),
        "vector": ("a list of numbers", lambda kind: number(items(kind))),
        "heading_path": (
            "a list of text",
            lambda kind: items(kind) is not None and (texts(items(kind)) or types.is_null(items(kind))),
        ),
    }
