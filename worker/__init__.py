"""Ingestion worker for PostgreSQL + pgvector: the producer's side of it.

    from worker import Document, submit, status

    receipt = submit([Document.path("handbook.md")], tenant="acme", project="docs")

Names load on first use, so that importing `worker` costs nothing and needs no settings.
"""

from importlib import import_module
from typing import Any

_PRODUCER = [
    "Answer",
    "Document",
    "GivenChunk",
    "GivenDocument",
    "Hit",
    "Loaded",
    "Pause",
    "Receipt",
    "Run",
    "cancel",
    "cancel_batch",
    "delete",
    "load",
    "pause",
    "paused",
    "rate",
    "restore",
    "resume",
    "retry",
    "runs",
    "search",
    "set_language",
    "status",
    "submit",
    "wait",
]

__all__ = [*_PRODUCER]  # noqa: PLE0604 -- one list: a name exported is a name served below


def __getattr__(name: str) -> Any:
    if name in _PRODUCER:
        return getattr(import_module("worker.producer"), name)
    raise AttributeError(f"module 'worker' has no attribute {name!r}")
