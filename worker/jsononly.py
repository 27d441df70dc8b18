"""Messages are JSON and go to the servers of our settings: what would have Celery do otherwise is refused.

Whoever may write to the broker could have a pickle run any code, in each process that accepts one.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Any

from worker.errors import SettingsError

_OPTIONS = (
    "accept_content", "result_accept_content", "task_serializer", "result_serializer", "event_serializer",
)  # fmt: skip
_JSON = {"json", "application/json"}
# Celery follows these itself, whatever it is configured with (celery/app/utils.py, Settings).
_URLS = ("CELERY_BROKER_URL", "CELERY_BROKER_READ_URL", "CELERY_BROKER_WRITE_URL", "CELERY_RESULT_BACKEND")
_WORD = re.compile(r"[\w./+-]+")


def require_plain_environment(environment: Mapping[str, str]) -> None:
    """Refuse variables of Celery's that ask for another server or another content. Raises SettingsError."""
    for name in _URLS:
        # Celery's own command sets its variables by BROKER_URL
        if environment.get(name) not in (None, "", environment.get("BROKER_URL")):
            raise SettingsError(
                f"{name} is set: Celery would follow it and not our settings", "unset it, and set BROKER_URL"
            )
    for option in _OPTIONS:
        name = f"CELERY_{option.upper()}"
        _require_json(name, _WORD.findall(environment.get(name, "").lower()), f"unset {name}")


def require_json(configuration: Mapping[str, Any]) -> None:
    """Refuse a configuration of Celery that takes or sends anything but JSON. Raises SettingsError."""
    for option in _OPTIONS:
        given = configuration[option]
        words = [given] if isinstance(given, str) else given or ["json"]
        _require_json(f"Celery's {option}", words, "leave Celery's configuration to worker/app.py")


def _require_json(name: str, words: Iterable[str], mend: str) -> None:
    others = sorted(set(words) - _JSON)
    if others:
        raise SettingsError(f"{name} names {', '.join(others)}: messages are JSON, and nothing else", mend)
