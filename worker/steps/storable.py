"""Make what producers and callers hand over storable: PostgreSQL takes no NUL and no lone surrogate."""

import re
from collections.abc import Mapping
from typing import Any

from worker.errors import DocumentError
from worker.steps.fingerprint import canonical_json

_LONE_SURROGATE = re.compile("[\ud800-\udfff]")
_DEEPEST = 50
_LARGEST_METADATA = 1 << 20


def storable(text: str) -> str:
    """Remove NULs and put U+FFFD for lone surrogates."""
    return _LONE_SURROGATE.sub("\ufffd", text.replace("\0", ""))


def to_clean(value: Any) -> int:
    """Count what `storable` takes away or replaces: in a text, or in all names and texts of metadata."""
    if isinstance(value, str):
        return value.count("\0") + (0 if value.isascii() else len(_LONE_SURROGATE.findall(value)))
    if isinstance(value, Mapping):
        return sum(to_clean(str(name)) + to_clean(item) for name, item in value.items())
    return sum(map(to_clean, value)) if isinstance(value, list | tuple) else 0


def metadata_json(metadata: Mapping[str, Any]) -> str:
    """Write metadata as canonical JSON that jsonb accepts, at most 1 MiB.

    Raises DocumentError "bad_metadata": not names with values, NaN or infinity, not JSON, nested over 50
    deep, or too large.
    """
    if not isinstance(metadata, Mapping):
        raise DocumentError("bad_metadata", f"metadata is names with values, not {type(metadata).__name__}")
    try:
        written = canonical_json(_clean(metadata, 0))
    except (TypeError, ValueError) as error:
        raise DocumentError("bad_metadata", f"the metadata cannot be written as JSON: {error}") from None
    if len(written) > _LARGEST_METADATA:
        raise DocumentError("bad_metadata", f"the metadata is over {_LARGEST_METADATA:,} characters of JSON")
    return written


def _clean(value: Any, depth: int) -> Any:
    if depth > _DEEPEST:
        raise DocumentError("bad_metadata", f"the metadata is nested over {_DEEPEST} deep")
    if isinstance(value, str):
        return storable(value)
    if isinstance(value, Mapping):
        return {storable(str(key)): _clean(item, depth + 1) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_clean(item, depth + 1) for item in value]
    return value
