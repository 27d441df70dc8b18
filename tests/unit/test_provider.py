"""Whose fault a failure of the model is, and how long it is left alone."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from worker.errors import DocumentError, TransientError
from worker.metrics import PROCESS_METRICS
from worker.provider import PROBE, Provider
from worker.settings import read_settings

VECTORS = np.ones((1, 3), np.float32)


class Model:
    """A provider that does what it is told at each call, in this order; after that it answers."""

    model = "told"

    def __init__(
        self, *errors: Exception, of: Callable[[str], Exception | None] = lambda _text: None
    ) -> None:
        self._errors = list(errors)
        self._of = of
        self.asked: list[str] = []

    def embed(self, texts: Sequence[str]) -> Any:
        self.asked += texts
        error = self._errors.pop(0) if self._errors else self._of(texts[0])
        if error:
            raise error
        return VECTORS


class Over(Exception):  # noqa: N818 -- no error
    """The batch ends."""


def ends() -> None:
    raise Over


def provider(model: Model) -> Provider:
    urls = {"database_url": "postgresql://host/d", "broker_url": "redis://host"}
    return Provider(model, read_settings(**urls, retry_base_seconds=1, retry_max_seconds=1))


def test_what_is_away_is_asked_again_until_it_answers() -> None:
    model = Model(TransientError("busy", "429: too many requests"), ConnectionError(), ConnectionError())
    asked = provider(model)
    said: list[str | None] = []
    before = pauses()
    assert asked.embed(["ships"], lambda: said.append(asked.trouble)) is VECTORS
    assert model.asked == ["ships", "ships", PROBE, "ships"]
    assert set(said) == {
        "the embedding provider does not answer: 429: too many requests",
        "the embedding provider does not answer: ConnectionError:",
    }
    assert asked.trouble is None
    assert pauses() == before + 2


def pauses() -> float:
    return PROCESS_METRICS.get_sample_value("ingest_embedding_pauses_total", {"model": "told"}) or 0


def test_who_waits_is_told_when_to_end_and_the_next_waits_on() -> None:
    model = Model(of=lambda text: RuntimeError(f"401 for\n{text!r}\0"))
    asked = provider(model)
    for _ in range(2):
        with pytest.raises(Over):
            asked.embed(["a secret"], ends)
    assert model.asked == ["a secret", PROBE]
    assert asked.trouble == f"the embedding provider does not answer: RuntimeError: 401 for {PROBE!r}"


@pytest.mark.parametrize("error", [DocumentError("refused", "400: too long"), MemoryError()])
def test_what_says_that_it_is_the_text_is_raised_at_once(error: Exception) -> None:
    model = Model(error)
    asked = provider(model)
    with pytest.raises(type(error)):
        asked.embed(["ships"], ends)
    assert (model.asked, asked.trouble) == (["ships"], None)


def test_a_text_that_the_model_fails_at_twice_is_to_blame() -> None:
    model = Model(of=lambda text: None if text == PROBE else ZeroDivisionError("a fault"))
    asked = provider(model)
    with pytest.raises(ZeroDivisionError):
        asked.embed(["a storm"], ends)
    assert (model.asked, asked.trouble) == (["a storm", PROBE] * 2, None)


def test_who_is_put_off_again_and_again_while_others_are_answered_is_to_blame() -> None:
    model = Model(of=lambda text: None if text == PROBE else TransientError("busy", "504"))
    asked = provider(model)
    with pytest.raises(TransientError, match="504"):
        asked.embed(["too much"], lambda: None)
    assert model.asked == [*["too much"] * 4, PROBE]
    assert asked.trouble is None
    assert asked.embed([PROBE], ends) is VECTORS


def test_a_moments_trouble_is_nobodys() -> None:
    assert provider(model := Model(ConnectionResetError())).embed(["ships"], ends) is VECTORS
    assert model.asked == ["ships", PROBE, "ships"]
