"""What one process owns: settings, engine, embedder. Built after the fork, closed at exit."""

import os
import threading
from collections.abc import Callable
from functools import cached_property, lru_cache, partial
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Connection, Engine
from sqlalchemy.exc import SQLAlchemyError
from tenacity import Retrying, retry_if_exception, stop_after_attempt, wait_exponential_jitter

from worker.db.engine import (
    forbidden,
    has_waited,
    is_forbidden,
    is_retryable,
    make_engine,
    transaction,
    unavailable,
)
from worker.embedding import Embedder, model_name, open_embedder
from worker.provider import Provider
from worker.settings import Settings, load_settings
from worker.steps.fingerprint import recipe
from worker.steps.terms import Vocabulary

T = TypeVar("T")


class Resources:
    """The resources of this process, each made on first use, once, whichever thread is the first."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._mine = threading.local()
        self._making = threading.RLock()

    def _once(self, name: str, make: Callable[[], T]) -> T:
        """Make what is missing. Each thread with an engine of its own would be a limit for each of them."""
        with self._making:
            if name not in self.__dict__:
                self.__dict__[name] = make()
            made: T = self.__dict__[name]
            return made

    @property
    def engine(self) -> Engine:
        """The pool to DATABASE_URL."""
        return self._once("engine", partial(make_engine, self.settings))

    @property
    def search_engine(self) -> Engine:
        """The pool to SEARCH_DATABASE_URL, or DATABASE_URL where it is not set."""
        url = self.settings.search_database_url
        if url is None:
            return self.engine
        return self._once("search_engine", partial(make_engine, self.settings, url, "ingest search"))

    @property
    def embedder(self) -> Embedder:
        """The configured embedding model."""
        return self._once("embedder", partial(open_embedder, self.settings))

    @property
    def provider(self) -> Provider:
        """The same model, asked for documents: with patience."""
        return self._once("provider", lambda: Provider(self.embedder, self.settings))

    @property
    def trouble(self) -> str | None:
        """What keeps documents from being embedded; None where nothing does. Loads no model."""
        provider: Provider | None = self.__dict__.get("provider")
        return provider.trouble if provider else None

    @property
    def embed_query(self) -> Callable[[str, str], NDArray[np.floating] | None]:
        """Embed one query of a tenant; those asked last are kept. What the model raises is not.

        A tenant meets its own only: how fast an answer comes would tell what another one asked.
        """

        def embed(_tenant: str, text: str) -> NDArray[np.floating] | None:
            vectors = self.embedder.embed([text])
            return None if vectors is None else vectors[0]

        return self._once("embed_query", lambda: lru_cache(maxsize=self.settings.query_cache_size)(embed))

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

        Raises DatabaseUnavailableError when it does not pass, and when DATABASE_POOL_TIMEOUT is over;
        SchemaError when our role may not do this.
        """
        try:
            for attempt in Retrying(
                retry=retry_if_exception(lambda error: is_retryable(error) and not has_waited(error)),
                wait=wait_exponential_jitter(multiplier=0.1, max=2),
                stop=stop_after_attempt(5),
                reraise=True,
            ):
                with attempt, transaction(self.engine, statement_seconds) as connection:
                    answer = question(connection)
        except SQLAlchemyError as error:
            if is_retryable(error):
                raise unavailable(self.settings.database_url, error) from None
            if is_forbidden(error):
                raise forbidden(error) from None
            raise
        return answer

    def close(self, *, inherited: bool = False) -> None:
        """Close the pools. `inherited`: they came through a fork, so their sockets are the parent's."""
        for name in ("engine", "search_engine"):
            if name in self.__dict__:
                self.__dict__.pop(name).dispose(close=not inherited)


_mine: dict[int, Resources] = {}  # by process: a forked child finds its parent's


def resources() -> Resources:
    """Give this process its resources; a forked child gets new ones."""
    pid = os.getpid()
    if pid not in _mine:
        for parent in set(_mine) - {pid}:
            if inherited := _mine.pop(parent, None):  # of threads that come at once, the first one has it
                inherited.close(inherited=True)
        _mine.setdefault(pid, Resources(load_settings()))  # of threads that come at once, the first one's
    return _mine[pid]


def close_resources() -> None:
    """Close what this process opened."""
    if mine := _mine.pop(os.getpid(), None):
        mine.close()
