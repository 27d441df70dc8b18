"""Embedding models behind one small protocol; one module a provider."""

from collections.abc import Sequence
from typing import Protocol

from worker.settings import Settings
from worker.steps.vectors import Matrix


class Embedder(Protocol):
    """Turns texts into vectors.

    `model` names the model and its version: it is part of every chunk's hash, so that vectors of two
    models never mix.
    """

    @property
    def model(self) -> str:
        """Name the model."""
        ...

    def embed(self, texts: Sequence[str]) -> Matrix | None:
        """Give a (len(texts), dimension) matrix, or None where vectors stay NULL.

        Raises TransientError when the provider cannot answer now, whoever asks: it is away, or wants to be
        asked less; DocumentError where it will never take one of these texts. `worker/provider.py` finds out
        whose fault any other error is. It must raise when no answer comes within a minute: a call that hangs
        until TASK_TIME_LIMIT ends its process, and is charged to the documents.
        """
        ...


def open_embedder(settings: Settings) -> Embedder:
    """Load the configured provider's model. Call it after a fork."""
    if settings.embedding_provider == "none":
        from worker.embedding.none import NoEmbedder

        return NoEmbedder()
    from worker.embedding.wordllama import WordLlamaEmbedder

    return WordLlamaEmbedder()


def model_name(settings: Settings) -> str:
    """Name the configured model without loading it."""
    if settings.embedding_provider == "none":
        from worker.embedding.none import MODEL
    else:
        from worker.embedding.wordllama import MODEL
    return MODEL
