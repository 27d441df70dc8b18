"""What one process owns: settings, engine, embedder. Built after the fork, closed at exit."""

import os
import threading
from collections.abc import Callable
from functools import cached_property, lru_cache
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Connection, Engine
from sqlalchemy.exc import SQLAlchemyError
from tenacity import Retrying, retry_if_exception, stop_after_attempt, wait_exponential_jitter

from worker.db.engine import is_retryable, make_engine, transaction, unavailable
from worker.embedding import Embedder, model_name, open_embedder
from worker.provider import Provider
from worker.settings import Settings, load_settings
from worker.steps.fingerprint import recipe
from worker.steps.terms import Vocabulary

T = TypeVar("T")


class Resources:
    """The resources of this process, each made on first use."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._mine = threading.local()

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
    def provider(self) -> Provider:
        """The same model, asked for documents: with patience."""
        return Provider(self.embedder, self.settings)

    @property
    def trouble(self) -> str | None:
        """What keeps documents from being embedded; None where nothing does. Loads no model."""
        provider: Provider | None = self.__dict__.get("provider")
        return provider.trouble if provider else None

    @cached_property
    def embed_query(self) -> Callable[[str, str], NDArray[np.floating] | None]:
        """Embed one query of a tenant; those asked last are kept. What the model raises is not.

        A tenant meets its own only: how fast an answer comes would tell what another one asked.
        """

        def embed(_tenant: str, text: str) -> NDArray[np.floating] | None:
            vectors = self.embedder.embed([text])
            return None if vectors is None else vectors[0]

        return lru_cache(maxsize=self.settings.query_cache_size)(embed)

    @cached_property
    def recipe(self) -> bytes:
        """The hash of everything but the content that a chunk set depends on."""
        return self.recipe_of(model_name(self.settings))

    def recipe_of(self, model: str) -> bytes:
        """Give the same of another model."""
        return recipe(
            model=model,
            dimension=self.settings.embedding_dimension,
            chunk_size=self.settings.chunk_size,
            chunk_overlap=self.settings.chunk_overlap,
        )

    @property
    def vocabulary(self) -> Vocabulary:
        """The terms of the next batch: those of the ones before, as long as they are not too many.

        Each thread has its own: two that load at once would give two terms one number.
        """
        found: Vocabulary | None = getattr(self._mine, "vocabulary", None)
        if found is None or found.is_full:
            found = self._mine.vocabulary = Vocabulary()
        return found

    def transact(self, question: Callable[[Connection], T], statement_seconds: int = 60) -> T:
        """Run one transaction, again where a passing trouble undid it.

        Raises DatabaseUnavailableError when it does not pass.
        """
        try:
            for attempt in Retrying(
                retry=retry_if_exception(is_retryable),
                wait=wait_exponential_jitter(multiplier=0.1, max=2),
                stop=stop_after_attempt(5),
                reraise=True,
            ):
                with attempt, transaction(self.engine, statement_seconds) as connection:
                    answer = question(connection)
        except SQLAlchemyError as error:
            if is_retryable(error):
                raise unavailable(self.settings.database_url, error) from None
            raise
        return answer

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
