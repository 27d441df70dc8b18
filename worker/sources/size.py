"""The bound on a document's bytes, the same wherever they come from."""

from worker.errors import DocumentError


def within(data: bytes, limit: int) -> bytes:
    """Give the bytes back. Raises DocumentError "too_large" where there are more than `limit`."""
    if len(data) > limit:
        raise too_large(len(data), limit)
    return data


def too_large(size: int, limit: int) -> DocumentError:
    """Make the error of a document of `size` bytes or more."""
    return DocumentError("too_large", f"{size:,} bytes or more; MAX_DOCUMENT_BYTES allows {limit:,}")
