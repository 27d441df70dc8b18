"""What a query asks for: its words and its vector, before the database is asked."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from worker.errors import DocumentError, IngestError, TransientError
from worker.queries import Mode, Query
from worker.resources import Resources
from worker.searching.stages import Stages
from worker.settings import Settings
from worker.steps.languages import known_language
from worker.steps.question import Question, parse
from worker.steps.vectors import checked

log = logging.getLogger(__name__)

Vector = NDArray[np.floating]


@dataclass(frozen=True, slots=True)
class Asked:
    """A query taken apart.

    `vector`: None where words alone are asked for, where it is the mean of what is in the database (`like`),
    or where the model failed.
    """

    question: Question
    vector: Vector | None
    languages: Sequence[str] | None
    like: bool

    @property
    def has_vector(self) -> bool:
        """Tell whether there is something to be similar to."""
        return self.vector is not None or self.like


def ask(resources: Resources, query: Query, stages: Stages) -> Asked:
    """Take a query apart, and embed its text where nothing else says what to be similar to.

    Raises IngestError for a language or a vector that does not fit, and where the model fails and there are
    no words to go by.
    """
    languages = None if query.language is None else (known_language(query.language),)
    return Asked(
        parse(query.text or ""), _vector(resources, query, stages), languages, query.like is not None
    )


def _vector(resources: Resources, query: Query, stages: Stages) -> Vector | None:
    if query.mode is Mode.KEYWORD or query.like is not None:
        return None
    if query.vector is not None:
        return _fitting(lambda: _checked(query.vector, resources.settings))
    if query.mode is Mode.HYBRID:
        return stages.outside("embed", lambda: _embedded(resources, query))
    with stages.timed("embed"):
        return _fitting(lambda: _embedded(resources, query))


def _fitting(make: Callable[[], Vector]) -> Vector:
    try:
        return make()
    except DocumentError as error:
        hint = "try again, or search by keywords" if isinstance(error, TransientError) else ""
        raise IngestError(f"the query cannot be searched for: {error.message}", hint) from None
    except IngestError:
        raise
    except Exception as error:
        log.exception("model.failed")  # what it says is for us: it may hold addresses and keys
        said = f"the query could not be embedded: {type(error).__name__}"
        raise IngestError(said, "try again, or search by keywords") from None


def _embedded(resources: Resources, query: Query) -> Vector:
    found = resources.embed_query(query.tenant, query.text or "")
    if found is None:
        raise IngestError(
            "EMBEDDING_PROVIDER is none: texts have no vectors", "give a vector, or search by keyword"
        )
    return _checked(found, resources.settings)


def _checked(vector: Any, settings: Settings) -> Vector:
    try:
        rows = checked(
            [vector], count=1, dimension=settings.embedding_dimension, column_type=settings.embedding_type
        )
    except OverflowError:
        raise DocumentError("vector_not_finite", "a number is too large") from None
    row: Vector = rows[0]
    return row
