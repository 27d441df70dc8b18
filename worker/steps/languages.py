"""Names of languages, as producers and callers give them."""

from worker.errors import IngestError
from worker.types import LANGUAGES


def known_language(name: str) -> str:
    """Give the name of a language. Raises IngestError for one that the keyword index does not know."""
    if name not in LANGUAGES:
        known = ", ".join(sorted(LANGUAGES))
        raise IngestError(f"language {name!r} is not known", f"it may be one of {known}")
    return name
