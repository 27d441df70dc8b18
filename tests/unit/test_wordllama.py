"""The built-in model: its package's numbers, without the package's code."""

import subprocess
import sys

import numpy as np
import pytest
from safetensors.numpy import load_file
from tokenizers import Tokenizer

from worker.embedding.wordllama import WordLlamaEmbedder, package_folder

TEXTS = [
    "The lighthouse keeper counts ships at night.",
    "Schiffe",
    "船が港に入る。",
    "def parse(line: str) -> list[int]: ...",
    "word " * 3000,
]


@pytest.fixture(scope="module")
def embedder() -> WordLlamaEmbedder:
    return WordLlamaEmbedder()


def test_vectors_are_those_of_the_package(embedder: WordLlamaEmbedder) -> None:
    """The numbers were printed by the package's own `embed`, 0.4.0.post1."""
    given = embedder.embed(["The lighthouse keeper counts ships at night."])[0, :4]
    np.testing.assert_allclose(given, [0.042107321, 0.039852142, -0.27970746, 0.44572309], rtol=1e-6)


def test_a_vector_is_the_mean_of_its_tokens(embedder: WordLlamaEmbedder) -> None:
    folder = package_folder()
    tokenizer = Tokenizer.from_file(str(folder / "tokenizers/l2_supercat_tokenizer_config.json"))
    table = load_file(folder / "weights/l2_supercat_256.safetensors")["embedding.weight"].astype(np.float32)
    ids = [tokenizer.encode(text, add_special_tokens=False).ids for text in TEXTS]
    expected = np.vstack([table[one].sum(axis=0, dtype=np.float32) / np.float32(len(one)) for one in ids])
    np.testing.assert_array_equal(embedder.embed(TEXTS), expected)


def test_a_vector_does_not_depend_on_its_neighbours(embedder: WordLlamaEmbedder) -> None:
    texts = [f"{text} {n}" for n in range(40) for text in TEXTS[:4]]
    together = embedder.embed(texts)
    assert together.shape == (160, 256)
    assert together.dtype == np.float32
    np.testing.assert_array_equal(together, np.vstack([embedder.embed([text]) for text in texts]))


def test_what_has_no_token_has_a_zero_vector(embedder: WordLlamaEmbedder) -> None:
    assert not embedder.embed([""]).any()
    assert embedder.embed([]).shape == (0, 256)


def test_the_package_is_not_imported() -> None:
    program = (
        "import sys; from worker.embedding.wordllama import WordLlamaEmbedder; WordLlamaEmbedder();"
        " print('wordllama' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
