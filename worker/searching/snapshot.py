"""What one search sees: a tenant's segments as of one moment, and what its filter lets through."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Concatenate, ParamSpec, TypeVar
from uuid import UUID

from sqlalchemy import Connection

from worker.db import filters, keyword, likeness, segments, tenants
from worker.db.nearest import EXACT_CHUNKS, most_counted
from worker.queries import Query
from worker.settings import Settings

P = ParamSpec("P")
T = TypeVar("T")


class Snapshot:
    """A REPEATABLE READ transaction bound to a tenant, and what it sees.

    The list of segments and their rows are of one snapshot: else a chunk that moves between segments would
    be seen twice or never.
    """

    def __init__(self, connection: Connection, query: Query, settings: Settings) -> None:
        """Look at what there is. Raises IngestError for a tenant or a project that there is not."""
        self.tenant_id = tenants.enter(connection, query.tenant)
        self.connection, self.settings = connection, settings
        self.seen = segments.seen(connection)
        self.visible: Sequence[int] = self.seen.all
        self.corpus = self.ask(keyword.corpus)
        reach = filters.resolve(
            connection,
            self.tenant_id,
            query.filter,
            projects=self._projects(query),
            tenant_chunks=self.corpus.chunks,
            most=most_counted(self.seen, query.metric, settings),
        )
        self._limited = reach.documents is not None or bool(reach.of_chunks)
        self.reach = replace(reach, sealed=sum(map(self.corpus.by_segment.__getitem__, self.seen.sealed)))

        if query.like is not None:
            named = likeness.named(connection, self.tenant_id, query.like, seen=self.seen)
            self.reach = self.reach.without(named.chunks, named.documents)

    def _projects(self, query: Query) -> list[UUID] | None:
        if query.projects is None:
            return None
        return filters.projects_named(self.connection, self.tenant_id, query.projects)

    def ask(
        self,
        question: Callable[Concatenate[Connection, UUID, Sequence[int], P], T],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> T:
        """Ask something about what this tenant has in these segments."""
        return question(self.connection, self.tenant_id, self.visible, *args, **kwargs)

    def numbers_within(self) -> Sequence[int] | None:
        """Give the numbers that the filter lets through, where they are known to be few."""
        if not self._limited or not self.reach.counted or self.reach.chunks > EXACT_CHUNKS:
            return None
        return filters.numbers_within(self.connection, self.reach, self.seen)

    def documents_of(self, numbers: Sequence[int]) -> dict[int, UUID]:
        """Give the documents of those numbers that are chunks still and pass the filter."""
        return filters.documents_of(self.connection, self.reach, self.seen, numbers)
