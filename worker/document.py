"""A document as a producer hands it over."""

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from worker import sources
from worker.db.submissions import Submission
from worker.errors import DocumentError, IngestError, SourceError
from worker.steps import given
from worker.steps.chunk import file_type_of
from worker.steps.languages import known_language
from worker.steps.storable import metadata_json, storable, to_clean
from worker.steps.traces import known_trace
from worker.types import FileType, GivenChunk, GivenDocument

# The years 0 to 9999. File systems keep others, by accident; PostgreSQL ends at 4713 BC and 294276.
_EARLIEST_US, _LATEST_US = -62_167_219_200_000_000, 253_402_300_799_999_999


@dataclass(frozen=True, slots=True)
class Document:
    """One document to submit. Make it with `path`, `text`, `uri` or `chunks`.

    `language`: whose endings its words have, for the keyword index, as Snowball calls it ("german"), or
    "none"; without it, the project's, else LANGUAGE. `trace`: an id of yours that the log names with it;
    without it, that of its submission. `cleaned` counts what could not be stored and was taken out.
    """

    source_path: str
    filename: str
    file_type: FileType
    content: bytes | None = None
    size_bytes: int | None = None
    modified_us: int | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)
    language: str | None = None
    trace: str | None = None
    cleaned: Mapping[str, int] = field(default_factory=dict)

    @classmethod
    def path(
        cls,
        path: str | Path,
        *,
        metadata: Mapping[str, Any] | None = None,
        language: str | None = None,
        trace: str | None = None,
    ) -> Self:
        """Name a local file, read by the worker: it must see the same path under its ALLOWED_ROOTS.

        Raises SourceError when there is no such file.
        """
        if not os.fspath(path):
            raise SourceError("an empty path names nothing")
        absolute = Path(os.path.abspath(path))  # noqa: PTH100 -- resolve() would replace a link by its target
        try:
            found = absolute.stat()
        except OSError as error:
            raise SourceError(f"{absolute} cannot be read: {error.strerror}") from None
        except ValueError:  # a NUL, or characters no file name can have
            raise SourceError(f"there is no file {str(absolute)!r}") from None
        return cls.found(
            absolute, found.st_size, found.st_mtime_ns, metadata=metadata, language=language, trace=trace
        )

    @classmethod
    def found(
        cls,
        path: Path,
        size: int,
        modified_ns: int,
        *,
        metadata: Mapping[str, Any] | None = None,
        language: str | None = None,
        trace: str | None = None,
    ) -> Self:
        """Name a local file whose size in bytes and modification time in nanoseconds are known already."""
        source_path = sources.source_path_of(path)
        name = source_path.rpartition("/")[2]
        return cls(
            source_path,
            name,
            file_type_of(name),
            size_bytes=size,
            modified_us=_storable_time(modified_ns // 1000),
            metadata=metadata or {},
            language=language,
            trace=trace,
        )

    @classmethod
    def text(
        cls,
        text: str | bytes,
        *,
        source_path: str,
        file_type: FileType | None = None,
        metadata: Mapping[str, Any] | None = None,
        language: str | None = None,
        trace: str | None = None,
    ) -> Self:
        """Hold a text, kept in the database; the next text of the same `source_path` replaces it."""
        content = text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass")
        name = _filename(source_path)
        return cls(
            source_path,
            name,
            file_type or file_type_of(name),
            content,
            len(content),
            metadata=metadata or {},
            language=language,
            trace=trace,
        )

    @classmethod
    def uri(
        cls,
        uri: str,
        *,
        metadata: Mapping[str, Any] | None = None,
        language: str | None = None,
        trace: str | None = None,
    ) -> Self:
        """Name what the worker reads by its URI: ALLOWED_URI_SCHEMES and ALLOWED_URI_HOSTS must allow it."""
        web = uri.lower().startswith(("http://", "https://"))  # elsewhere a ? may be a part of a name
        name = _filename(re.split(r"[?#]", uri, maxsplit=1)[0] if web else uri)
        return cls(uri, name, file_type_of(name), metadata=metadata or {}, language=language, trace=trace)

    @classmethod
    def loaded(cls, document: GivenDocument) -> Self:
        """Name a document that brings its chunks along: they are stored, and not kept beside that."""
        return cls(
            document.source_path,
            _filename(document.source_path),
            FileType.CHUNKS,
            size_bytes=document.size_bytes,
            metadata=document.metadata,
            language=document.language,
        )

    @classmethod
    def chunks(
        cls,
        chunks: Sequence[GivenChunk],
        *,
        source_path: str,
        metadata: Mapping[str, Any] | None = None,
        language: str | None = None,
        trace: str | None = None,
    ) -> Self:
        """Hold chunks the producer cut, with vectors or without; those without are embedded.

        Raises DocumentError when they cannot be written down (an empty text, NaN).
        """
        content = given.dump(chunks)
        replaced = given.replaced_in(chunks)
        return cls(
            source_path,
            _filename(source_path),
            FileType.CHUNKS,
            content,
            len(content),
            metadata=metadata or {},
            language=language,
            trace=trace,
            cleaned={"chunks": replaced} if replaced else {},
        )


def _storable_time(microseconds: int) -> int | None:
    """Give None for a time no timestamptz holds: then the file is read each time it is submitted."""
    return microseconds if _EARLIEST_US <= microseconds <= _LATEST_US else None


def _filename(source_path: str) -> str:
    return source_path.rstrip("/").rpartition("/")[2] or source_path


def submission(document: Document, limit: int, language: str, trace: str | None = None) -> Submission:
    """Give the row of a document, made storable; `language` and `trace` are for one that names none.

    Raises DocumentError: "too_large" (inline content over `limit` bytes), "no_source_path",
    "bad_metadata", "bad_language", "bad_trace".
    """
    if document.content is not None and len(document.content) > limit:
        raise DocumentError(
            "too_large", f"{len(document.content):,} bytes; MAX_DOCUMENT_BYTES allows {limit:,}"
        )
    source_path = storable(document.source_path)
    if not source_path:
        raise DocumentError("no_source_path", "a document needs a source path")
    try:
        language = known_language(document.language or language)
    except IngestError as error:
        raise DocumentError("bad_language", str(error)) from None
    try:
        trace = trace if document.trace is None else known_trace(document.trace)
    except IngestError as error:
        raise DocumentError("bad_trace", error.message) from None
    return Submission(
        source_path=source_path,
        filename=storable(document.filename) or source_path,
        file_type=document.file_type,
        language=language,
        size_bytes=document.size_bytes,
        modified_us=document.modified_us,
        content=document.content,
        metadata_json=metadata_json(document.metadata),
        trace=trace,
        cleaned=_cleaned(document),
    )


def _cleaned(document: Document) -> Mapping[str, int]:
    """Count what a row cannot hold of a document that has been found to be storable."""
    found = {"metadata": to_clean(document.metadata), "source_path": to_clean(document.source_path)}
    return {**document.cleaned, **{name: count for name, count in found.items() if count}}
