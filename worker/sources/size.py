"""The bound on a document's bytes, the same wherever they come from."""

from collections.abc import Callable

from worker.errors import DocumentError

_PART_BYTES = 1 << 20


def within(data: bytes, limit: int) -> bytes:
    """Give the bytes back. Raises DocumentError "too_large" where there are more than `limit`."""
    if len(data) > limit:
        raise too_large(len(data), limit)
    return data


def too_large(size: int, limit: int) -> DocumentError:
    """Make the error of a document of `size` bytes or more."""
    return DocumentError("too_large", f"{size:,} bytes or more; MAX_DOCUMENT_BYTES allows {limit:,}")


def up_to(read: Callable[[int], bytes], limit: int) -> bytes:
    """Read to the end, or `limit` bytes; a part at a time, as Python sets aside whatever is asked for."""
    parts: list[bytes] = []
    left = limit
    while left and (part := read(min(left, _PART_BYTES))):
        parts.append(part)
        left -= len(part)
    return b"".join(parts)
