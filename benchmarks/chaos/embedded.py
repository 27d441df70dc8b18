"""What the workers embedded, as they wrote it down."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Embedded:
    """`texts`: all that was embedded. `again`: of these, what had been embedded before by another attempt.

    `within`: what one batch embedded twice.
    """

    texts: int
    again: int
    within: int

    @classmethod
    def read(cls, folder: Path) -> "Embedded":
        """Read what the processes of a folder wrote; the last line of a killed one may not be whole."""
        pairs: Counter[tuple[str, str]] = Counter()
        for path in folder.glob("*.embedded"):
            for line in path.read_text().splitlines():
                batch, *texts = line.split()
                pairs.update((batch, text) for text in texts)
        distinct = len({text for _, text in pairs})
        return cls(pairs.total(), pairs.total() - distinct, pairs.total() - len(pairs))
