"""Recorded searches: look at them, and say of one what it was worth."""

from uuid import UUID

from sqlalchemy import Connection

from worker.db import evaluations
from worker.db.evaluations import Run
from worker.db.tenants import enter
from worker.errors import IngestError
from worker.resources import resources
from worker.steps.storable import storable
from worker.submitting import DEFAULT_TENANT

__all__ = ["Run", "UnknownRunError", "rate", "runs"]

THUMBS = (-1, 0, 1)
LONGEST_COMMENT, MOST_RUNS = 10_000, 1000


class UnknownRunError(IngestError):
    """No search was recorded under this id, or it was deleted since."""


def rate(
    run_id: UUID | str,
    *,
    tenant: str = DEFAULT_TENANT,
    thumbs: int | None = None,
    quality_score: float | None = None,
    comment: str | None = None,
) -> Run:
    """Say of a recorded search what it was worth; gives the run as it is now.

    What is None stays as it is. `thumbs` is 1 for up, -1 for down, 0 to take it back; `quality_score` is
    from 0 to 1; `comment` replaces the one before. Raises IngestError for what does not fit and for an
    unknown tenant, UnknownRunError for an unknown run.
    """
    known = _run_id(run_id)
    _check(thumbs, quality_score, comment)
    said = None if comment is None else storable(comment)

    def change(connection: Connection) -> Run | None:
        return evaluations.rate(
            connection,
            enter(connection, tenant),
            known,
            thumbs=thumbs,
            quality_score=quality_score,
            comment=said,
        )

    run = resources().transact(change)
    if run is None:
        raise UnknownRunError(
            f"tenant {tenant!r} has no recorded search {known}",
            "a search that is asked for its record gives the id; they are kept for EVALUATION_RETENTION_DAYS",
        )
    return run


def runs(*, tenant: str = DEFAULT_TENANT, most: int = 20) -> list[Run]:
    """Give the newest recorded searches of a tenant, at most 1,000. Raises IngestError for an unknown one."""
    if isinstance(most, bool) or not isinstance(most, int) or not 1 <= most <= MOST_RUNS:
        raise IngestError(f"most must be a whole number from 1 to {MOST_RUNS:,}")

    def ask(connection: Connection) -> list[Run]:
        return evaluations.newest(connection, enter(connection, tenant), most)

    return resources().transact(ask)


def _run_id(given: UUID | str) -> UUID:
    try:
        return given if isinstance(given, UUID) else UUID(given)
    except (ValueError, TypeError, AttributeError):
        raise UnknownRunError(
            f"{str(given)[:60]!r} is not the id of a recorded search",
            "it looks like 01234567-89ab-cdef-0123-456789abcdef",
        ) from None


def _check(thumbs: int | None, quality_score: float | None, comment: str | None) -> None:
    if thumbs is None and quality_score is None and comment is None:
        raise IngestError("nothing is said of the search", "give thumbs, a quality score or a comment")
    if thumbs is not None and (isinstance(thumbs, bool) or thumbs not in THUMBS):
        raise IngestError("thumbs must be 1, -1, or 0 to take them back")
    if quality_score is not None and not _is_share(quality_score):
        raise IngestError("the quality score must be a number from 0 to 1")
    if comment is not None and not isinstance(comment, str):
        raise IngestError("the comment must be text")
    if comment is not None and len(comment) > LONGEST_COMMENT:
        raise IngestError(f"the comment has {len(comment):,} characters; {LONGEST_COMMENT:,} are allowed")


def _is_share(value: float) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 1
