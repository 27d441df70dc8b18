"""dispatch: publish again what the broker lost, and fill its window."""

from typing import Any

from sqlalchemy import Connection

from worker.dispatch import dispatch, republish
from worker.resources import Resources


def run(resources: Resources, connection: Connection) -> dict[str, Any]:  # noqa: ARG001 -- every chore's signature
    """Give how many batches were published again and how many are new."""
    return {"published_again": republish(resources), "published": dispatch(resources)}
