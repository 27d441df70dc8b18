"""Which language each chunk is of: a term counts only where the word has it. `news` is no English `new`."""

from collections.abc import Collection, Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from worker.steps.postings import BLOCK, decode

Rows = Iterable[tuple[int, bytes | memoryview]]


class Tongues:
    """The languages of a tenant's chunks, by number: a byte a chunk of each block that has several."""

    def __init__(self, languages: Sequence[str], listed: Mapping[str, Rows]) -> None:
        """Note what is `listed` of each language but the first, which is that of all other chunks."""
        self._codes: dict[int, NDArray[np.uint8]] = {}
        self._languages = languages
        for code, language in enumerate(languages[1:], 1):
            for block, entries in listed[language]:
                codes = self._codes.setdefault(block, np.zeros(BLOCK, np.uint8))
                codes[decode(entries)["ordinal"]] = code

    def only(self, languages: Collection[str], block: int, entries: bytes | memoryview) -> bytes | memoryview:
        """Give those entries of a block that are of chunks in one of these languages."""
        wanted = np.array([language in languages for language in self._languages])
        if block not in self._codes:
            return entries if wanted[0] else b""
        all_of_them = decode(entries)
        spoken = wanted[self._codes[block][all_of_them["ordinal"]]]
        return bytes(all_of_them[spoken].tobytes())
