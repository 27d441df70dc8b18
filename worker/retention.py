"""How long what is finished, deleted or done with is kept: the settings that the chore `purge` goes by."""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field
from pydantic_settings import BaseSettings

FOR_EVER = "off"
_LONGEST_DAYS = 3650


def _days_or_off(value: Any) -> Any:
    if value == FOR_EVER:
        return value
    if str(value).isdecimal() and 1 <= int(value) <= _LONGEST_DAYS:
        return int(value)
    raise ValueError(f"must be days (1 to {_LONGEST_DAYS}), or {FOR_EVER}")


Days = Annotated[int, Field(ge=1, le=_LONGEST_DAYS)]
DaysOrOff = Annotated[int | Literal["off"], BeforeValidator(_days_or_off)]


class RetentionSettings(BaseSettings):
    """Days that each is kept; `off`: for ever."""

    retention_days: Days = 30
    evaluation_retention_days: Days = 90
    deleted_retention_days: DaysOrOff = 30
    content_retention_days: DaysOrOff = "off"
