"""Documents of a Parquet file: a row a chunk, the chunks of a document one after the other.

Columns: source_path, text, vector (a list of numbers); where present: heading_path (a list of strings),
metadata and document_metadata (an object as JSON text, a struct or a map).
"""

import json
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from tempfile import TemporaryFile
from typing import Any, BinaryIO

import numpy as np

from worker.cli import parquetrows
from worker.cli.records import Bad, unreadable
from worker.errors import IngestError, SourceError
from worker.settings import Settings, child_environment
from worker.types import GivenChunk, GivenDocument


class Parquet:
    """A Parquet file as a stream of documents; only a few hundred rows and one document are in memory."""

    def __init__(self, rows: "_Rows", name: str, settings: Settings, bad: Bad) -> None:
        self._rows, self._name, self._settings, self._bad = rows, name, settings, bad
        self._read = 0

    @property
    def share(self) -> float:
        """How much was read, as far as the file says how much there is."""
        return min(self._read / self._rows.number, 1.0) if self._rows.number else 1.0

    def __iter__(self) -> Iterator[GivenDocument]:
        document: _Growing | None = None
        for row, vector in self._pairs():
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

    def _pairs(self) -> Iterator[tuple[Mapping[str, Any], Any]]:
        """Give rows, without their vector, and their vectors as arrays."""
        for part in self._rows:
            vectors = part.column("vector")
            try:
                rows = part.drop_columns(["vector"]).to_pylist()
            except ValueError as error:  # not UTF-8
                behind = f"{self._name}, behind row {self._read:,},"
                raise unreadable(behind, error) from None
            yield from zip(rows, (_array(scalar) for scalar in vectors), strict=True)


@contextmanager
def reading(file: BinaryIO, name: str, settings: Settings, bad: Bad) -> Iterator[Parquet]:
    """Have a process of its own read a file, within MAX_DOCUMENT_MEMORY_BYTES and MAX_DOCUMENT_SECONDS.

    Raises SourceError for what cannot be read, or takes more.
    """
    _require_pyarrow(name)
    bounds = {
        "name": name,
        "document_bytes": settings.max_document_bytes,
        "memory_bytes": settings.max_document_memory_bytes,
        "seconds": settings.max_document_seconds,
    }
    with ExitStack() as stack:
        try:
            said = stack.enter_context(TemporaryFile())
            process = stack.enter_context(_started(json.dumps(bounds), file, said))
        except OSError as error:
            raise SourceError(
                f"{name} cannot be read: no process for it: {error.strerror}", "run it again"
            ) from None
        stack.callback(process.kill)
        yield Parquet(_Rows(process, said, name, settings), name, settings, bad)


def _started(bounds: str, file: BinaryIO, said: BinaryIO) -> "subprocess.Popen[bytes]":
    # -P: nothing of the folder it is started in is taken for a library
    return subprocess.Popen(
        [sys.executable, "-P", "-m", parquetrows.__name__, bounds],
        stdin=file,
        stdout=subprocess.PIPE,
        stderr=said,
        # the default one sets far more aside than it gives
        env=child_environment(ARROW_DEFAULT_MEMORY_POOL="system"),
    )


class _Rows:
    """What the process gives, a part at a time. `number`: how many rows the file says it has."""

    def __init__(
        self, process: subprocess.Popen[bytes], said: BinaryIO, name: str, settings: Settings
    ) -> None:
        from pyarrow import ArrowException, ipc

        self._process, self._said, self._name = process, said, name
        self._seconds = settings.max_document_seconds
        try:
            self._stream = ipc.open_stream(process.stdout)
        except (ArrowException, OSError):
            raise self._why() from None
        self.number = int(self._stream.schema.metadata[parquetrows.ROWS])

    def __iter__(self) -> Iterator[Any]:
        from pyarrow import ArrowException

        try:
            yield from self._stream
        except (ArrowException, OSError):
            raise self._why() from None
        if self._process.wait():  # a stream that is cut off between two parts seems to be at its end
            raise self._why()

    def _why(self) -> SourceError:
        if self._process.stdout:
            self._process.stdout.close()  # who still writes ends of that
        code = self._process.wait()
        if code == -signal.SIGPROF:
            return SourceError(
                f"{self._name} has a document that takes over MAX_DOCUMENT_SECONDS, {self._seconds:,} s of"
                " processor time, to read",
                "write it with fewer rows, or raise the setting",
            )
        self._said.seek(0)
        try:
            message, hint = json.loads(self._said.read().rpartition(b"\n")[2])
        except ValueError:
            ended = f"signal {-code}" if code < 0 else f"code {code}"
            return SourceError(
                f"{self._name} cannot be read: the process that reads it ended with {ended}",
                "check the file, or raise MAX_DOCUMENT_MEMORY_BYTES",
            )
        return SourceError(message, hint)


def _require_pyarrow(name: str) -> None:
    try:
        import pyarrow as pa  # noqa: F401 -- looked for, before a process is started that needs it
    except ImportError:
        raise IngestError(
            f"{name} is Parquet, which pyarrow reads", "install it: pip install 'ingest-worker[parquet]'"
        ) from None


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
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        return value
