"""The built-in model: WordLlama's static 256-d token vectors, on the CPU, offline, from its wheel."""

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from safetensors import safe_open
from tokenizers import Tokenizer

from worker.steps.vectors import Matrix

MODEL = "wordllama:l2_supercat:256"

_SLICE = 64  # texts tokenized at a time: token records take far more memory than the vectors


def package_folder() -> Path:
    """Find the package without importing it."""
    found = find_spec("wordllama")
    assert found is not None
    assert found.origin is not None
    return Path(found.origin).parent


class WordLlamaEmbedder:
    """Averages token vectors. Deterministic: a text's vector does not depend on its neighbours."""

    model = MODEL

    def __init__(self) -> None:
        # The package's two files are all that is used: its code would import an HTTP client, set the
        # process's logging, look for the files in the wrong folder, and then ask the network for them.
        folder = package_folder()
        with safe_open(folder / "weights/l2_supercat_256.safetensors", framework="np") as tensors:
            self._table = tensors.get_tensor("embedding.weight").astype(np.float32)
        self._tokenizer = Tokenizer.from_file(str(folder / "tokenizers/l2_supercat_tokenizer_config.json"))
        # It would keep 10,000 short texts and their tokens, some 100 MB, to meet the same text again:
        # we never hand it one twice.
        self._tokenizer.model._resize_cache(0)  # noqa: SLF001 -- there is no other way

    def embed(self, texts: Sequence[str]) -> Matrix:
        """Give a (len(texts), 256) matrix, not normalised.

        The numbers are those of the package's own `embed`, bit for bit. That one pads every text to its
        longest neighbour and pools the padding, too: twice the time, and memory without a bound.
        """
        vectors: Matrix = np.empty((len(texts), self._table.shape[1]), np.float32)
        for start in range(0, len(texts), _SLICE):
            part = list(texts[start : start + _SLICE])
            tokens = self._tokenizer.encode_batch_fast(part, add_special_tokens=False)
            self._pool([found.ids for found in tokens], vectors[start : start + _SLICE])
        return vectors

    def _pool(self, texts: Sequence[list[int]], out: Matrix) -> None:
        """Average each text's token vectors into a row of `out`; no tokens give a zero vector."""
        # one place for all texts: a new one for each is fetched from the system and given back, every time
        place: Matrix = np.empty((max(map(len, texts)), self._table.shape[1]), np.float32)
        for ids, row in zip(texts, out, strict=True):
            used = place[: len(ids)]
            self._table.take(np.array(ids, np.intp), axis=0, mode="clip", out=used)
            used.sum(axis=0, out=row)
            np.divide(row, np.float32(max(len(ids), 1)), out=row)
