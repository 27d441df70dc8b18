"""The form of a message: what Celery sends. What another program put into a queue of ours may have any.

Celery looks at some of it late, with the message taken: then its worker ends, and puts it back for the next.
"""

from collections.abc import Iterable
from typing import Any

# Headers of a task: of words, of whole numbers; and its own time limits, hard and soft, in seconds.
_WORDS = (
    "argsrepr", "compression", "eta", "expires", "group", "kwargsrepr", "lang", "origin", "parent_id",
    "root_id", "shadow",
)  # fmt: skip
_NUMBERS = ("group_index", "replaced_task_nesting", "retries")
_NO_LIMITS = (None, None)
_STAMPS = {(type(None), type(None)), (type(None), dict), (list, dict)}


def require_words(said: Iterable[Any]) -> None:
    """Hold what a message says of its delivery and its content to words. Raises TypeError."""
    if not all(isinstance(word, str) for word in said):
        raise TypeError("a message is delivered by words")


def require_task(headers: Any) -> None:
    """Hold the headers of a task to what Celery sends. Raises TypeError, KeyError and AttributeError.

    Those without a task are what workers, Flower and `inspect` tell each other.
    """
    if "task" not in headers:
        return
    named = isinstance(headers["task"], str) and isinstance(headers["id"], str)
    limits = headers.get("timelimit") or _NO_LIMITS
    limited = len(limits) == len(_NO_LIMITS) and all(
        isinstance(limit, int | float | None) for limit in limits
    )
    numbered = all(isinstance(headers.get(name), int | None) for name in _NUMBERS)
    plain = all(isinstance(headers.get(name), str | None) for name in _WORDS)
    stamped = (type(headers.get("stamped_headers")), type(headers.get("stamps"))) in _STAMPS
    if not (named and limited and numbered and plain and stamped):
        raise TypeError("a task has other headers")


def is_call(payload: Any) -> bool:
    """Tell whether these are a task's arguments, by place and by name, and what belongs to it."""
    return isinstance(payload, list) and [type(part) for part in payload] == [list, dict, dict]
