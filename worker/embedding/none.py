"""No model: embeddings stay NULL, or come from the producer."""

from collections.abc import Sequence

MODEL = "none"


class NoEmbedder:
    """Leaves every embedding NULL."""

    model = MODEL

    def embed(self, texts: Sequence[str]) -> None:
        """Give no vectors."""
