"""A database that is looked at after each step: against what was there before, and what was handed in.

`ledger.py` says what must hold of the rows. This holds them against the contents, the pauses and the leases.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Protocol
from uuid import UUID

from hypothesis.stateful import RuleBasedStateMachine
from sqlalchemy import text

from tests.integration.interleaving import ledger
from tests.integration.interleaving.actors import STORM, Model, Worker
from tests.integration.interleaving.ledger import Doc, Move, State
from worker.db.engine import transaction
from worker.resources import Resources
from worker.submitting import named_scope
from worker.types import Lane

Scope = tuple[str, str | None]

SCOPES: tuple[Scope, ...] = (("one", None), ("one", "p"), ("two", None))
FILE = "f.txt"  # the others are handed over as texts
MOST_QUEUED = 2  # no worker has said how many slots it has: one, and one message ahead

NOTHING: frozenset[Move] = frozenset()
RELEASED = frozenset({("duplicate", "pending")})
EMPTIED = frozenset(
    {("queued", "finished")}
)  # all it had was taken from it: it is claimed, and finished at once


class World(Protocol):
    """An empty database, an empty broker and an empty folder at each call."""

    def __call__(self) -> tuple[Resources, Path]:
        """Make them."""
        ...


class Wanted(NamedTuple):
    """What a document is to be: its text, and how it may end once nothing is in its way."""

    text: str
    ends: frozenset[str]


def wanted(content: str, *, loaded: bool = False) -> Wanted:
    if not content.strip():
        return Wanted("", frozenset({"skipped"}))
    fails = STORM in content and not loaded
    return Wanted(content, frozenset({"failed"} if fails else {"completed", "duplicate"}))


def nobody(_doc: Doc) -> bool:
    return False


def when(condition: Callable[[Any], Any]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Have a rule do nothing where there is nothing to do.

    No `precondition`: which rule is drawn must not depend on what is stored. Of documents that became ready
    in one transaction any may come first, and Hypothesis, which goes the same way again, would call it flaky.
    """

    def conditional(do: Callable[..., None]) -> Callable[..., None]:
        @wraps(do)
        def run(self: Any, *drawn: Any, **named: Any) -> None:
            if condition(self):
                do(self, *drawn, **named)

        return run

    return conditional


class Watched(RuleBasedStateMachine):
    """`workers` stand with what they hold; `wanted` is what was handed in last, by document."""

    world: ClassVar[World]

    def __init__(self) -> None:
        super().__init__()
        self.mine, self.folder = self.world()
        self.model = Model()
        self.mine.__dict__["embedder"] = self.model
        self.workers: list[Worker] = []
        self.wanted: dict[UUID, Wanted] = {}
        self.files: dict[str, str] = {}  # what was written into each, lost or not
        self.moment = 0
        self.pauses: set[tuple[str | None, str | None, Lane | None]] = set()
        self.state = State({}, {})
        self.sound = True
        for scope in SCOPES:
            named_scope(*scope)

    @contextmanager
    def step(
        self,
        allowed: frozenset[Move] = NOTHING,
        of: Callable[[Doc], bool] = nobody,
        *,
        restored: UUID | None = None,
        in_one: bool = False,
    ) -> Iterator[None]:
        """Do something, and check what came of it: who it is done to moves as `allowed`, others are released.

        `in_one`: in one transaction a document goes several ways of the drawings.
        """
        before = self.state
        self.sound = False
        yield
        with transaction(self.mine.engine) as connection:
            self.state = ledger.read(connection)
        ledger.check(self.state, self.mine.settings.max_attempts)
        for one, move in ledger.moves(before.documents, self.state.documents, "status").items():
            doc = before.documents.get(one) or self.state.documents[one]
            assert move in (allowed if of(doc) else RELEASED) | RELEASED, (move, doc)
            assert in_one or move in ledger.OF_DOCUMENTS, (move, doc)
        for move in ledger.moves(before.batches, self.state.batches, "state").values():
            assert in_one or move in ledger.OF_BATCHES | EMPTIED, move
        ledger.check_chunks(before, self.state, restored)
        self._check_dispatch(before)
        self._check_contents()
        pool: Any = self.mine.engine.pool
        assert pool.checkedout() == 0, "a worker that stands holds no connection"
        self.sound = True

    def _check_dispatch(self, before: State) -> None:
        for lane in Lane:
            assert len([one for one in self.state.in_state("queued") if one.lane == lane]) <= MOST_QUEUED
        for one, doc in self.state.documents.items():
            was = before.documents.get(one)
            taken = doc.batch_id and (was is None or was.batch_id != doc.batch_id)
            claimed = doc.status == "processing" and (was is None or was.status != "processing")
            assert not ((taken or claimed) and self.is_paused(doc.tenant, doc.project, doc.lane)), doc

    def _check_contents(self) -> None:
        self.wanted = {one: self.wanted[one] for one in self.state.documents}
        for one, doc in self.state.documents.items():
            if doc.path in self.files and not doc.deleted and doc.status in {"pending", "processing"}:
                self.wanted[one] = wanted(self.files[doc.path])  # it is read when it is processed
            content = self.wanted[one].text
            if doc.status in {"completed", "skipped"}:
                assert doc.stored == content, (doc, content)
            if doc.duplicate_of and not doc.deleted:
                owner = self.state.documents[doc.duplicate_of]
                assert not owner.owns or owner.content != doc.content or owner.stored == content, (doc, owner)

    def is_paused(self, tenant: str, project: str | None, lane: str) -> bool:
        return any(
            one in (None, tenant) and other in (None, project) and which in (None, lane)
            for one, other, which in self.pauses
        )

    def path_of(self, scope: Scope, name: str) -> str:
        return str(self.folder / "-".join(map(str, scope)) / name) if name == FILE else name

    def live(self, scope: Scope, name: str) -> Doc | None:
        """The document that has a path now."""
        key = (*scope, self.path_of(scope, name))
        return next((doc for doc in self.state.live() if doc.key == key), None)

    def has_lease(self, worker: Worker) -> bool:
        batch = self.state.batches.get(worker.batch_id)
        return batch is not None and batch.token == worker.token

    def tell(self, statement: str, **parameters: Any) -> None:
        """Move the database's clock: what is written beside the product is a time, and nothing else."""
        with transaction(self.mine.engine) as connection:
            connection.execute(text(statement), parameters)
