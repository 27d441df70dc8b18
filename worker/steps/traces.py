"""Traces: the id that follows a document from its producer through every line of the log."""

from uuid import uuid4

from worker.errors import IngestError
from worker.steps.storable import storable

LONGEST_TRACE = 200


def new_trace() -> str:
    """Make one."""
    return uuid4().hex


def known_trace(trace: str) -> str:
    """Give a trace that a producer chose. Raises IngestError for what could not stand in a line of a log."""
    if not (0 < len(trace) <= LONGEST_TRACE and trace.isprintable() and storable(trace) == trace):
        raise IngestError(
            f"a trace has 1 to {LONGEST_TRACE} printable characters",
            "give a shorter one, or none: one is made",
        )
    return trace
