"""What a URI names: http and https are read here, at addresses that were checked; the rest by fsspec.

A driver of fsspec connects by itself: what is held is the scheme, the host or bucket, and the size.
"""

from worker.allowlist import WEB_PORTS
from worker.errors import DocumentError, TransientError
from worker.settings import Settings
from worker.sources.permission import require_allowed
from worker.sources.size import within
from worker.urls import hidden


def read_uri(uri: str, settings: Settings) -> bytes:
    """Give the bytes of what a URI names. Raises what `load` does."""
    place = require_allowed(uri, settings)
    if place.scheme in WEB_PORTS:
        from worker.sources.web import fetch

        return fetch(uri, settings)
    return _read_storage(uri, place.scheme, settings.max_document_bytes)


def _read_storage(uri: str, scheme: str, limit: int) -> bytes:
    import fsspec

    _require_driver(scheme)
    try:
        with fsspec.open(uri, "rb") as file:
            return within(file.read(limit + 1), limit)
    except (DocumentError, MemoryError):
        raise
    except FileNotFoundError:
        raise DocumentError("not_found", f"there is nothing at {hidden(uri)}") from None
    except PermissionError:
        raise DocumentError("unreadable", f"access to {hidden(uri)} is refused") from None
    except Exception as error:  # noqa: BLE001 -- each driver has its own, and says the whole URI in some
        raise TransientError(
            "source_unavailable", f"{hidden(uri)} does not answer: {type(error).__name__}"
        ) from None


def _require_driver(scheme: str) -> None:
    import fsspec

    try:
        fsspec.get_filesystem_class(scheme)
    except (ImportError, ValueError) as error:
        raise DocumentError("no_driver", f"{scheme}:// cannot be read here: {error}") from None
