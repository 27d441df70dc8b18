"""An answer as JSON and back: what the task gives, the command prints, and the producer's call reads."""

from collections.abc import Mapping
from typing import Any

from pydantic import TypeAdapter

from worker.types import Answer

_ANSWER = TypeAdapter(Answer)


def as_json(answer: Answer) -> dict[str, Any]:
    """Give an answer as strings, numbers, lists and objects."""
    given: dict[str, Any] = _ANSWER.dump_python(answer, mode="json")
    return given


def read_answer(given: Mapping[str, Any]) -> Answer:
    """Give the answer that `as_json` was given."""
    return _ANSWER.validate_python(given)
