"""Workers, operators and chores in any order, beside producers: each rule is one call, or a worker's step.

What each may do to documents is said beside it, and checked with all else by `watched.py`. Only the
database's clock is moved: leases run out, pauses of a document pass, retentions end. When a run is over, all
is worked off: whatever came before, each document must end as what was handed in last says.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import rule
from sqlalchemy import text

from tests.integration.interleaving.actors import Order, Worker, vector
from tests.integration.interleaving.ledger import UNDER_WAY, rows
from tests.integration.interleaving.producers import CANCELLED, DONE, PICK, Producers
from tests.integration.interleaving.watched import NOTHING, SCOPES, when
from worker import cancel_batch, pause, resume
from worker.db import batches
from worker.db.batches import Lease
from worker.db.engine import transaction
from worker.dispatch import dispatch
from worker.errors import LeaseLostError
from worker.ingest import ingest_batch
from worker.maintenance.reconcile import examine
from worker.maintenance.run import run_chore
from worker.types import Lane

CLAIMED = frozenset({("pending", "processing")})
WRITTEN = frozenset(("processing", status) for status in (*DONE, "pending"))
RESCUED = frozenset({("processing", "pending"), ("processing", "failed")})
HANDED_BACK = frozenset({("processing", "pending")})

TARGETS: Sequence[dict[str, Any]] = (
    {"tenant": "one"},
    {"tenant": "one", "project": "p"},
    {"lane": Lane.BULK},
    {"everything": True},
)
MOST_WORKERS = 3
ORDER = st.sampled_from((Order.STEP, Order.STEP, Order.END, Order.END, Order.STOP, Order.DIE))


class Interleaving(Producers):
    """All rules, and the end."""

    # -- workers --------------------------------------------------------------------------------------

    @rule(pick=PICK)
    @when(lambda self: len(self.workers) < MOST_WORKERS and self.state.in_state("queued"))
    def claim(self, pick: int) -> None:
        self._claim(pick)

    def _claim(self, pick: int) -> Worker:
        queued = self.state.in_state("queued")
        worker = Worker(self.mine, queued[pick % len(queued)].batch_id)
        with self.step(CLAIMED, lambda doc: doc.batch_id == worker.batch_id):
            worker.claim()
        batch = self.state.batches[worker.batch_id]
        worker.token = batch.token
        if worker.over:
            assert (worker.outcome, batch.state) == ({}, "finished")  # nothing of it is left
        else:
            assert batch.state == "running"
            self.workers.append(worker)
        return worker

    @rule(pick=PICK)
    @when(lambda self: self.workers)
    def finish(self, pick: int) -> None:
        self.go_on(pick, Order.END)

    @rule(pick=PICK, order=ORDER)
    @when(lambda self: self.workers)
    def go_on(self, pick: int, order: Order) -> None:
        worker = self.workers[pick % len(self.workers)]
        held, before = self.has_lease(worker), rows(self.state)
        with self.step(WRITTEN if held else NOTHING, lambda doc: doc.batch_id == worker.batch_id):
            worker.go_on(order)
        if worker.over:
            self.workers.remove(worker)
        if worker.over and held and order is not Order.DIE:
            assert isinstance(worker.outcome, dict), worker.outcome
            assert self.state.batches[worker.batch_id].state == "finished"
            return
        assert rows(self.state) == before, "nothing is written but in the end, and under the lease"
        assert not worker.over or (worker.killed if order is Order.DIE else worker.lost), worker.outcome

    @rule(pick=PICK)
    @when(lambda self: self.state.in_state("queued"))
    def process(self, pick: int) -> None:
        if len(self.workers) < MOST_WORKERS and not (worker := self._claim(pick)).over:
            self.go_on(self.workers.index(worker), Order.END)

    @rule(pick=PICK)
    @when(lambda self: self.state.batches)
    def a_message_comes_again(self, pick: int) -> None:
        claimed = self.state.in_state("running", "finished", "abandoned", "cancelled")
        before = rows(self.state)
        with self.step():
            for batch in claimed[pick : pick + 1]:
                assert ingest_batch(self.mine, batch.batch_id, "again") is None
        assert rows(self.state) == before

    @rule(pick=PICK)
    @when(lambda self: self.workers)
    def renew(self, pick: int) -> None:
        worker = self.workers[pick % len(self.workers)]
        assert worker.token
        held, before = self.has_lease(worker), rows(self.state)
        lease = Lease(worker.batch_id, worker.token, UUID(int=0), Lane.BULK)
        with self.step():
            try:
                with transaction(self.mine.engine) as connection:
                    batches.renew(connection, lease, 0, None, self.mine.settings.lease_seconds)
            except LeaseLostError:
                assert not held
            else:
                assert held
        assert rows(self.state) == before
        assert not held or not self.state.batches[worker.batch_id].expired

    # -- time, and what others do ---------------------------------------------------------------------

    @rule(pick=PICK)
    @when(lambda self: self.state.in_state("running"))
    def a_lease_runs_out(self, pick: int) -> None:
        running = self.state.in_state("running")
        with self.step():
            self.tell(
                "UPDATE batches SET lease_expires_at = now() - interval '1 second' WHERE batch_id = :id",
                id=running[pick % len(running)].batch_id,
            )

    @rule(late=st.booleans())
    def rescue(self, late: bool) -> None:
        """Rescue; `late`: of all leases, none was renewed in time."""
        for number in range(len(self.state.in_state("running")) if late else 0):
            self.a_lease_runs_out(number)
        expired = {batch.batch_id for batch in self.state.in_state("running") if batch.expired}
        held = [doc for doc in self.state.documents.values() if doc.batch_id in expired]
        with self.step(RESCUED, lambda doc: doc.batch_id in expired):
            run_chore(self.mine, "rescue")
        assert {batch.state for one, batch in self.state.batches.items() if one in expired} <= {"abandoned"}
        for was in held:
            doc = self.state.documents[was.document_id]
            used_up = was.newest and was.attempts == self.mine.settings.max_attempts
            assert (doc.status, doc.isolated or used_up) == ("failed" if used_up else "pending", True), doc

    @rule()
    def time_passes(self) -> None:
        with self.step():
            self.tell("UPDATE documents SET queued_at = now() WHERE queued_at > now()")
            dispatch(self.mine)

    @rule(what=st.sampled_from(TARGETS))
    def pause(self, what: dict[str, Any]) -> None:
        one = (what.get("tenant"), what.get("project"), what.get("lane"))
        with self.step():
            assert pause(**what) == (one not in self.pauses)
            self.pauses.add(one)

    @rule(what=st.sampled_from(TARGETS))
    @when(lambda self: self.pauses)
    def resume(self, what: dict[str, Any]) -> None:
        one = (what.get("tenant"), what.get("project"), what.get("lane"))
        with self.step():
            known = one in self.pauses
            self.pauses.discard(one)
            assert resume(**what) == known

    @rule(pick=PICK, requeue=st.booleans())
    @when(lambda self: self.state.in_state(*UNDER_WAY))
    def cancel_batch(self, pick: int, requeue: bool) -> None:
        under_way = self.state.in_state(*UNDER_WAY)
        batch_id = under_way[pick % len(under_way)].batch_id
        with self.step(HANDED_BACK if requeue else CANCELLED | HANDED_BACK, lambda d: d.batch_id == batch_id):
            cancel_batch(batch_id, requeue=requeue)
        assert self.state.batches[batch_id].state == "cancelled"

    @rule()
    @when(lambda self: self._deleted())
    def purge(self) -> None:
        with self.step():
            self.tell("UPDATE documents SET deleted_at = deleted_at - interval '31 days'")
            self.tell("UPDATE batches SET finished_at = finished_at - interval '31 days'")
            run_chore(self.mine, "purge")
        assert not self._deleted()

    @rule(away=st.booleans())
    @when(lambda self: self.workers)
    def the_provider(self, away: bool) -> None:
        self.model.away = away

    @rule(chore=st.sampled_from(("seal", "compact")))
    @when(lambda self: len(self.state.documents) > MOST_WORKERS)
    def tidy(self, chore: str) -> None:
        if chore == "seal":  # it dispatches, and finds nothing more to do then: all rows have room here
            with self.step():
                dispatch(self.mine)
        before = rows(self.state)
        with self.step():
            run_chore(self.mine, chore)
        assert rows(self.state) == before

    # -- the end --------------------------------------------------------------------------------------

    def teardown(self) -> None:
        """Kill who stands; then nothing is in the way of anything, and all ends as it should."""
        if not self.sound:
            for worker in self.workers:
                worker.go_on(Order.DIE)
            return
        while self.workers:
            self.go_on(0, Order.DIE)
        self.model.away = False
        for what in TARGETS:
            self.resume(what)
        self._work_off()
        for scope in SCOPES:
            self.retry(scope, None)
        self._work_off()
        for doc in self.state.live():
            ends = self.wanted[doc.document_id].ends
            lost = doc.path in self.files and not Path(doc.path).exists()
            assert doc.status in ends | ({"failed"} if lost else set()), doc
        self._check_all()

    def _work_off(self) -> None:
        for _ in range(50):
            if not [doc for doc in self.state.live() if doc.status in {"pending", "processing"}]:
                return
            self.rescue(late=True)
            self.time_passes()
            while self.state.in_state("queued"):
                self.process(0)
        pytest.fail(f"these never end: {self.state.live()}")

    def _check_all(self) -> None:
        """What the product itself finds wrong, and whether each chunk has the vector of its text."""
        assert examine(self.mine, None, lambda _count: None)["found"] == {}
        with transaction(self.mine.engine) as connection:
            found = connection.execute(text("SELECT text, CAST(embedding AS real[]) AS vector FROM chunks"))
            for row in found:
                assert row.vector == vector(row.text).tolist(), row.text
