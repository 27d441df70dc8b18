"""Where a document's bytes come from: inline, a local file under the allowed roots, or what a URI names."""

import os
import re
from pathlib import Path
from urllib.parse import quote_from_bytes, unquote_to_bytes

from worker.settings import Settings
from worker.sources.files import check_root, read_file
from worker.sources.permission import URI, require_allowed
from worker.sources.size import within
from worker.sources.uris import read_uri

__all__ = ["check_root", "is_uri", "load", "local_path", "prefixes_of", "require_allowed", "source_path_of"]

_FILE_URI = "file://"
_THIS_HOST = re.compile(r"\Alocalhost(?=/)", re.IGNORECASE)  # RFC 8089: as good as no host


def source_path_of(path: Path) -> str:
    """Write a local path as text: itself, or a file:// URI where its bytes are not UTF-8."""
    raw = os.fsencode(path)
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return _FILE_URI + quote_from_bytes(raw)


def prefixes_of(folder: Path) -> list[str]:
    """Give what the source paths of the files below a folder begin with, in either spelling."""
    raw = os.fsencode(folder)
    slash = "" if raw.endswith(b"/") else "/"
    return [source_path_of(folder) + slash, _FILE_URI + quote_from_bytes(raw) + slash]


def local_path(source_path: str) -> Path | None:
    """Give the local path a source path names; None for a URI of another scheme."""
    if source_path.startswith(_FILE_URI):
        written = _THIS_HOST.sub("", source_path.removeprefix(_FILE_URI))
        return Path(os.fsdecode(unquote_to_bytes(written)))
    return None if is_uri(source_path) else Path(source_path)


def is_uri(source_path: str) -> bool:
    """Tell whether a source path is a URI, file:// included."""
    return URI.match(source_path) is not None


def load(source_path: str, content: bytes | None, settings: Settings) -> bytes:
    """Give a document's bytes, at most MAX_DOCUMENT_BYTES of them.

    Raises DocumentError: "too_large", "not_found", "unreadable", "not_a_file", "outside_roots",
    "own_file", "scheme_not_allowed", "uri_not_allowed", "no_driver"; TransientError "source_unavailable".
    """
    if content is not None:
        return within(content, settings.max_document_bytes)
    path = local_path(source_path)
    if path is not None:
        return read_file(path, settings)
    return read_uri(source_path, settings)
