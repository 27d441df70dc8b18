"""What a URI names: http and https are read here, at addresses that were checked; the rest by fsspec.

A driver of fsspec connects by itself: what is held is the scheme, the host or bucket, the size, and the time.
"""

import time
from functools import partial

from worker.allowlist import WEB_PORTS
from worker.errors import DocumentError, TransientError
from worker.settings import Settings
from worker.sources.deadline import until
from worker.sources.permission import require_allowed
from worker.sources.size import up_to, within
from worker.urls import hidden


def read_uri(uri: str, settings: Settings) -> bytes:
    """Give the bytes of what a URI names. Raises what `load` does."""
    place = require_allowed(uri, settings)
    if place.scheme in WEB_PORTS:
        from worker.sources.web import fetch

        return fetch(uri, settings)
    _require_driver(place.scheme)
    return _read_storage(uri, settings)


def _read_storage(uri: str, settings: Settings) -> bytes:
    limit, time_up = settings.max_document_bytes, time.monotonic() + settings.uri_timeout_seconds
    try:
        return within(until(time_up, partial(_content, uri, limit + 1, time_up)), limit)
    except (DocumentError, MemoryError):
        raise
    except FileNotFoundError:
        raise DocumentError("not_found", f"there is nothing at {hidden(uri)}") from None
    except PermissionError:
        raise DocumentError("unreadable", f"access to {hidden(uri)} is refused") from None
    except Exception as error:  # noqa: BLE001 -- each driver has its own, and says the whole URI in some
        said = f"does not answer: {type(error).__name__}"
        if time.monotonic() >= time_up:
            said = f"cannot be read: it takes over {settings.uri_timeout_seconds} s (URI_TIMEOUT_SECONDS)"
        raise TransientError("source_unavailable", f"{hidden(uri)} {said}") from None


def _content(uri: str, limit: int, time_up: float) -> bytes:
    import fsspec

    with fsspec.open(uri, "rb") as file:

        def part(size: int) -> bytes:
            if time.monotonic() >= time_up:  # nobody waits for it any more
                raise TimeoutError
            return bytes(file.read(size))

        return up_to(part, limit)


def _require_driver(scheme: str) -> None:
    import fsspec

    try:
        fsspec.get_filesystem_class(scheme)
    except (ImportError, ValueError) as error:
        raise DocumentError("no_driver", f"{scheme}:// cannot be read here: {error}") from None
