"""Answer a search: embed the query, find the nearest chunks of one tenant."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from worker.db import nearest
from worker.db.engine import transaction
from worker.db.submissions import find_scope
from worker.errors import DocumentError, IngestError
from worker.resources import Resources
from worker.steps.storable import storable
from worker.steps.vectors import Matrix, checked
from worker.types import Hit

MOST_RESULTS = 1000
LONGEST_QUERY = 20_000


def search(
    resources: Resources,
    query: str,
    *,
    tenant: str,
    project: str | None = None,
    k: int = 10,
    vector: Sequence[float] | None = None,
) -> list[Hit]:
    """Give the k chunks nearest to a query text, or to a vector, nearest first.

    Limited to a tenant, and to a project where one is named. Raises IngestError for a query that
    cannot be answered: no text, k out of range, unknown tenant or project, a vector that does not fit.
    """
    if not 1 <= k <= MOST_RESULTS:
        raise IngestError(f"k is {k}; it must be between 1 and {MOST_RESULTS}")
    wanted = _query_vector(resources, query, vector)
    settings = resources.settings
    engine = resources.search_engine.execution_options(isolation_level="REPEATABLE READ")
    with transaction(engine, settings.search_timeout_seconds) as connection:
        scope = find_scope(connection, storable(tenant), None if project is None else storable(project))
        if scope is None:
            what = f"tenant {tenant!r}" + (f" with a project {project!r}" if project else "")
            raise IngestError(f"there is no {what}", "`ingest status` lists what there is")
        return nearest.nearest(
            connection,
            [float(number) for number in wanted],
            tenant_id=scope.tenant_id,
            project_id=scope.project_id,
            any_project=project is None,
            k=k,
            column_type=settings.embedding_type,
            ef_search=max(settings.hnsw_ef_search, min(k, 1000)),
        )


def _query_vector(resources: Resources, query: str, vector: Sequence[float] | None) -> NDArray[np.floating]:
    settings = resources.settings
    try:
        found = _embedded(resources, query) if vector is None else [vector]
        row: NDArray[np.floating] = checked(
            found, count=1, dimension=settings.embedding_dimension, column_type=settings.embedding_type
        )[0]
    except (DocumentError, OverflowError) as error:
        said = error.message if isinstance(error, DocumentError) else "a number is too large"
        raise IngestError(f"the query cannot be searched for: {said}") from None
    return row


def _embedded(resources: Resources, query: str) -> Matrix:
    text = storable(query).strip()
    if not text:
        raise IngestError("the query is empty", "give some words to look for")
    if len(text) > LONGEST_QUERY:
        said = f"the query has {len(text):,} characters; {LONGEST_QUERY:,} are allowed"
        raise IngestError(said, "give the words that matter")
    vectors = resources.embedder.embed([text])
    if vectors is None:
        raise IngestError("EMBEDDING_PROVIDER is none: texts cannot be embedded", "give a query vector")
    return vectors
