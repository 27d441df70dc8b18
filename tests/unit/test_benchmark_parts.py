"""What figures rest on: the truth that recall is against, who a found row is, and questions that differ."""

import sysconfig
from pathlib import Path
from uuid import uuid4

import numpy as np
import pytest

from benchmarks.questions import ask_about
from benchmarks.ready import BATCH_ROWS, CHUNKS, FALL, Clustered, batch_vectors, document_texts, place_of
from benchmarks.truth import Truth
from worker.embedding import open_embedder
from worker.settings import read_settings
from worker.types import Answer, Hit


def test_the_truth_seen_block_by_block_is_that_of_all_at_once() -> None:
    vectors = Clustered(8, 3)
    stored, asked = vectors.draw(1_000, seed=1), vectors.draw(20, seed=2)
    truth = Truth.of(asked, 10)
    for first in range(0, 1_000, 64):
        truth = truth.having_seen(first, stored[first : first + 64])
    cosines = asked @ stored.T / np.linalg.norm(stored, axis=1)
    assert truth.nearest() == [set(row.tolist()) for row in np.argsort(-cosines, axis=1)[:, :10]]


def test_recall_is_the_share_of_the_nearest_that_was_found() -> None:
    truth = Truth.of(np.eye(2, dtype=np.float32), 2).having_seen(
        0, np.array([[1, 0], [2, 1], [0, 1]], np.float32)
    )
    assert truth.nearest() == [{0, 1}, {1, 2}]
    texts = document_texts("a name of words", 1, 0)
    assert truth.recall([answer(texts[0], texts[1]), answer(texts[2], texts[0])]) == 3 / 4


def test_a_row_says_where_its_vector_was_drawn() -> None:
    for batch, number, chunk in ((1, 0, 0), (3, 127, 19)):
        text = document_texts("a name of words", batch, number)[chunk]
        assert place_of(text) == (batch - 1) * BATCH_ROWS + number * CHUNKS + chunk


def test_batches_are_the_same_whenever_they_are_drawn() -> None:
    first, again = (batch_vectors(Clustered(4, 5), "name", 2) for _ in range(2))
    assert (first == again).all()
    assert (first != batch_vectors(Clustered(4, 5), "name", 3)).any()


def test_questions_differ_and_are_the_same_every_time() -> None:
    chunks = [
        ("The reader opens every file that was given to it. And so on.", ("Reading", "Files")),
        ("no sentence at all", ()),
        ("The writer closes every file that was given to it.", ()),
    ]
    questions = list(ask_about(chunks))
    assert questions == list(ask_about(chunks))
    assert len(set(questions)) == len(questions) > 10
    assert "The reader opens every file that was given to it." in questions


def answer(*texts: str) -> Answer:
    return Answer(hits=tuple(hit(text) for text in texts))


def hit(text: str) -> Hit:
    return Hit(1, {}, None, uuid4(), uuid4(), "", "", 1, 1, 0, 1, (), text, "", (), {}, {})


def test_drawn_vectors_fall_off_as_those_of_the_built_in_model_do() -> None:
    pages = (
        page.read_text(errors="replace") for page in sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"))
    )
    texts = [text[at : at + 500] for text in pages for at in range(0, len(text), 500)]
    settings = read_settings(database_url="postgresql://nowhere/x", broker_url="redis://nowhere/0")
    vectors = np.asarray(open_embedder(settings).embed(texts[:8_000]))
    variances = np.sort(np.linalg.eigvalsh(np.cov((vectors / np.linalg.norm(vectors, axis=1)[:, None]).T)))[
        ::-1
    ]
    directions = np.arange(1, 65)
    fall, _ = np.polyfit(np.log(directions), np.log(variances[:64]), 1)
    assert fall == pytest.approx(-FALL, abs=0.1)
