"""The process that reads a Parquet file for `ingest load`: a file that unfolds without end, ends it alone.

A page, a dictionary, a run of one value unfold to any size, whatever the file says of it. So this process is
held to memory and processor time, and gives rows away in parts of bounded size. It reads standard input and
writes a stream of Arrow to standard output; why it ended goes to standard error, as JSON: [what, what to do].
"""

import json
import resource
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any, BinaryIO, NamedTuple

from worker.bounds import data_bytes
from worker.cli.records import unreadable
from worker.errors import SourceError

NEEDED = ("source_path", "text", "vector")
OPTIONAL = ("heading_path", "metadata", "document_metadata")
ROWS = b"rows"  # how many there are, in the metadata of the stream
_ROWS_A_PART = 512
_PART_BYTES = 16 << 20
_BUFFER_BYTES = 1 << 20
_OBJECTS = ("metadata", "document_metadata")


class Bounds(NamedTuple):
    """What reading may take: bytes beyond what the process has, seconds of its processor time a document."""

    name: str
    document_bytes: int
    memory_bytes: int
    seconds: int


def main() -> None:
    """Read the file; ends the process."""
    from pyarrow import ArrowException, ipc, parquet  # noqa: F401 -- all of it, before memory is counted

    bounds = Bounds(**json.loads(sys.argv[1]))
    said: SourceError | None = None
    _hold(bounds)
    try:
        _send(sys.stdin.buffer, sys.stdout.buffer, bounds)
    except SourceError as error:
        said = error
    except MemoryError:
        said = SourceError(
            f"{bounds.name} unfolds to more than MAX_DOCUMENT_MEMORY_BYTES, {bounds.memory_bytes:,}",
            "write it with smaller rows and pages, or raise the setting",
        )
    except (ArrowException, OSError) as error:
        reason = getattr(error, "strerror", None) or str(error).partition("\n")[0]
        said = SourceError(f"{bounds.name} cannot be read: {reason}", "check it, then load it again")
    if said:
        sys.stderr.write(f"\n{json.dumps([said.message, said.hint])}")
        sys.exit(said.exit_code)


def _hold(bounds: Bounds) -> None:
    signal.setitimer(signal.ITIMER_PROF, bounds.seconds)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    used = data_bytes()
    if used is not None:
        before = [
            limit for limit in resource.getrlimit(resource.RLIMIT_DATA) if limit != resource.RLIM_INFINITY
        ]
        most = min([used + bounds.memory_bytes, *before])
        resource.setrlimit(resource.RLIMIT_DATA, (most, most))


def _send(file: BinaryIO, out: BinaryIO, bounds: Bounds) -> None:
    import pyarrow as pa
    from pyarrow import ipc

    whole = _open(file, bounds.name)
    _check_columns(whole.schema_arrow, bounds.name)
    fields = [
        field.with_type(pa.string() if field.name in _OBJECTS else _plain(field.type))
        for field in whole.schema_arrow
        if field.name in {*NEEDED, *OPTIONAL}
    ]
    schema = pa.schema(fields, {ROWS: str(whole.metadata.num_rows)})
    with ipc.new_stream(out, schema) as stream:
        out.flush()
        for part in _parts(whole, schema, bounds):
            stream.write_batch(part)
            out.flush()


def _parts(whole: Any, schema: Any, bounds: Bounds) -> Iterator[Any]:
    """Give all rows, those of a document within its time: SIGPROF ends the process."""
    from pyarrow import record_batch

    most = max(bounds.document_bytes, _PART_BYTES)
    read, last = 0, None
    for batch in whole.iter_batches(batch_size=_ROWS_A_PART, columns=schema.names, use_threads=False):
        try:
            columns = [_column(batch.column(field.name), field) for field in schema]
        except (ValueError, TypeError, OverflowError, ImportError) as error:  # not UTF-8, no Python time
            raise unreadable(f"{bounds.name}, behind row {read:,},", error) from None
        for part in _parted(record_batch(columns, schema=schema)):
            if part.nbytes > most:
                raise SourceError(
                    f"{bounds.name}, row {read + 1:,}, has {part.nbytes:,} bytes; "
                    f"MAX_DOCUMENT_BYTES allows {bounds.document_bytes:,}",
                    "write it without this row, or raise the setting",
                )
            yield part
            read += part.num_rows
            paths = part.column("source_path")
            if not last == paths[0].as_py() == paths[-1].as_py():
                signal.setitimer(signal.ITIMER_PROF, bounds.seconds)
            last = paths[-1].as_py()


def _column(values: Any, field: Any) -> Any:
    """Give a column in the type it is sent in. Objects are unfolded here, and sent as JSON.

    In Arrow a million of them may be a few bytes, which nobody could bound who is sent them so.
    """
    from pyarrow import array

    if field.name not in _OBJECTS or _is_text(values.type):
        return values.cast(field.type)
    return array([None if value is None else _json(value) for value in values.to_pylist()], field.type)


def _json(value: Any) -> str:
    # a map: its pairs
    pairs = isinstance(value, list) and all(
        isinstance(item, tuple) and isinstance(item[0], str) for item in value
    )
    try:
        return json.dumps(dict(value) if pairs else value)
    except (TypeError, ValueError, RecursionError):  # a time, bytes: its document fails of what is no object
        return f"{type(value).__name__} that is no JSON"


def _is_text(kind: Any) -> bool:
    from pyarrow import types

    kind = _plain(kind)
    return bool(types.is_string(kind) or types.is_large_string(kind))


def _parted(batch: Any) -> Iterator[Any]:
    if batch.num_rows > 1 and batch.nbytes > _PART_BYTES:
        half = batch.num_rows // 2
        yield from _parted(batch.slice(0, half))
        yield from _parted(batch.slice(half))
    elif batch.num_rows:
        yield batch


def _plain(kind: Any) -> Any:
    """Give the type of the values themselves: of a dictionary or of views, each part has all of it."""
    from pyarrow import large_string, types

    if types.is_dictionary(kind):
        return _plain(kind.value_type)
    return large_string() if types.is_string_view(kind) else kind


def _open(file: BinaryIO, name: str) -> Any:
    from pyarrow import ArrowException
    from pyarrow.parquet import ParquetFile

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

    def items(kind: Any) -> Any:
        listed = types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind)
        return kind.value_type if listed else None

    def number(kind: Any) -> bool:
        return kind is not None and bool(types.is_floating(kind) or types.is_integer(kind))

    return {
        "source_path": ("text", _is_text),
        "text": ("text", _is_text),
        "vector": ("a list of numbers", lambda kind: number(items(kind))),
        "heading_path": (
            "a list of text",
            lambda kind: items(kind) is not None and (_is_text(items(kind)) or types.is_null(items(kind))),
        ),
    }


if __name__ == "__main__":
    main()
