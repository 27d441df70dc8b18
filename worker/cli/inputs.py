"""What `ingest add` was given: checked as a whole before anything is submitted."""

import json
import os
import stat
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from worker import sources
from worker.cli.output import printable
from worker.cli.walk import Found, Walk, walk
from worker.errors import DocumentError, IngestError, SourceError
from worker.producer import Document
from worker.settings import Settings

STDIN = "-"


@dataclass(slots=True)
class Inputs:
    """The documents to submit, by source path, and what was passed over."""

    documents: dict[str, Document] = field(default_factory=dict)
    folders: list[str] = field(default_factory=list)
    unreadable: list[tuple[str, str]] = field(default_factory=list)
    special: int = 0
    linked_folders: int = 0

    def take(self, *documents: Document) -> None:
        """Add documents; one named twice is submitted once."""
        self.documents.update((document.source_path, document) for document in documents)

    def take_folder(
        self, folder: str, walked: Walk, metadata: Mapping[str, Any], language: str | None
    ) -> None:
        """Add what a walk found."""
        self.folders.append(folder)
        self.unreadable += walked.unreadable
        self.special += walked.special
        self.linked_folders += walked.linked_folders
        self.take(*(_found(file, metadata, language) for file in walked.files))


def gather(
    names: Sequence[str],
    settings: Settings,
    *,
    metadata: Mapping[str, Any],
    hidden: bool,
    stdin_name: str,
    language: str | None = None,
) -> Inputs:
    """Turn the arguments of `add` into documents. Raises SourceError for the first that cannot be one."""
    more: dict[str, Any] = {"metadata": metadata, "language": language}
    paths = [(name, _checked(name, settings)) for name in dict.fromkeys(names)]
    inputs = Inputs()
    for name, path in paths:
        if name == STDIN:
            content = _read_stdin(settings.max_document_bytes)
            inputs.take(Document.text(content, source_path=stdin_name, **more))
        elif path is None:
            inputs.take(Document.uri(name, **more))
        elif path.is_dir():
            inputs.take_folder(str(path), walk(str(path), hidden=hidden), **more)
        else:
            inputs.take(Document.path(path, **more))
    return inputs


def _checked(name: str, settings: Settings) -> Path | None:
    """Give the local path that a name means; None for standard input and URIs of storage."""
    if not name:
        raise SourceError("an empty path names nothing", "a dot is the current folder: ingest add .")
    path = None if name == STDIN else sources.local_path(name)
    if path is not None:
        return check_path(path, settings)
    if name != STDIN:
        _check_uri(name, settings)
    return None


def _check_uri(uri: str, settings: Settings) -> None:
    try:
        sources.require_allowed(uri, settings)
    except DocumentError as error:
        scheme = uri.partition("://")[0].lower()
        hints = {"scheme_not_allowed": f"set ALLOWED_URI_SCHEMES={scheme} here and for the workers"}
        hint = hints.get(error.code, "what may be named is in ALLOWED_URI_HOSTS, here and for the workers")
        raise SourceError(error.message, hint) from None


def check_path(path: Path, settings: Settings) -> Path:
    """Give the absolute path of a file or folder that can be read. Raises SourceError."""
    absolute = Path(os.path.abspath(path))  # noqa: PTH100 -- resolve() would replace a link by its target
    shown = printable(str(absolute))
    try:
        mode = absolute.stat().st_mode
    except FileNotFoundError:
        raise SourceError(f"there is no file or folder {shown}", "check the path") from None
    except (OSError, ValueError) as error:
        said = f"{shown} cannot be read: {getattr(error, 'strerror', error)}"
        raise SourceError(said, "check the path") from None
    _check_root(absolute, shown, settings)
    if not (stat.S_ISDIR(mode) or stat.S_ISREG(mode)):
        raise SourceError(f"{shown} is neither a file nor a folder", "pipe its content: `… | ingest add -`")
    if not os.access(absolute, os.R_OK | (os.X_OK if stat.S_ISDIR(mode) else 0)):
        raise SourceError(f"{shown} cannot be read: permission denied", "correct its permissions")
    return absolute


def _check_root(path: Path, shown: str, settings: Settings) -> None:
    try:
        sources.check_root(path, settings)
    except DocumentError as error:
        if error.code == "own_file":
            raise SourceError(printable(error.message), "name another, or move it out of there") from None
        if error.code != "outside_roots":
            raise
        target = Path(os.path.realpath(path))  # what a link leads to is what must be allowed
        folder = printable(str(target if target.is_dir() else target.parent))
        raise SourceError(
            f"{shown} is outside ALLOWED_ROOTS ({os.pathsep.join(map(str, settings.allowed_roots))})",
            f"add {folder} to ALLOWED_ROOTS, here and for the workers",
        ) from None


def _read_stdin(limit: int) -> bytes:
    try:
        content = open_stdin().read(limit + 1)
    except OSError as error:
        raise SourceError(f"standard input cannot be read: {error.strerror}", "pipe text into it") from None
    if len(content) > limit:
        raise SourceError(f"standard input has more than {limit:,} bytes", "raise MAX_DOCUMENT_BYTES")
    return content


def open_stdin() -> BinaryIO:
    """Give standard input as bytes. Raises SourceError where it is closed."""
    if sys.__stdin__ is None:  # sys.stdin is the null device then, and an empty document nobody meant
        raise SourceError("standard input is closed", "pipe something into it")
    return sys.stdin.buffer


def _found(file: Found, metadata: Mapping[str, Any], language: str | None) -> Document:
    path = Path(file.path)
    return Document.found(path, file.size, file.modified_ns, metadata=metadata, language=language)


def parse_metadata(pairs: Sequence[str], document: str | None) -> dict[str, Any]:
    """Read --metadata, then every --meta over it. Raises IngestError."""
    metadata = _parse_object(document) if document else {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not key or not equals:
            raise IngestError(f"--meta {pair!r} is not KEY=VALUE", "for example --meta year=2026")
        try:
            metadata[key] = _read_json(value)
        except ValueError:
            metadata[key] = value
    return metadata


def _read_json(text: str) -> Any:
    """Read JSON. Raises ValueError, or IngestError for what is nested deeper than Python reads."""
    try:
        return json.loads(text)
    except RecursionError:
        raise IngestError("--meta and --metadata cannot be nested so deep", "nest it less") from None


def _parse_object(document: str) -> dict[str, Any]:
    try:
        value = _read_json(document)
    except ValueError as error:
        raise IngestError(
            f"--metadata is not JSON: {error}", "for example --metadata '{\"year\": 2026}'"
        ) from None
    if not isinstance(value, dict):
        raise IngestError("--metadata is not a JSON object", "for example --metadata '{\"year\": 2026}'")
    return value
