"""What one process owns: settings, engine, embedder. Built after the fork, closed at exit."""

import os
from functools import cached_property

from sqlalchemy import Engine

from worker.db.engine import make_engine
from worker.embedding import Embedder, model_name, open_embedder
from worker.settings import Settings, load_settings
from worker.steps.fingerprint import recipe


class Resources:
    """The resources of this process, each made on first use."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings

    @cached_property
    def engine(self) -> Engine:
        """The pool to DATABASE_URL."""
        return make_engine(self.settings)

    @cached_property
    def search_engine(self) -> Engine:
        """The pool to SEARCH_DATABASE_URL, or DATABASE_URL where it is not set."""
        if self.settings.search_database_url is None:
            return self.engine
        return make_engine(self.settings, self.settings.search_database_url, "ingest search")

    @cached_property
    def embedder(self) -> Embedder:
        """The configured embedding model."""
        return open_embedder(self.settings)

    @cached_property
    def recipe(self) -> bytes:
        """The hash of everything but the content that a chunk set depends on."""
        return recipe(
            model=model_name(self.settings),
            dimension=self.settings.embedding_dimension,
            chunk_size=self.settings.chunk_size,
            chunk_overlap=self.settings.chunk_overlap,
        )

    def close(self, *, inherited: bool = False) -> None:
        """Close the pools. `inherited`: they came through a fork, so their sockets are the parent's."""
        for name in ("engine", "search_engine"):
            if name in self.__dict__:
                self.__dict__.pop(name).dispose(close=not inherited)


_mine: tuple[int, Resources] | None = None


def resources() -> Resources:
    """Give this process its resources; a forked child gets new ones."""
    global _mine  # noqa: PLW0603 -- one set a process is the point
    if _mine is None or _mine[0] != os.getpid():
        if _mine is not None:
            _mine[1].close(inherited=True)
        _mine = (os.getpid(), Resources(load_settings()))
    return _mine[1]


def close_resources() -> None:
    """Close what this process opened."""
    global _mine  # noqa: PLW0603 -- see resources()
    if _mine is not None and _mine[0] == os.getpid():
        _mine[1].close()
    _mine = None
