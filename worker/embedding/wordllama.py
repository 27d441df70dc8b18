"""The built-in model: WordLlama's static 256-d token vectors, on the CPU, offline, from its wheel."""

import logging
from collections.abc import Sequence
from pathlib import Path

from worker.steps.vectors import Matrix

MODEL = "wordllama:l2_supercat:256"


class WordLlamaEmbedder:
    """Averages token vectors. Deterministic: a text's vector does not depend on its neighbours."""

    model = MODEL

    def __init__(self) -> None:
        root = logging.getLogger()
        handlers, level = list(root.handlers), root.level
        import wordllama

        # The package calls logging.basicConfig on import; a library may not decide where logs go.
        root.handlers[:], root.level = handlers, level
        # load() looks beside its package's parent folder, then asks the network: name the folder.
        folder = Path(wordllama.__file__).parent
        self._model = wordllama.WordLlama.load(cache_dir=folder, disable_download=True)

    def embed(self, texts: Sequence[str]) -> Matrix:
        """Give a (len(texts), 256) matrix, not normalised."""
        vectors: Matrix = self._model.embed(list(texts))
        return vectors
