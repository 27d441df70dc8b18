"""Times as people write them on a command line: how long ago, or when."""

import re
from datetime import UTC, datetime, timedelta

from worker.errors import IngestError

_UNITS = {"s": "seconds", "min": "minutes", "h": "hours", "d": "days"}
_AGE = re.compile(rf"(\d{{1,6}})\s*({'|'.join(_UNITS)})")


def read_moment(option: str, written: str | None) -> datetime | timedelta | None:
    """Read 30s, 90min, 2h or 3d as that long ago, anything else as an ISO 8601 time, in UTC without a zone.

    Raises IngestError for what is neither.
    """
    if written is None:
        return None
    if age := _AGE.fullmatch(written.strip()):
        return timedelta(**{_UNITS[age[2]]: int(age[1])})
    try:
        moment = datetime.fromisoformat(written.strip())
    except ValueError:
        raise IngestError(
            f"{option} {written!r:.40} is no time", "write 30s, 90min, 2h, 3d, or a time as 2026-11-30T08:00Z"
        ) from None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
